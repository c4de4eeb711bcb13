"""The leg of recorded turns and its answers: what the bridge is given, what callers are told, what is kept and for how long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentfield.errors import AgentFieldError, LimitExceeded, ProviderError, Unavailable
from agentfield.ids import new_id
from agentfield.plugins import Registry
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import CallerAudio, CallerCommit, CallerGone, CallerInput, CallerLeg
from agentfield_server.bus import Bus
from agentfield_server.sessions import turnleg
from agentfield_server.sessions.turndesk import TurnDesk
from agentfield_server.sessions.turnleg import MAX_OPEN, TurnLeg
from agentfield_server.sessions.turntape import Message, TurnTape, live_message
from agentfield_server.store.records import IdempotencyKey, NewEvent, NewExecution, NewSession, SessionRow
from agentfield_server.store.sqlite import SqliteStore
from unit.turns_kit import AUDIO, Kiosk, tone
from unit.waiting import until

KEY = IdempotencyKey(principal="operator", route="turns", target="ses_1", key="one", body_digest=b"1" * 32)


class Line:
    """Stands in for the sessions: carries a leg as the bridge does, and plays what the test says."""

    def __init__(self) -> None:
        self.heard: list[CallerInput] = []
        self.leg: CallerLeg | None = None
        self.refuse: AgentFieldError | None = None
        self.hold = False
        self.over = asyncio.Event()

    async def connect(self, session_id: str, leg: CallerLeg) -> str:
        if self.refuse is not None:
            raise self.refuse
        self.leg = leg
        listening = asyncio.create_task(self._listen(leg))
        try:
            await self.over.wait()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        return "closed"

    async def _listen(self, leg: CallerLeg) -> None:
        async for heard in leg.input():
            self.heard.append(heard)

    def formats(self, session_id: str) -> Sequence[AudioFormat]:
        return (AudioFormat("pcmu", 8000), AUDIO)


class Room:
    """A session in a store, and a desk for it."""

    def __init__(self, store: SqliteStore, bus: Bus, desk: TurnDesk, line: Line, row: SessionRow) -> None:
        self.store, self.bus, self.desk, self.line, self.row = store, bus, desk, line, row

    async def post(self, item: str, key: IdempotencyKey | None = None, samples: bytes = b"\1\0" * 100) -> TurnTape:
        return self.desk.post(await self.desk.leg(self.row), item, samples, key)

    async def record(self, kind: str, execution_id: str | None = None, /, **body: Any) -> None:
        event = NewEvent(type=kind, body=body, execution_id=execution_id)
        await self.store.append_events(self.row.run_id, [event], session_id=self.row.id)

    async def answered(self, item: str) -> None:
        """Let a turn be taken, and its execution end."""
        turn_id = f"exe_{item}"
        await self.record("turn.committed", turn_id=turn_id, item=item, text="hi", text_missing=None)
        await self.record("execution.ended", turn_id, kind="turn", target="desk.voice", status="succeeded")


@asynccontextmanager
async def room(folder: Path, *, kept: float = 60.0) -> AsyncIterator[Room]:
    bus, line = Bus(), Line()
    clock = iter(range(1, 10_000_000))

    def publish(rows: list[Any]) -> None:
        for row in rows:
            bus.publish(f"run:{row.run_id}", [row])

    store = SqliteStore(folder / "agentfield.db", on_commit=publish, clock=lambda: 1.7e9 + next(clock))
    await store.open()
    desk = TurnDesk(line, store, bus, Registry.of([Kiosk()]), kept=kept)
    try:
        yield Room(store, bus, desk, line, await _session(store))
    finally:
        await desk.close()
        await store.close()


async def _session(store: SqliteStore) -> SessionRow:
    run_id = new_id("run")
    declared = {"provider": "kiosk", "transport": "audio_turns"}
    session = NewSession(
        id="ses_1",
        run_id=run_id,
        target="desk.voice",
        node_id="desk",
        caller=None,
        metadata={},
        config={"declaration": declared},
        declaration_hash="u",
        principal="operator",
    )
    root = NewExecution(
        id=new_id("exe"), run_id=run_id, kind="session", target="desk.voice", input={}, status="running"
    )
    row, _ = await store.create_session(session, root, owner="node_1")
    return row


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Room]:
    """A session that takes turns."""
    async with room(tmp_path) as made:
        yield made


async def read(tape: TurnTape) -> list[Message]:
    return [message async for message in tape.read()]


def told(messages: Sequence[Message]) -> list[str]:
    return [json.loads(m.data)["type"] if m.event == "live" else m.event for m in messages]


# --- the leg


async def test_a_turn_is_given_to_the_bridge_piece_by_piece_and_then_committed(it: Room) -> None:
    """The whole recording arrives in order, in pieces of a second, followed by its commit with the turn's name."""
    samples = tone(2.5)
    await it.post("item-1", samples=samples)
    await it.post("item-2", samples=b"\1\0")
    await until(lambda: CallerCommit("item-2") in it.line.heard)
    first = it.line.heard.index(CallerCommit("item-1"))
    pieces = [heard.data for heard in it.line.heard[:first] if isinstance(heard, CallerAudio)]
    assert b"".join(pieces) == samples
    assert max(len(piece) for piece in pieces) <= 48_000
    assert it.line.heard[first + 1 :] == [CallerAudio(b"\1\0"), CallerCommit("item-2")]


