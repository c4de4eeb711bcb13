"""Sessions on bridged media, with a scripted provider and a manual clock: presence, rotation, restart, credential leases."""

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
from agentfield.realtime.commands import AddTextCommand, AppendAudioCommand, EndCommand, SayCommand
from agentfield.realtime.events import SessionClosed
from agentfield_server.sessions.actor import provider_connection
from agentfield_server.sessions.conversation.timers import TimerKind
from support.core.bridge import Leg
from support.server.sessions import Adapter, Plane, ScriptedNode, plane
from support.waiting import until, until_async


@pytest.fixture
def adapter() -> Adapter:
    """The scripted provider."""
    return Adapter()


@pytest.fixture
async def here(tmp_path: Path, adapter: Adapter) -> AsyncIterator[Plane]:
    """A control plane with a node that declares a session on bridged media."""
    async with plane(tmp_path, adapter) as made:
        node = await linked(made, tmp_path)
        yield made
        await node.drop()


async def linked(made: Plane, folder: Path, transport: str = "websocket") -> ScriptedNode:
    key = NodeKey.load_or_create(folder / "node.pem")
    return await ScriptedNode(key, made.url, transport=transport).link()


async def live(made: Plane, leg: Leg | None = None) -> tuple[str, Leg, asyncio.Task[Any]]:
    session_id = await made.start()
    leg = leg or Leg()
    carried = asyncio.create_task(made.sessions.connect(session_id, leg))
    await made.state(session_id, "live")
    await until_async(lambda: made.recorded(session_id, "handler.started"))
    return session_id, leg, carried


async def test_connecting_opens_the_provider_session_in_the_caller_s_format(here: Plane, adapter: Adapter) -> None:
    """The first leg opens the provider's session, in the leg's format if it is supported; the key's name is stored."""
    session_id, _, carried = await live(here, Leg(AudioFormat("pcmu", 8000)))
    assert adapter.opened[0][1].name == "pcmu/8000"
    assert (await here.row(session_id)).call_ref == {"credential": "key-1"}
    assert [f.name for f in here.sessions.formats(session_id)] == ["pcm16/24000", "pcmu/8000"]
    await here.sessions.end(session_id, "operator")
    assert await carried == "closed"
    assert isinstance(adapter.opened[0][0].sent[-1], EndCommand)
    assert session_id not in adapter.admitted


async def test_a_caller_that_does_not_reconnect_within_ten_seconds_has_hung_up(here: Plane) -> None:
    """The session waits 10 s for a lost connection; then it ends as a hangup."""
    session_id, leg, carried = await live(here)
    leg.does(CallerGone("lost", hung_up=False))
    assert await carried == "gone"
    await until(lambda: TimerKind.CALLER_GONE in here.sessions._live.get(session_id).machine.state.timers)
    here.clock.advance(9.9)
    assert (await here.row(session_id)).state == "live"
    here.clock.advance(0.2)
    ended = await here.state(session_id, "ended")
    # a telephone has no page: the words fit every caller
    assert (ended.end_reason, ended.end_detail) == ("caller_hangup", "the caller's connection was lost for 10 s")


async def test_a_caller_that_reconnects_in_time_continues(here: Plane, adapter: Adapter) -> None:
    """Within 10 s the call continues with the same provider session."""
    session_id, leg, carried = await live(here)
    leg.does(CallerGone("lost", hung_up=False))
    await carried
    again = Leg()
    back = asyncio.create_task(here.sessions.connect(session_id, again))
    again.does(CallerAudio(b"\0\0" * 480))
    await adapter.opened[0][0].asked(AppendAudioCommand)
    here.clock.advance(15)
    assert (await here.row(session_id)).state == "live"
    assert len(adapter.opened) == 1
    again.does(CallerGone("bye"))
    assert await back == "gone"
    assert (await here.state(session_id, "ended")).end_reason == "caller_hangup"


async def test_an_event_stream_does_not_count_as_presence(here: Plane) -> None:
    """On bridged media the leg is the caller's presence, not the event stream."""
    session_id, leg, carried = await live(here)
    with here.sessions.caller_attached(session_id):
        pass
    here.clock.advance(11)
    assert (await here.row(session_id)).state == "live"
    leg.does(CallerGone("bye"))
    await carried


async def test_typed_text_becomes_a_turn(here: Plane, adapter: Adapter) -> None:
    """Text on the leg is added to the conversation."""
    session_id, leg, carried = await live(here)
    leg.does(CallerText("my order"))
    assert (await adapter.opened[0][0].asked(AddTextCommand)).text == "my order"
    await here.sessions.end(session_id, "operator")
    await carried


