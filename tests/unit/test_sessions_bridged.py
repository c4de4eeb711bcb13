"""Sessions whose audio the control plane carries: presence, rotation, restart, keys; with a scripted provider and a turned clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentfield.errors import Conflict, LimitExceeded, NotFound, ProviderUnavailable, SessionEnded
from agentfield.identity import NodeKey
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import CallerAudio, CallerGone, CallerText
from agentfield.realtime.commands import AddText, AppendAudio, End, Say
from agentfield.realtime.events import SessionClosed
from unit.bridge_kit import Leg
from unit.sessions_kit import Adapter, Node, Plane, plane, until, until_async


@pytest.fixture
def adapter() -> Adapter:
    """The provider's side."""
    return Adapter()


@pytest.fixture
async def here(tmp_path: Path, adapter: Adapter) -> AsyncIterator[Plane]:
    """A control plane's rooms with a node whose session runs over carried audio."""
    async with plane(tmp_path, adapter) as made:
        node = await linked(made, tmp_path)
        yield made
        await node.drop()


async def linked(made: Plane, folder: Path, transport: str = "websocket") -> Node:
    key = NodeKey.load_or_create(folder / "node.pem")
    return await Node(key, made.url, transport=transport).link()


async def live(made: Plane, leg: Leg | None = None) -> tuple[str, Leg, asyncio.Task[Any]]:
    session_id = await made.start()
    leg = leg or Leg()
    carried = asyncio.create_task(made.sessions.connect(session_id, leg))
    await made.state(session_id, "live")
    await until_async(lambda: made.recorded(session_id, "handler.started"))
    return session_id, leg, carried


async def test_connecting_opens_the_provider_in_the_callers_format(here: Plane, adapter: Adapter) -> None:
    """The first leg opens the provider's session, in its own format where the provider has it; the key's name is stored."""
    session_id, _, carried = await live(here, Leg(AudioFormat("pcmu", 8000)))
    assert adapter.opened[0][1].name == "pcmu/8000"
    assert (await here.row(session_id)).call_ref == {"credential": "key-1"}
    assert [f.name for f in here.sessions.formats(session_id)] == ["pcm16/24000", "pcmu/8000"]
    await here.sessions.end(session_id, "operator")
    assert await carried == "closed"
    assert adapter.opened[0][0].sent[-1] == End()
    assert session_id not in adapter.admitted


async def test_a_caller_that_stays_away_for_ten_seconds_has_hung_up(here: Plane) -> None:
    """A broken connection is waited for 10 s; then the session ends as a hang-up."""
    session_id, leg, carried = await live(here)
    leg.does(CallerGone("lost", hung_up=False))
    assert await carried == "gone"
    await until(lambda: "gone" in here.sessions._actors.get(session_id).machine.board.timers)
    here.clock.advance(9.9)
    assert (await here.row(session_id)).state == "live"
    here.clock.advance(0.2)
    assert (await here.state(session_id, "ended")).end_reason == "caller_hangup"


async def test_a_caller_that_comes_back_in_time_is_not_hung_up(here: Plane, adapter: Adapter) -> None:
    """Within 10 s the call goes on with the same session at the provider."""
    session_id, leg, carried = await live(here)
    leg.does(CallerGone("lost", hung_up=False))
    await carried
    again = Leg()
    back = asyncio.create_task(here.sessions.connect(session_id, again))
    again.does(CallerAudio(b"\0\0" * 480))
    await adapter.opened[0][0].asked(AppendAudio)
    here.clock.advance(15)
    assert (await here.row(session_id)).state == "live"
    assert len(adapter.opened) == 1
    again.does(CallerGone("bye"))
    assert await back == "gone"
    assert (await here.state(session_id, "ended")).end_reason == "caller_hangup"


async def test_a_page_that_only_watches_does_not_hold_the_call(here: Plane) -> None:
    """Where the audio passes through us, its connection tells who is there, not the stream of events."""
    session_id, leg, carried = await live(here)
    with here.sessions.caller_attached(session_id):
        pass
    here.clock.advance(11)
    assert (await here.row(session_id)).state == "live"
    leg.does(CallerGone("bye"))
    await carried


async def test_typed_words_become_a_turn(here: Plane, adapter: Adapter) -> None:
    """Words on the leg are added to the conversation."""
    session_id, leg, carried = await live(here)
    leg.does(CallerText("my order"))
    assert (await adapter.opened[0][0].asked(AddText)).text == "my order"
    await here.sessions.end(session_id, "operator")
    await carried


async def test_a_line_that_breaks_is_opened_again(here: Plane, adapter: Adapter) -> None:
    """A provider's connection that breaks is replaced by another one; the caller's leg stays, its audio is not lost."""
    session_id, leg, carried = await live(here)
    adapter.opened[0][0].caller_says("hello")
    await until(lambda: here.sessions._actors.get(session_id).machine.board.history)
    adapter.opened[0][0].tell(SessionClosed(reason="provider_error", message="broke", retry=True))
    second = await adapter.socket(2)
    assert "hello" in (await second.asked(AddText)).text
    leg.does(CallerAudio(b"\0\0" * 480))
    await second.asked(AppendAudio)
    assert not carried.done()
    await here.sessions.end(session_id, "operator")
    await carried