async def test_one_leg_serves_all_turns_in_the_provider_s_samples(it: Room) -> None:
    """Requests share the session's one leg; its format is the first of the provider's that holds 16-bit samples."""
    legs = await asyncio.gather(it.desk.leg(it.row), it.desk.leg(it.row))
    assert legs[0] is legs[1] is it.line.leg
    assert (legs[0].format, legs[0].marks, legs[0].paced) == (AUDIO, False, False)


async def test_somebody_listens_while_a_turn_waits_or_the_stream_is_open(it: Room) -> None:
    """A turn under way, with a reader or a key, is a listener; so is a reader of events with audio; nobody else."""
    leg = await it.desk.leg(it.row)
    heard = [leg.listening]
    with it.desk.listening(it.row):
        heard.append(leg.listening)
    heard.append(leg.listening)
    await it.post("item-1")
    heard.append(leg.listening)
    assert heard == [False, True, False, True]
    await it.answered("item-1")
    await until(lambda: not leg.listening)


async def test_a_reader_that_left_a_turn_without_a_key_is_no_listener(it: Room) -> None:
    """Nobody can come back to a turn without a key; with one somebody may."""
    leg = await it.desk.leg(it.row)
    for key, listens in ((None, False), (KEY, True)):
        tape = await it.post(f"item-{key is None}", key)
        reader = tape.read()
        assert (await anext(reader)).event == "turn"
        assert leg.listening
        await reader.aclose()
        assert leg.listening is listens


async def test_audio_goes_to_the_newest_turn_and_to_who_follows(it: Room) -> None:
    """What is played is in the newest answer and in the event stream; clearing tells both to stop playing."""
    old, new = await it.post("item-1"), await it.post("item-2")
    assert it.line.leg is not None
    with it.desk.listening(it.row) as sounds:
        await it.line.leg.play("r1", b"\1\0" * 40_000)
        await it.line.leg.clear()
        await it.answered("item-1")
        await it.answered("item-2")
        assert "reply.audio" not in told(await read(old))
        sounded = [kind for kind in told(await read(new)) if kind in ("reply.audio", "playout.cleared")]
        assert sounded == ["reply.audio", "reply.audio", "playout.cleared"]
        followed = [json.loads(str(await anext(sounds)))["type"] for _ in range(3)]
        assert followed == sounded


async def test_live_events_before_the_end_belong_to_the_answer(it: Room) -> None:
    """Nothing that was told before the turn's execution ended is missing from its answer."""
    tape = await it.post("item-1")
    await it.record("turn.committed", turn_id="exe_1", item="item-1", text="hi", text_missing=None)
    for number in range(50):
        it.bus.publish("live:ses_1", {"type": "reply.transcript", "text": str(number)})
    await it.record("execution.ended", "exe_1", kind="turn", target="desk.voice", status="succeeded")
    kinds = told(await read(tape))
    assert kinds.count("reply.transcript") == 50
    assert kinds[-1] == "execution.ended"


async def test_other_turns_do_not_end_an_answer(it: Room) -> None:
    """An answer ends with its own turn, its own discard or the session, whatever else ends meanwhile."""
    tape = await it.post("item-2")
    await it.answered("item-1")
    await it.record("turn.discarded", item="item-3", why="empty")
    await it.record("execution.ended", "exe_x", kind="tool", target="desk.price", status="succeeded")
    await until(lambda: len(tape._messages) == 5)
    assert not tape.closed
    await it.record("turn.discarded", item="item-2", why="empty")
    assert told(await read(tape))[-1] == "turn.discarded"


