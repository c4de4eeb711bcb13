"""Leg and replay buffers of recorded turns: input of the bridge, answers of requests, and how long answers are kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agentfield.errors import AgentFieldError, LimitExceeded, ProviderError, Unavailable
from agentfield.ids import new_id
from agentfield.plugins import Registry
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import CallerAudio, CallerCommit, CallerGone, CallerInput, CallerLeg
from agentfield_server.bus import Bus
from agentfield_server.sessions.recorded_turns import leg as leg_module
from agentfield_server.sessions.recorded_turns.leg import MAX_OPEN, RecordedTurnLeg
from agentfield_server.sessions.recorded_turns.replay_buffer import Message, ReplayBuffer, live_message
from agentfield_server.sessions.recorded_turns.service import RecordedTurnService
from agentfield_server.store.records import IdempotencyKey, NewEvent, NewExecution, NewSession, SessionRow
from agentfield_server.store.sqlite.store import SqliteStore
from support.audio import tone
from support.providers.scripted_turns import AUDIO, RecordedTurnsPlugin
from support.waiting import until

KEY = IdempotencyKey(principal="operator", route="turns", target="ses_1", key="one", body_digest=b"1" * 32)


class FakeSessionService:
    """A session service that reads a leg as the bridge does, and never plays audio by itself."""

    def __init__(self) -> None:
        self.received: list[CallerInput] = []
        self.leg: CallerLeg | None = None
        self.refuse: AgentFieldError | None = None
        self.over = asyncio.Event()

    async def connect(self, session_id: str, leg: CallerLeg) -> str:
        if self.refuse is not None:
            raise self.refuse
        self.leg = leg
        listening = asyncio.create_task(self._read_input(leg))
        try:
            await self.over.wait()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        return "closed"

    async def _read_input(self, leg: CallerLeg) -> None:
        async for item in leg.input():
            self.received.append(item)

    def formats(self, session_id: str) -> Sequence[AudioFormat]:
        return (AudioFormat("pcmu", 8000), AUDIO)


class TurnsHarness:
    """A service of recorded turns with a fake session service, and a session in a store."""

    def __init__(
        self, store: SqliteStore, bus: Bus, service: RecordedTurnService, sessions: FakeSessionService, row: SessionRow
    ) -> None:
        self.store, self.bus, self.service, self.sessions, self.row = store, bus, service, sessions, row

    async def post(self, item: str, key: IdempotencyKey | None = None, samples: bytes = b"\1\0" * 100) -> ReplayBuffer:
        return self.service.post(await self.service.leg(self.row), item, samples, key)

    async def record(self, kind: str, execution_id: str | None = None, /, **body: Any) -> None:
        event = NewEvent(type=kind, body=body, execution_id=execution_id)
        await self.store.append_events(self.row.run_id, [event], session_id=self.row.id)

    async def answered(self, item: str) -> None:
        """Record that a turn was committed and that its execution ended."""
        turn_id = f"exe_{item}"
        await self.record("turn.committed", turn_id=turn_id, item=item, text="hi", text_missing=None)
        await self.record("execution.ended", turn_id, kind="turn", target="shop.voice", status="succeeded")


@asynccontextmanager
async def turns_harness(folder: Path, *, keep_seconds: float = 60.0) -> AsyncIterator[TurnsHarness]:
    bus, sessions = Bus(), FakeSessionService()
    clock = iter(range(1, 10_000_000))

    def publish(rows: list[Any]) -> None:
        for row in rows:
            bus.publish(f"run:{row.run_id}", [row])

    store = SqliteStore(folder / "agentfield.db", on_commit=publish, clock=lambda: 1.7e9 + next(clock))
    await store.open()
    service = RecordedTurnService(sessions, store, bus, Registry.of([RecordedTurnsPlugin()]), keep_seconds=keep_seconds)
    try:
        yield TurnsHarness(store, bus, service, sessions, await _session(store))
    finally:
        await service.close()
        await store.close()


async def _session(store: SqliteStore) -> SessionRow:
    run_id = new_id("run")
    declared = {"provider": "kiosk", "transport": "audio_turns"}
    session = NewSession(
        id="ses_1",
        run_id=run_id,
        target="shop.voice",
        node_id="shop",
        caller=None,
        metadata={},
        config={"declaration": declared},
        declaration_hash="u",
        principal="operator",
    )
    root = NewExecution(
        id=new_id("exe"), run_id=run_id, kind="session", target="shop.voice", input={}, status="running"
    )
    row, _ = await store.create_session(session, root, owner="node_1")
    return row


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[TurnsHarness]:
    """A harness with a session that takes recorded turns."""
    async with turns_harness(tmp_path) as made:
        yield made


async def read(buffer: ReplayBuffer) -> list[Message]:
    return [message async for message in buffer.read()]


def kinds_of(messages: Sequence[Message]) -> list[str]:
    return [json.loads(m.data)["type"] if m.event == "live" else m.event for m in messages]


# --- the leg


async def test_a_turn_reaches_the_bridge_in_chunks_followed_by_its_commit(harness: TurnsHarness) -> None:
    """The whole recording arrives in order, in chunks of at most 48,000 bytes, followed by the commit with the name of the turn."""
    samples = tone(2500)
    await harness.post("item-1", samples=samples)
    await harness.post("item-2", samples=b"\1\0")
    await until(lambda: CallerCommit("item-2") in harness.sessions.received)
    first = harness.sessions.received.index(CallerCommit("item-1"))
    chunks = [item.data for item in harness.sessions.received[:first] if isinstance(item, CallerAudio)]
    assert b"".join(chunks) == samples
    assert max(len(chunk) for chunk in chunks) <= 48_000
    assert harness.sessions.received[first + 1 :] == [CallerAudio(b"\1\0"), CallerCommit("item-2")]


async def test_one_leg_serves_all_turns_in_the_provider_s_format(harness: TurnsHarness) -> None:
    """Requests share the session's one leg; its format is the first of the provider's that holds 16-bit samples."""
    legs = await asyncio.gather(harness.service.leg(harness.row), harness.service.leg(harness.row))
    assert legs[0] is legs[1] is harness.sessions.leg
    assert (legs[0].format, legs[0].marks, legs[0].paced) == (AUDIO, False, False)


async def test_an_open_turn_or_an_audio_stream_makes_the_leg_listen(harness: TurnsHarness) -> None:
    """An open turn with a reader or a key counts as a listener, and so does an event stream with audio."""
    leg = await harness.service.leg(harness.row)
    states = [leg.listening]
    with harness.service.follow_audio(harness.row):
        states.append(leg.listening)
    states.append(leg.listening)
    await harness.post("item-1")
    states.append(leg.listening)
    assert states == [False, True, False, True]
    await harness.answered("item-1")
    await until(lambda: not leg.listening)


async def test_a_turn_without_reader_and_key_is_no_listener(harness: TurnsHarness) -> None:
    """A turn without a key cannot be requested again; one with a key can."""
    leg = await harness.service.leg(harness.row)
    for key, listens in ((None, False), (KEY, True)):
        buffer = await harness.post(f"item-{key is None}", key)
        reader = buffer.read()
        assert (await anext(reader)).event == "turn"
        assert leg.listening
        await reader.aclose()
        assert leg.listening is listens


async def test_audio_reaches_the_newest_turn_and_the_followers(harness: TurnsHarness) -> None:
    """Audio is added to the newest answer and published to event streams; both get `playout.cleared`."""
    old, new = await harness.post("item-1"), await harness.post("item-2")
    assert harness.sessions.leg is not None
    with harness.service.follow_audio(harness.row) as audio:
        await harness.sessions.leg.play("r1", b"\1\0" * 40_000)
        await harness.sessions.leg.clear()
        await harness.answered("item-1")
        await harness.answered("item-2")
        assert "reply.audio" not in kinds_of(await read(old))
        sent = [kind for kind in kinds_of(await read(new)) if kind in ("reply.audio", "playout.cleared")]
        assert sent == ["reply.audio", "reply.audio", "playout.cleared"]
        followed = [json.loads(str(await anext(audio)))["type"] for _ in range(3)]
        assert followed == sent


async def test_live_events_before_the_end_belong_to_the_answer(harness: TurnsHarness) -> None:
    """Live events that were published before the end of the turn's execution are part of its answer."""
    buffer = await harness.post("item-1")
    await harness.record("turn.committed", turn_id="exe_1", item="item-1", text="hi", text_missing=None)
    for number in range(50):
        harness.bus.publish("live:ses_1", {"type": "reply.transcript", "text": str(number)})
    await harness.record("execution.ended", "exe_1", kind="turn", target="shop.voice", status="succeeded")
    kinds = kinds_of(await read(buffer))
    assert kinds.count("reply.transcript") == 50
    assert kinds[-1] == "execution.ended"