@pytest.mark.parametrize("how", ["a command is not taken", "the events end"])
async def test_a_line_that_breaks_without_a_word_is_opened_again(here: Plane, adapter: Adapter, how: str) -> None:
    """However it is noticed that the provider is gone, another session takes over and the caller's leg stays."""
    session_id, leg, carried = await live(here)
    first = adapter.opened[0][0]
    match how:
        case "a command is not taken":
            first.fault = ProviderUnavailable("the connection is gone")
            leg.does(CallerText("my order"))
        case _:
            first.tell(None)
    second = await adapter.socket(2)
    leg.does(CallerAudio(b"\0\0" * 480))
    await second.asked(AppendAudio)
    assert not carried.done()
    warned = await until_async(lambda: here.recorded(session_id, "warning"))
    assert [warning["code"] for warning in warned] == ["provider_lost"]
    await here.sessions.end(session_id, "operator")
    await carried


async def test_a_refusal_of_the_provider_reaches_the_caller(here: Plane, adapter: Adapter) -> None:
    """A session that cannot be opened now is the caller's error; another try may do better."""
    session_id = await here.start()
    adapter.refuse = ProviderUnavailable("too busy")
    with pytest.raises(ProviderUnavailable, match="too busy"):
        await here.sessions.connect(session_id, Leg())
    adapter.refuse = None
    carried = asyncio.create_task(here.sessions.connect(session_id, Leg()))
    await here.state(session_id, "live")
    await here.sessions.end(session_id, "operator")
    await carried


async def test_connecting_the_wrong_way_is_refused(here: Plane) -> None:
    """No session, one that is over, an offer for carried audio: each is refused by name."""
    with pytest.raises(NotFound):
        await here.sessions.connect("ses_none", Leg())
    session_id = await here.start()
    with pytest.raises(Conflict) as caught:
        await here.sessions.offer(session_id, "offer")
    assert caught.value.code == "wrong_media"
    await here.sessions.end(session_id, "operator")
    with pytest.raises(SessionEnded):
        await here.sessions.connect(session_id, Leg())


async def test_a_start_beyond_the_limit_leaves_nothing(here: Plane, adapter: Adapter) -> None:
    """A start that is refused for the number of sessions has asked nobody and counts for nothing."""
    adapter.limit = 1
    session_id = await here.start()
    with pytest.raises(LimitExceeded):
        await here.start()
    await here.sessions.end(session_id, "operator")
    await here.start()


async def test_after_a_restart_the_caller_comes_back_to_the_same_session(tmp_path: Path, adapter: Adapter) -> None:
    """A restart waits for the caller; the new session at the provider gets what was said before."""
    async with plane(tmp_path, adapter) as first:
        node = await linked(first, tmp_path)
        session_id, _, carried = await live(first)
        adapter.opened[0][0].caller_says("hello")
        await until_async(lambda: first.recorded(session_id, "turn.committed"))
        await first.sessions.close()
        assert await carried == "closed"
        await node.drop()
    async with plane(tmp_path, adapter) as second:
        node = await linked(second, tmp_path)
        assert len(await second.recorded(session_id, "turn.committed")) == 1
        assert (await second.row(session_id)).state == "connecting"
        back = asyncio.create_task(second.sessions.connect(session_id, Leg()))
        provider = await adapter.socket(2)
        assert "hello" in (await provider.asked(AddText)).text
        await second.state(session_id, "live")
        assert adapter.admitted[session_id] == "key-1"
        await second.sessions.end(session_id, "operator")
        await back
        await node.drop()


async def test_after_a_restart_a_caller_that_stays_away_ends_the_session(tmp_path: Path, adapter: Adapter) -> None:
    """Nobody comes back within 30 s of the restart: the session ends with that reason."""
    async with plane(tmp_path, adapter) as first:
        node = await linked(first, tmp_path)
        session_id, _, carried = await live(first)
        await first.sessions.close()
        await carried
        await node.drop()
    async with plane(tmp_path, adapter) as second:
        await until(lambda: second.sessions._actors.get(session_id))
        await second.state(session_id, "connecting")
        second.clock.advance(31)
        assert (await second.state(session_id, "ended")).end_reason == "control_plane_restart"
    assert Say not in [type(c) for c in adapter.opened[0][0].sent]


async def test_after_a_restart_the_run_of_a_handler_from_before_is_over(tmp_path: Path, adapter: Adapter) -> None:
    """What that run still asks for, while the caller is waited for, is refused: the handler runs from the top instead."""
    async with plane(tmp_path, adapter) as first:
        node = await linked(first, tmp_path)
        session_id, _, carried = await live(first)
        await node.opened(1)
        await first.sessions.close()
        await carried
        await node.drop()
    async with plane(tmp_path, adapter) as second:
        node = await linked(second, tmp_path)
        await second.state(session_id, "connecting")
        node.session_id, node.epoch = session_id, 1
        refused = await node.answer(await node.command("say", text="as I was about to say"))
        assert refused.problem["code"] == "stale_handler"
        back = asyncio.create_task(second.sessions.connect(session_id, Leg()))
        assert (await node.opened(2)).resumed
        await second.sessions.end(session_id, "operator")
        await back
        assert Say not in [type(command) for provider, _ in adapter.opened for command in provider.sent]
        await node.drop()
