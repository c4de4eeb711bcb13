"""The greeting of a node link: who may link, who is refused and why, and what several instances mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentfield.identity import NodeKey
from agentfield.ids import new_id
from agentfield.realtime.config import SessionDeclaration
from agentfield.wire.frames import ExecutionContext as Context
from agentfield.wire.frames import FunctionSpec, Invoke, Ping, Pong, Refused, RunningAttempt, SessionDone, SessionOpen
from agentfield_server.nodes import NodeLink
from engine_kit import Plane, RawNode, plane, until

VOICE = SessionDeclaration(name="voice", provider="p", transport="t", floor="handler")


@pytest.fixture
async def cp(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path / "a.db") as running:
        yield running


@asynccontextmanager
async def dialled(cp: Plane, node: RawNode) -> AsyncIterator[RawNode]:
    """A socket that is open and has said nothing."""
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{cp.url}/api/v1/nodes/link") as socket:
        node.socket = socket
        yield node


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        ({"signature": "AAAA"}, "bad_signature"),
        ({"did": NodeKey.generate().did}, "bad_signature"),
        ({"did": "did:web:example.org"}, "bad_signature"),
        ({"protocol": 99}, "protocol_mismatch"),
        ({"functions": (FunctionSpec(name="fn", input_schema={}),) * 2}, "duplicate_name"),
        ({"sessions": (VOICE.model_copy(update={"name": "fn"}),)}, "duplicate_name"),
    ],
)
async def test_who_may_not_link_is_told_why(cp: Plane, hello: dict[str, Any], code: str) -> None:
    """A hello that does not hold is refused for good, with a code."""
    async with dialled(cp, RawNode()) as node:
        answer = await node.greet(**hello)
    assert isinstance(answer, Refused)
    assert (answer.problem["code"], answer.retry) == (code, False)
    assert cp.hub.links() == []


async def test_an_instance_cannot_be_taken_over_with_another_key(cp: Plane) -> None:
    """Whoever learns an instance id still needs its key."""
    node = RawNode()
    async with node.linked(cp):
        async with dialled(cp, RawNode(instance_id=node.instance_id)) as thief:
            answer = await thief.greet()
            assert isinstance(answer, Refused)
            assert answer.problem["code"] == "foreign_instance"
        assert [link.did for link in cp.hub.links()] == [node.key.did]


async def test_a_frame_of_no_known_type_ends_the_link(cp: Plane) -> None:
    """Unknown types are refused with what is wrong; unknown fields are ignored."""
    node = RawNode()
    async with node.linked(cp):
        assert node.socket is not None
        await node.socket.send_str('{"type": "ping", "future": true}')
        await node.next(Pong)
        await node.socket.send_str('{"type": "teleport"}')
        refused = await node.next(Refused)
        assert refused.problem["code"] == "bad_frame"
        await until(lambda: not cp.hub.links())


async def test_functions_and_sessions_are_known_while_the_node_is_away(cp: Plane) -> None:
    """What a node declared stays known; what its newest instance does not declare any more is forgotten."""
    node = RawNode()
    async with node.linked(cp, sessions=(VOICE,)):
        assert set(cp.hub.functions()) == {"node.fn"}
        assert cp.hub.sessions() == {"node.voice": VOICE}
    await until(lambda: not cp.hub.links())
    assert set(cp.hub.functions()) == {"node.fn"}
    async with RawNode().linked(cp, functions=(FunctionSpec(name="other", input_schema={}),)):
        assert set(cp.hub.functions()) == {"node.other"}
        assert cp.hub.sessions() == {}


async def test_handlers_go_where_fewest_are(cp: Plane) -> None:
    """The instance for a handler is the one with the fewest sessions, of those that declare it."""
    one, two = RawNode(), RawNode()
    async with one.linked(cp, sessions=(VOICE,)), two.linked(cp, sessions=(VOICE,)):
        first = cp.hub.session_link("node", "voice")
        assert first is not None
        frame = SessionOpen(session_id="ses_1", epoch=1, name="voice", context=Context(execution_id="e", run_id="r"))
        await first.send(frame)
        second = cp.hub.session_link("node", "voice")
        assert second is not None
        assert second is not first
        assert cp.hub.session_link("other", "voice") is None
        assert cp.hub.session_link("node", "voices") is None
        holder = one if first.instance_id == one.instance_id else two
        await holder.send(SessionDone(op_id="op_1", session_id="ses_1", epoch=1))
        await until(lambda: not first.sessions)


class Sessions:
    """Notes what a session room would be told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    async def session_command(self, link: NodeLink, frame: Any) -> None:
        self.told.append(("command", frame.op_id))

    async def session_done(self, link: NodeLink, frame: SessionDone) -> None:
        self.told.append(("done", frame.op_id))

    async def node_linked(self, link: NodeLink) -> None:
        self.told.append(("linked", link.instance_id))

    async def node_lost(self, link: NodeLink) -> None:
        self.told.append(("lost", link.instance_id))


