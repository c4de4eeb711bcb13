"""Start of sessions: refusals, frozen configuration; lost and returning nodes; isolation of failures."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentfield.errors import (
    AgentFieldError,
    CapabilityMissing,
    InvalidInput,
    LimitExceeded,
    NodeNotConnected,
    NotFound,
    SessionEnded,
)
from agentfield.identity import NodeKey
from agentfield.realtime.commands import CancelReplyCommand, SayCommand
from agentfield.wire.rest import StartRequest
from agentfield_server.sessions.conversation.timers import TimerKind
from agentfield_server.store.records import IdempotencyKey
from support.server.sessions import Adapter, Plane, Provider, ScriptedNode, plane
from support.waiting import until, until_async


@pytest.fixture
def adapter() -> Adapter:
    return Adapter()


@pytest.fixture
async def here(tmp_path: Path, adapter: Adapter) -> AsyncIterator[Plane]:
    async with plane(tmp_path, adapter) as made:
        yield made


def make_node(here: Plane, **declared: Any) -> ScriptedNode:
    node = ScriptedNode(NodeKey.generate(), here.url, **declared)
    node.functions["look"] = lambda given: {"found": given}
    return node


@pytest.fixture
async def node(here: Plane) -> AsyncIterator[ScriptedNode]:
    made = await make_node(here).link()
    yield made
    await made.drop()


async def live(here: Plane, adapter: Adapter, **fields: Any) -> tuple[str, Provider]:
    """Start a session and connect its caller."""
    session_id = await here.start(**fields)
    await here.sessions.offer(session_id, "offer")
    await here.state(session_id, "live")
    await until_async(lambda: here.recorded(session_id, "handler.started"))
    return session_id, list(adapter.calls.values())[-1]


# --- starting


@pytest.mark.parametrize(
    ("request_fields", "error", "says"),
    [
        ({"target": "shop.voise"}, NotFound, "Did you mean 'shop.voice'"),
        ({"target": "shop.voice", "provider": "openai"}, InvalidInput, "registered with provider 'acme'"),
        ({"target": "shop.voice", "transport": "websocket"}, InvalidInput, "registered with transport 'webrtc'"),
        ({"target": "shop.voice", "model": "m-9"}, InvalidInput, "It has: m-1, m-2"),
        ({"target": "shop.voice", "voice": "shrill"}, InvalidInput, "It has: v-1"),
    ],
)
async def test_refused_starts(
    here: Plane, node: ScriptedNode, request_fields: dict[str, Any], error: type[AgentFieldError], says: str
) -> None:
    """An invalid start is refused with the request, the reason and the alternatives."""
    with pytest.raises(error, match=says):
        await here.sessions.start(StartRequest(**request_fields), principal="op")
    assert await here.store.list_sessions() == []


@pytest.mark.parametrize(
    ("declared", "error", "says"),
    [
        ({"tools": ("shop.nothing",)}, InvalidInput, "lists the tool 'shop.nothing'"),
        ({"say": "exact"}, CapabilityMissing, "say"),
        ({"options": {"x": 1}}, InvalidInput, "takes no options"),
    ],
)
async def test_refused_declarations(
    here: Plane, declared: dict[str, Any], error: type[AgentFieldError], says: str
) -> None:
    """A declaration that the pair or the other nodes cannot serve is refused at start."""
    node = await make_node(here, **declared).link()
    with pytest.raises(error, match=says):
        await here.start()
    await node.drop()


async def test_start_freezes_the_configuration(here: Plane, node: ScriptedNode) -> None:
    """Model, voice and transcription are resolved at start and stored; a repeated start is one session."""
    key = IdempotencyKey(principal="op", route="sessions", target="shop.voice", key="k", body_digest=b"d")
    request = StartRequest(target="shop.voice", model="m-2")
    row, config = await here.sessions.start(request, principal="op", idempotency=key)
    again, same = await here.sessions.start(request, principal="op", idempotency=key)
    assert (again.id, same) == (row.id, config)
    assert (config.model, config.voice, config.transcription) == ("m-2", "v-1", "ears-1")
    assert row.config["model"] == "m-2"
    assert (await here.recorded(row.id, "session.created"))[0] == {
        "target": "shop.voice",
        "provider": "acme",
        "transport": "webrtc",
        "model": "m-2",
        "voice": "v-1",
        "floor": "handler",
        "caller": None,
    }


async def test_a_repeated_start_returns_its_session_unconditionally(
    here: Plane, node: ScriptedNode, adapter: Adapter
) -> None:
    """A start with a known key returns its session, even if the provider is busy and the node not linked."""
    key = IdempotencyKey(principal="op", route="sessions", target="shop.voice", key="k", body_digest=b"d")
    request = StartRequest(target="shop.voice")
    row, _ = await here.sessions.start(request, principal="op", idempotency=key)
    adapter.limit = 1
    with pytest.raises(LimitExceeded):
        await here.start()
    await node.drop()
    again, _ = await here.sessions.start(request, principal="op", idempotency=key)
    assert again.id == row.id


async def test_the_provider_knows_a_caller_by_a_hash(here: Plane, node: ScriptedNode) -> None:
    """The provider gets the same pseudonym for every call of a caller, never the name; None without a caller."""
    configs = [
        (await here.sessions.start(StartRequest(target="shop.voice", caller=caller), principal="op"))[1]
        for caller in ("maria@example.com", "maria@example.com", "bob", None)
    ]
    first, second, other, nobody = (config.safety_id for config in configs)
    assert first == second != other
    assert first is not None
    assert "maria" not in first
    assert nobody is None


# --- nodes that go away


async def test_a_lost_link_is_resumed(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """A node that links again within 10 s keeps its handler; repeated commands take effect once."""
    session_id, provider = await live(here, adapter)
    await node.opened(1)
    say = await node.command("say", text="hello")
    await provider.asked(SayCommand)
    node.open_sessions = ((session_id, 1),)
    await node.drop()
    await provider.speaks()
    await node.link()
    await node.send_command(say, "say", text="hello")
    assert (await node.answer(say)).value["generated"] == "hello"
    assert len([c for c in provider.sent if isinstance(c, SayCommand)]) == 1
    here.clock.advance(11)
    provider.caller_says("still there?")
    assert (await node.turn())["text"] == "still there?"


async def test_handler_moves_to_another_instance(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """When an instance dies, another one starts the handler anew and gets the open turn again."""
    _, provider = await live(here, adapter)
    await node.opened(1)
    provider.caller_says("one")
    turn = await node.turn()
    other = await ScriptedNode(node._key, here.url, instance="two").link()
    await node.drop()
    opened = await other.opened(2)
    assert opened.resumed is True
    again = await other.turn()
    assert (again["id"], again["attempt"]) == (turn["id"], 2)
    await other.drop()


async def test_a_session_without_an_instance_ends(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """A session whose node is not linked for 10 s ends as node_lost."""
    session_id, _ = await live(here, adapter)
    await node.opened(1)
    await node.drop()
    await until(lambda: not here.hub.links("shop"))
    here.clock.advance(0.1)
    actor = here.sessions._live.get(session_id)
    await until(lambda: TimerKind.NODE in actor.machine.state.timers)
    here.clock.advance(11)
    assert (await here.state(session_id, "ended")).end_reason == "node_lost"
    with pytest.raises(SessionEnded):
        await here.sessions.offer(session_id, "again")


async def test_a_start_without_its_node_is_refused(here: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target whose node never linked is unknown; for a node that is not linked any more the error says how to start it."""
    with pytest.raises(NotFound, match="Known sessions: none"):
        await here.start()
    node = await make_node(here).link()
    await node.drop()
    await until(lambda: not here.hub.links("shop"))
    monkeypatch.setattr(here.hub._registry, "_monotonic", lambda: time.monotonic() + 60)
    with pytest.raises(NodeNotConnected, match="af run FILE"):
        await here.start()