async def test_a_turn_whose_execution_ended_before_its_commit_was_told_is_over(it: Room) -> None:
    """The order of the two does not matter."""
    tape = await it.post("item-1")
    await it.record("execution.ended", "exe_1", kind="turn", target="desk.voice", status="succeeded")
    await it.record("turn.committed", turn_id="exe_1", item="item-1", text="hi", text_missing=None)
    assert told(await read(tape))[-1] == "turn.committed"


async def test_what_was_recorded_is_not_lost_when_too_much_happens_at_once(
    it: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leg that falls behind reads on from the store."""
    monkeypatch.setattr(turnleg, "_HINTS", 2)
    tape = await it.post("item-1")
    await it.record("handler.started", epoch=1, resumed=False)
    await until(lambda: len(tape._messages) == 2)
    events = [NewEvent(type="note", body={"n": n}) for n in range(5)]
    for event in events:  # published without a pause: more than may wait
        rows = await it.store.append_events(it.row.run_id, [event], session_id=it.row.id)
        for _ in range(3):
            it.bus.publish(f"run:{it.row.run_id}", rows)
    await it.answered("item-1")
    messages = await read(tape)
    seqs = [int(message.id) for message in messages if message.id]
    assert seqs == list(range(seqs[0], seqs[-1] + 1))
    assert told(messages)[-1] == "execution.ended"


async def test_there_is_a_most_of_turns_under_way(it: Room) -> None:
    """One turn too many is refused with when to come back."""
    for number in range(MAX_OPEN):
        await it.post(f"item-{number}")
    with pytest.raises(LimitExceeded) as caught:
        await it.post("item-more")
    assert (caught.value.code, caught.value.data["retry_after"]) == ("too_many_turns", 2)


async def test_a_provider_that_cannot_be_opened_refuses_each_turn(it: Room) -> None:
    """The refusal is the request's error; the next request tries again."""
    it.line.refuse = ProviderError("no", code="no_credits")
    for _ in range(2):
        with pytest.raises(ProviderError) as caught:
            await it.desk.leg(it.row)
        assert caught.value.code == "no_credits"
    it.line.refuse = None
    assert await it.desk.leg(it.row)


async def test_a_lost_session_is_told_in_the_answer(it: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a session is let go before a turn was answered, its answer ends with a problem."""
    monkeypatch.setattr("agentfield_server.sessions.turndesk._GOODBYE", 0.01)
    tape = await it.post("item-1", KEY)
    it.line.over.set()
    last = (await read(tape))[-1]
    assert last.event == "problem"
    assert json.loads(last.data)["code"] == "turn_interrupted"


async def test_the_end_of_the_session_reaches_the_answer_first(it: Room) -> None:
    """What is recorded at the end of a session is told before its answers end."""
    tape = await it.post("item-1")
    it.line.over.set()
    await it.record("session.state", state="ended", reason="operator")
    assert told(await read(tape))[-1] == "session.state"


async def test_a_turn_of_which_nothing_comes_is_given_up(it: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that says nothing about a turn does not keep its caller for ever."""
    monkeypatch.setattr(turnleg, "TAKEN_WAIT", 0.01)
    last = (await read(await it.post("item-1")))[-1]
    assert json.loads(last.data)["code"] == "turn_not_taken"


async def test_closing_the_leg_ends_its_input(it: Room) -> None:
    """A leg that is closed says that its caller is gone, and not that they hung up."""
    leg = await it.desk.leg(it.row)
    await leg.close()
    await until(lambda: it.line.heard)
    assert it.line.heard == [CallerGone("nobody sends turns any more", hung_up=False)]


async def test_closing_the_desk_leaves_nothing_behind(tmp_path: Path) -> None:
    """Every task is over, every answer has its end, nothing listens to the bus any more."""
    before = asyncio.all_tasks()
    async with room(tmp_path) as it:
        tape = await it.post("item-1", KEY)
    assert tape.closed
    assert it.bus._topics == {}
    assert asyncio.all_tasks() == before
    leg = it.line.leg
    assert isinstance(leg, TurnLeg)
    with pytest.raises(Unavailable):
        await leg.connected()


# --- what is kept


async def test_an_answer_is_kept_for_a_while_after_its_end(tmp_path: Path) -> None:
    """Who asks with the key finds the answer until its time is over."""
    async with room(tmp_path, kept=0.05) as it:
        tape = await it.post("item-1", KEY)
        await it.answered("item-1")
        await read(tape)
        assert it.desk.kept(KEY) is tape
        await until(lambda: it.desk.kept(KEY) is None)


async def test_only_the_last_answers_of_a_session_are_kept(it: Room) -> None:
    """A ninth answer takes the place of the oldest one."""
    keys = [replace(KEY, key=f"k{n}") for n in range(10)]
    for number, key in enumerate(keys):
        tape = await it.post(f"item-{number}", key)
        await it.answered(f"item-{number}")
        await read(tape)
    assert [it.desk.kept(key) is not None for key in keys] == [False] * 2 + [True] * 8


async def test_a_tape_forgets_audio_before_it_grows_too_large() -> None:
    """Beyond its limit the oldest live messages go, recorded ones stay, and a reader is told of the gap once."""
    tape = TurnTape("item-1", KEY, limit=4000)
    tape.add(Message("speech.started", "{}", "1"))
    for number in range(40):
        tape.add(live_message({"type": "reply.audio", "data": f"{number:0100d}"}))
    tape.add(Message("speech.ended", "{}", "2"))
    tape.close()
    messages = await read(tape)
    assert [message.event for message in messages if message.id] == ["speech.started", "speech.ended"]
    assert told(messages).count("warning") == 1
    assert 0 < told(messages).count("reply.audio") < 20
    assert sum(len(message.data) for message in messages) < 4000


async def test_each_reader_gets_the_whole_tape() -> None:
    """Readers that come early, late and after the end read the same."""
    tape = TurnTape("item-1")
    early = asyncio.create_task(read(tape))
    tape.add(live_message({"type": "a"}))
    await until(lambda: tape._readers)
    late = asyncio.create_task(read(tape))
    tape.add(live_message({"type": "b"}))
    tape.close()
    tape.add(live_message({"type": "c"}))
    assert told(await early) == told(await late) == told(await read(tape)) == ["turn", "a", "b"]


async def test_a_turn_from_before_a_restart_goes_on(it: Room) -> None:
    """Asked for again, a turn that is under way is told from where it was taken, each event once, and then with its audio."""
    await it.record("execution.created", "exe_a", kind="turn", target="desk.voice", status="running")
    await it.record("turn.committed", turn_id="exe_a", item="a", text="hi", text_missing=None)
    leg = await it.desk.leg(it.row)  # what is recorded before and after the tape is there must not fall between the two
    await it.record("handler.started", epoch=2, resumed=True)
    messages = await it.desk.recorded(it.row, "a", KEY)
    assert messages is not None
    await leg.play("r1", b"\0\0")
    await it.record("execution.ended", "exe_a", kind="turn", target="desk.voice", status="succeeded")
    found = [message async for message in messages]
    assert told(found) == ["turn", "turn.committed", "handler.started", "reply.audio", "execution.ended"]
    kept = it.desk.kept(KEY)
    assert kept is not None
    assert await read(kept) == found


async def test_a_turn_from_before_a_restart_is_older_than_a_new_one(it: Room) -> None:
    """What is said belongs to the newest turn, in whatever order turns are asked for."""
    for item in ("a", "b"):
        name = f"exe_{item}"
        await it.record("turn.committed", name, turn_id=name, item=item, text="hi", text_missing=None)
    new = await it.post("c")
    leg = await it.desk.leg(it.row)
    taken = {
        event.execution_id or "": event.seq for event in await it.store.read_events(it.row.run_id, after=0, limit=9)
    }
    later, earlier = await leg.rejoin("b", taken["exe_b"]), await leg.rejoin("a", taken["exe_a"])
    await leg.play("r1", b"\0\0")
    await it.answered("c")
    await new.ended()
    await leg.play("r2", b"\0\0")
    for name in ("exe_a", "exe_b"):
        await it.record("execution.ended", name, kind="turn", target="desk.voice", status="succeeded")
    sounds = [told(await read(tape)).count("reply.audio") for tape in (new, later, earlier)]
    assert sounds == [1, 1, 0]