async def test_the_session_room_is_told(cp: Plane) -> None:
    """Linked, commands, done and lost reach the session room in order."""
    room, node = Sessions(), RawNode()
    cp.hub.bind_sessions(room)
    async with node.linked(cp, open_sessions=(("ses_1", 3),)):
        assert cp.hub.links()[0].sessions == {"ses_1"}
        await node.send(SessionDone(op_id="op_1", session_id="ses_1", epoch=3))
        await until(lambda: len(room.told) == 2)
    await until(lambda: len(room.told) == 3)
    assert room.told == [("linked", node.instance_id), ("done", "op_1"), ("lost", node.instance_id)]


async def test_a_node_that_reads_nothing_cannot_fill_the_memory(tmp_path: Path) -> None:
    """The outbox is bounded: a node that does not take its frames loses its link."""
    async with plane(tmp_path / "a.db", ping=0.1, dead=0.3) as cp:
        node = RawNode()
        async with dialled(cp, node):
            await node.greet()
            link = cp.hub.links()[0]
            assert node.socket is not None
            transport = node.socket._response.connection.transport  # type: ignore[union-attr]
            assert transport is not None
            transport.pause_reading()
            payload = {"x": "y" * 20_000}
            frame = Invoke(epoch=1, function="f", input=payload, context=Context(execution_id="e", run_id="r"))
            sending = asyncio.gather(*(link.send(frame) for _ in range(1600)), return_exceptions=True)
            await until(lambda: link.ended is not None)
            assert any(await sending)
            await until(lambda: not cp.hub.links())
            transport.resume_reading()


async def test_pings_are_sent_and_answered(tmp_path: Path) -> None:
    """Both ends may ask whether the other is there."""
    async with plane(tmp_path / "a.db", ping=0.05) as cp, dialled(cp, RawNode()) as node:
        await node.greet()
        assert isinstance(await node.receive(), Ping)
        await node.send(Ping())
        frame = await node.receive()
        while isinstance(frame, Ping):
            frame = await node.receive()
        assert isinstance(frame, Pong)


async def test_leaving_and_coming_back_at_once(cp: Plane) -> None:
    """Links of one instance that overlap leave exactly one, and its work is where it was."""
    node = RawNode()
    async with node.linked(cp):
        execution_id = await cp.start("node.fn")
        invoke = await node.next(Invoke)
        held = RunningAttempt(execution_id=execution_id, attempt=1, epoch=invoke.epoch)
        twins = [RawNode(key=node.key, instance_id=node.instance_id) for _ in range(4)]
        async with AsyncExitStack() as stack:
            for twin in twins:
                await stack.enter_async_context(twin.linked(cp, running=(held,)))
            again = await twins[3].next(Invoke)
            await twins[3].answer(again, "one")
            view = await cp.finished(execution_id)
            assert (view["output"], view["attempt"]) == ("one", 1)
            assert len(cp.hub.links()) == 1


async def test_shutdown_tells_nodes_to_come_back(cp: Plane) -> None:
    """When the control plane stops, the links end and nobody is called lost."""
    room, node = Sessions(), RawNode(instance_id=new_id("node"))
    cp.hub.bind_sessions(room)
    async with node.linked(cp):
        await cp.hub.close()
        assert node.socket is not None
        await until(lambda: node.socket.closed)  # type: ignore[union-attr]
        assert room.told == [("linked", node.instance_id)]
        async with dialled(cp, RawNode()) as late:
            answer = await late.greet()
            assert isinstance(answer, Refused)
            assert answer.retry