async def test_a_lost_provider_connection_is_replaced(here: Plane, adapter: Adapter) -> None:
    """A lost provider connection is replaced; the caller's leg stays, and its audio is not lost."""
    session_id, leg, carried = await live(here)
    adapter.opened[0][0].caller_says("hello")
    await until(lambda: here.sessions._live.get(session_id).machine.state.history)
    adapter.opened[0][0].tell(SessionClosed(reason="provider_error", message="broke", retry=True))
    second = await adapter.socket(2)
    assert "hello" in (await second.asked(AddTextCommand)).text
    leg.does(CallerAudio(b"\0\0" * 480))
    await second.asked(AppendAudioCommand)
    assert not carried.done()
    await here.sessions.end(session_id, "operator")
    await carried


@pytest.mark.parametrize("how", ["a command is not taken", "the events end"])
async def test_a_silently_lost_provider_connection_is_replaced(here: Plane, adapter: Adapter, how: str) -> None:
    """However the loss of the provider is detected, a new session takes over and the caller's leg stays."""
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
    await second.asked(AppendAudioCommand)
    assert not carried.done()
    warned = await until_async(lambda: here.recorded(session_id, "warning"))
    assert [warning["code"] for warning in warned] == ["provider_lost"]
    await here.sessions.end(session_id, "operator")
    await carried


async def test_a_provider_that_reads_nothing_is_waited_for_once(
    here: Plane, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first command that is not taken in time the connection is lost: later ones are not tried, nor is the end."""
    monkeypatch.setattr(provider_connection, "_SEND_WAIT", 0.2)
    session_id, leg, carried = await live(here)
    first = adapter.opened[0][0]
    first.stuck = True
    leg.does(CallerText("one"), CallerText("two"), CallerText("three"))
    second = await adapter.socket(2)
    await until(lambda: "three" in [each.text for each in second.sent if isinstance(each, AddTextCommand)])
    assert first.tried == 1
    second.stuck = True
    leg.does(CallerText("four"), CallerText("five"))
    await here.sessions.end(session_id, "operator")
    await carried
    assert second.tried == 1


async def test_a_refusal_of_the_provider_reaches_the_caller(here: Plane, adapter: Adapter) -> None:
    """A provider session that cannot be opened is the caller's error; another attempt may succeed."""
    session_id = await here.start()
    adapter.refuse = ProviderUnavailable("too busy")
    with pytest.raises(ProviderUnavailable, match="too busy"):
        await here.sessions.connect(session_id, Leg())
    adapter.refuse = None
    carried = asyncio.create_task(here.sessions.connect(session_id, Leg()))
    await here.state(session_id, "live")
    await here.sessions.end(session_id, "operator")
    await carried


async def test_connecting_over_the_wrong_medium_is_refused(here: Plane) -> None:
    """An unknown session, an ended one, and an offer for bridged media are refused."""
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
    """A start that is refused by the limit does not reach the provider and takes no lease."""
    adapter.limit = 1
    session_id = await here.start()
    with pytest.raises(LimitExceeded):
        await here.start()
    await here.sessions.end(session_id, "operator")
    await here.start()


async def test_after_a_restart_the_caller_reconnects_to_the_same_session(tmp_path: Path, adapter: Adapter) -> None:
    """After a restart the session waits for the caller; the new provider session gets the history."""
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
        assert "hello" in (await provider.asked(AddTextCommand)).text
        await second.state(session_id, "live")
        assert adapter.admitted[session_id] == "key-1"
        await second.sessions.end(session_id, "operator")
        await back
        await node.drop()


async def test_after_a_restart_a_caller_that_does_not_reconnect_ends_the_session(
    tmp_path: Path, adapter: Adapter
) -> None:
    """Without a leg within 30 s of the restart, the session ends with that reason."""
    async with plane(tmp_path, adapter) as first:
        node = await linked(first, tmp_path)
        session_id, _, carried = await live(first)
        await first.sessions.close()
        await carried
        await node.drop()
    async with plane(tmp_path, adapter) as second:
        await until(lambda: second.sessions._live.get(session_id))
        await second.state(session_id, "connecting")
        second.clock.advance(31)
        assert (await second.state(session_id, "ended")).end_reason == "control_plane_restart"
    assert SayCommand not in [type(c) for c in adapter.opened[0][0].sent]


async def test_after_a_restart_the_earlier_handler_run_is_stale(tmp_path: Path, adapter: Adapter) -> None:
    """Commands of the earlier handler run are refused while the session waits for the caller; the handler starts anew."""
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
        assert SayCommand not in [type(command) for provider, _ in adapter.opened for command in provider.sent]
        await node.drop()