async def test_other_turns_do_not_end_an_answer(harness: TurnsHarness) -> None:
    """An answer ends with its own turn, its own discard or the session, not with other executions."""
    buffer = await harness.post("item-2")
    await harness.answered("item-1")
    await harness.record("turn.discarded", item="item-3", why="empty")
    await harness.record("execution.ended", "exe_x", kind="tool", target="shop.price", status="succeeded")
    await until(lambda: len(buffer._messages) == 5)
    assert not buffer.closed
    await harness.record("turn.discarded", item="item-2", why="empty")
    assert kinds_of(await read(buffer))[-1] == "turn.discarded"


async def test_a_turn_ends_if_its_execution_ended_before_its_commit(harness: TurnsHarness) -> None:
    """The order of the two events does not matter."""
    buffer = await harness.post("item-1")
    await harness.record("execution.ended", "exe_1", kind="turn", target="shop.voice", status="succeeded")
    await harness.record("turn.committed", turn_id="exe_1", item="item-1", text="hi", text_missing=None)
    assert kinds_of(await read(buffer))[-1] == "turn.committed"


async def test_recorded_events_survive_an_overflow_of_hints(
    harness: TurnsHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leg that lags reads the missed events from the store."""
    monkeypatch.setattr(leg_module, "_HINTS", 2)
    buffer = await harness.post("item-1")
    await harness.record("handler.started", epoch=1, resumed=False)
    await until(lambda: len(buffer._messages) == 2)
    events = [NewEvent(type="note", body={"n": n}) for n in range(5)]
    for event in events:  # published without a pause: more than the queue holds
        rows = await harness.store.append_events(harness.row.run_id, [event], session_id=harness.row.id)
        for _ in range(3):
            harness.bus.publish(f"run:{harness.row.run_id}", rows)
    await harness.answered("item-1")
    messages = await read(buffer)
    seqs = [int(message.id) for message in messages if message.id]
    assert seqs == list(range(seqs[0], seqs[-1] + 1))
    assert kinds_of(messages)[-1] == "execution.ended"


async def test_the_number_of_open_turns_is_limited(harness: TurnsHarness) -> None:
    """A turn beyond the limit is refused with a `retry_after`."""
    for number in range(MAX_OPEN):
        await harness.post(f"item-{number}")
    with pytest.raises(LimitExceeded) as caught:
        await harness.post("item-more")
    assert (caught.value.code, caught.value.data["retry_after"]) == ("too_many_turns", 2)


async def test_a_refused_connection_fails_each_request(harness: TurnsHarness) -> None:
    """The provider's refusal is the request's error; the next request connects again."""
    harness.sessions.refuse = ProviderError("no", code="no_credits")
    for _ in range(2):
        with pytest.raises(ProviderError) as caught:
            await harness.service.leg(harness.row)
        assert caught.value.code == "no_credits"
    harness.sessions.refuse = None
    assert await harness.service.leg(harness.row)


async def test_a_released_session_fails_its_open_answers(
    harness: TurnsHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a session is released before a turn was answered, the answer ends with a problem."""
    monkeypatch.setattr("agentfield_server.sessions.recorded_turns.service._DRAIN_WAIT", 0.01)
    buffer = await harness.post("item-1", KEY)
    harness.sessions.over.set()
    last = (await read(buffer))[-1]
    assert last.event == "problem"
    assert json.loads(last.data)["code"] == "turn_interrupted"


async def test_the_session_s_last_events_reach_the_answer(harness: TurnsHarness) -> None:
    """Events recorded at the end of a session are added before its answers are closed."""
    buffer = await harness.post("item-1")
    harness.sessions.over.set()
    await harness.record("session.state", state="ended", reason="operator")
    assert kinds_of(await read(buffer))[-1] == "session.state"


async def test_a_turn_that_is_never_committed_times_out(harness: TurnsHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that the session neither commits nor discards ends with the problem `turn_not_taken`."""
    monkeypatch.setattr(leg_module, "TAKEN_WAIT", 0.01)
    last = (await read(await harness.post("item-1")))[-1]
    assert json.loads(last.data)["code"] == "turn_not_taken"


async def test_closing_the_leg_ends_its_input(harness: TurnsHarness) -> None:
    """A closed leg reports that its caller disconnected, not that it hung up."""
    leg = await harness.service.leg(harness.row)
    await leg.close()
    await until(lambda: harness.sessions.received)
    assert harness.sessions.received == [CallerGone("the leg takes no more turns", hung_up=False)]


async def test_closing_the_service_releases_everything(tmp_path: Path) -> None:
    """Every task has ended, every answer is closed, and no bus subscription is left."""
    before = asyncio.all_tasks()
    async with turns_harness(tmp_path) as harness:
        buffer = await harness.post("item-1", KEY)
    assert buffer.closed
    assert harness.bus._topics == {}
    assert asyncio.all_tasks() == before
    leg = harness.sessions.leg
    assert isinstance(leg, RecordedTurnLeg)
    with pytest.raises(Unavailable):
        await leg.connected()


# --- kept answers


async def test_an_answer_is_kept_for_a_while_after_its_end(tmp_path: Path) -> None:
    """A repeated request finds the answer until `keep_seconds` after its end."""
    async with turns_harness(tmp_path, keep_seconds=0.05) as harness:
        buffer = await harness.post("item-1", KEY)
        await harness.answered("item-1")
        await read(buffer)
        assert harness.service.kept_buffer(KEY) is buffer
        await until(lambda: harness.service.kept_buffer(KEY) is None)


async def test_only_the_newest_answers_of_a_session_are_kept(harness: TurnsHarness) -> None:
    """The ninth answer evicts the oldest one."""
    keys = [replace(KEY, key=f"k{n}") for n in range(10)]
    for number, key in enumerate(keys):
        buffer = await harness.post(f"item-{number}", key)
        await harness.answered(f"item-{number}")
        await read(buffer)
    assert [harness.service.kept_buffer(key) is not None for key in keys] == [False] * 2 + [True] * 8


async def test_a_buffer_drops_audio_beyond_its_limit() -> None:
    """Beyond the limit the oldest live messages are dropped, recorded ones stay, and a reader gets one warning."""
    buffer = ReplayBuffer("item-1", KEY, limit=4000)
    buffer.add(Message("speech.started", "{}", "1"))
    for number in range(40):
        buffer.add(live_message({"type": "reply.audio", "data": f"{number:0100d}"}))
    buffer.add(Message("speech.ended", "{}", "2"))
    buffer.close()
    messages = await read(buffer)
    assert [message.event for message in messages if message.id] == ["speech.started", "speech.ended"]
    assert kinds_of(messages).count("warning") == 1
    assert 0 < kinds_of(messages).count("reply.audio") < 20
    assert sum(len(message.data) for message in messages) < 4000


async def test_each_reader_gets_the_whole_buffer() -> None:
    """Early, late and final readers read the same messages."""
    buffer = ReplayBuffer("item-1")
    early = asyncio.create_task(read(buffer))
    buffer.add(live_message({"type": "a"}))
    await until(lambda: buffer._readers)
    late = asyncio.create_task(read(buffer))
    buffer.add(live_message({"type": "b"}))
    buffer.close()
    buffer.add(live_message({"type": "c"}))
    assert kinds_of(await early) == kinds_of(await late) == kinds_of(await read(buffer)) == ["turn", "a", "b"]


async def test_a_turn_from_before_a_restart_continues(harness: TurnsHarness) -> None:
    """A repeated request of an open turn gets each event since its commit once, and then its audio."""
    await harness.record("execution.created", "exe_a", kind="turn", target="shop.voice", status="running")
    await harness.record("turn.committed", turn_id="exe_a", item="a", text="hi", text_missing=None)
    leg = await harness.service.leg(harness.row)  # events before and after the buffer exists: none may be missed
    await harness.record("handler.started", epoch=2, resumed=True)
    messages = await harness.service.replay_recorded(harness.row, "a", KEY)
    assert messages is not None
    await leg.play("r1", b"\0\0")
    await harness.record("execution.ended", "exe_a", kind="turn", target="shop.voice", status="succeeded")
    found = [message async for message in messages]
    assert kinds_of(found) == ["turn", "turn.committed", "handler.started", "reply.audio", "execution.ended"]
    again = harness.service.kept_buffer(KEY)
    assert again is not None
    assert await read(again) == found


async def test_a_turn_from_before_a_restart_is_older_than_a_new_one(harness: TurnsHarness) -> None:
    """Audio belongs to the newest turn, whatever the order of the requests."""
    for item in ("a", "b"):
        name = f"exe_{item}"
        await harness.record("turn.committed", name, turn_id=name, item=item, text="hi", text_missing=None)
    new = await harness.post("c")
    leg = await harness.service.leg(harness.row)
    taken = {
        event.execution_id or "": event.seq
        for event in await harness.store.read_events(harness.row.run_id, after=0, limit=9)
    }
    later, earlier = await leg.rejoin("b", taken["exe_b"]), await leg.rejoin("a", taken["exe_a"])
    await leg.play("r1", b"\0\0")
    await harness.answered("c")
    await new.ended()
    await leg.play("r2", b"\0\0")
    for name in ("exe_a", "exe_b"):
        await harness.record("execution.ended", name, kind="turn", target="shop.voice", status="succeeded")
    audio = [kinds_of(await read(buffer)).count("reply.audio") for buffer in (new, later, earlier)]
    assert audio == [1, 1, 0]