async def test_a_failing_session_ends_alone(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """An internal failure of a session hangs up, closes its open turns, stops its handler, and ends that session only."""
    broken, _ = await live(here, adapter)
    await node.opened(1)
    fine, provider = await live(here, adapter)
    actor = here.sessions._live.get(broken)

    async def fail() -> None:
        raise RuntimeError("boom")

    adapter.calls["call1"].caller_says("hello")
    await node.turn()
    actor.tell(fail)
    row = await here.state(broken, "ended")
    assert row.end_reason == "provider_error"
    assert adapter.hung_up == ["call1"]
    assert {e.kind: e.status for e in await here.executions(broken)} == {"session": "failed", "turn": "cancelled"}
    assert (await node.stopped()).session_id == broken
    assert (await here.row(fine)).state == "live"
    assert not [c for c in provider.sent if isinstance(c, CancelReplyCommand)]


async def test_an_end_that_cannot_be_stored_at_once_still_closes_the_turns(
    here: Plane, node: ScriptedNode, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that cannot be hung up does not keep a failed session from closing its turns and ending."""
    broken, provider = await live(here, adapter)
    await node.opened(1)
    provider.caller_says("hello")
    await node.turn()

    async def fail(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(adapter, "hang_up", fail)
    here.sessions._live.get(broken).tell(fail)
    await here.state(broken, "ended")
    assert {e.kind: e.status for e in await here.executions(broken)} == {"session": "failed", "turn": "cancelled"}
