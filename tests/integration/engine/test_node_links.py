"""The handshake of a node link: accepted and refused nodes, and several instances of one node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import ValidationError

from agentfield.errors import InvalidInput, Unavailable
from agentfield.identity import NodeKey, b64url, hello_message
from agentfield.ids import new_id
from agentfield.link.greetings import Greeter
from agentfield.realtime.config import SessionDeclaration
from agentfield.wire.frames import (
    Call,
    CallAccepted,
    CallResult,
    Challenge,
    Hello,
    Invoke,
    Ping,
    Pong,
    Progress,
    Refused,
    ResultAck,
    RunningAttempt,
    SessionCommand,
    SessionDone,
    SessionOpen,
    encode_frame,
)
from agentfield.wire.frames import ExecutionContext as Context
from agentfield.wire.handshake import hello_digest
from agentfield.wire.link_protocol import MAX_REPORTED
from agentfield.wire.node_declarations import FunctionSpec
from agentfield_server.engine.results import ResultVerifier
from agentfield_server.nodes import LinkedNode
from agentfield_server.sessions.actor.handler_channel import parse_command
from support.server.engine import Plane, RawNode, plane
from support.waiting import until

VOICE = SessionDeclaration(name="voice", provider="p", transport="t", floor="handler")


@pytest.fixture
async def cp(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path / "a.db") as running:
        yield running


@asynccontextmanager
async def dialled(cp: Plane, node: RawNode) -> AsyncIterator[RawNode]:
    """Open a socket without sending a hello."""
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
        ({"functions": (FunctionSpec(name="fn", input_schema={}, timeout=1e308),)}, "invalid_declaration"),
        ({"functions": (FunctionSpec(name="fn", input_schema={}, timeout=86_401),)}, "invalid_declaration"),
        ({"sessions": (VOICE.model_copy(update={"name": "fn"}),)}, "duplicate_name"),
    ],
)
async def test_invalid_hello_is_refused_with_a_code(cp: Plane, hello: dict[str, Any], code: str) -> None:
    """An invalid hello is refused for good, with a code."""
    async with dialled(cp, RawNode()) as node:
        answer = await node.greet(**hello)
    assert isinstance(answer, Refused)
    assert (answer.problem["code"], answer.retry) == (code, False)
    assert cp.hub.links() == []


@pytest.mark.parametrize("kind", ["functions", "sessions"])
async def test_a_hello_of_too_many_declarations_is_refused_at_once(cp: Plane, kind: str) -> None:
    """A node may declare 1000 functions and 1000 sessions; more are refused with the limit, and nothing waits for it."""

    def declared(number: int) -> tuple[Any, ...]:
        if kind == "sessions":
            return tuple(VOICE.model_copy(update={"name": f"voice{i}"}) for i in range(number))
        return tuple(FunctionSpec(name=f"f{i}", input_schema={}) for i in range(number))

    async with dialled(cp, RawNode()) as node:
        began = time.process_time()
        answer = await node.greet(**{kind: declared(20_000)})
        took = time.process_time() - began
    assert isinstance(answer, Refused)
    assert (answer.problem["code"], answer.retry) == ("too_many_declarations", False)
    assert "20000" in answer.problem["detail"]
    assert "1000" in answer.problem["detail"]
    assert took < 10
    async with RawNode().linked(cp, **{kind: declared(1000)}):
        pass


@pytest.mark.parametrize("kind", ["running", "results", "open_sessions"])
async def test_a_hello_of_too_much_work_is_refused(cp: Plane, kind: str) -> None:
    """A node may report 50,000 attempts, results and handlers; more are refused with the limit."""

    def reported(number: int) -> tuple[Any, ...]:
        if kind == "open_sessions":
            return tuple((f"ses_{i}", 1) for i in range(number))
        return tuple(RunningAttempt(execution_id=f"exe_{i}", attempt=1, epoch=1) for i in range(number))

    async with dialled(cp, RawNode()) as node:
        answer = await node.greet(**{kind: reported(MAX_REPORTED + 1)})
    assert isinstance(answer, Refused)
    assert (answer.problem["code"], answer.problem["field"], answer.retry) == ("too_much_work", kind, False)
    assert answer.problem["detail"] == f"The node 'node' reports 50001 {kind}; a node may report 50000."
    async with RawNode().linked(cp, **{kind: reported(1000)}):
        pass


async def test_the_signature_is_checked_before_the_names(cp: Plane) -> None:
    """A hello with a wrong signature is refused for it, whatever it declares."""
    async with dialled(cp, RawNode()) as node:
        answer = await node.greet(signature="AAAA", functions=(FunctionSpec(name="fn", input_schema={}),) * 2)
    assert answer.problem["code"] == "bad_signature"


async def test_instance_cannot_be_taken_over_with_another_key(cp: Plane) -> None:
    """A hello with the id of an instance and another key is refused."""
    node = RawNode()
    async with node.linked(cp):
        async with dialled(cp, RawNode(instance_id=node.instance_id)) as thief:
            answer = await thief.greet()
            assert isinstance(answer, Refused)
            assert answer.problem["code"] == "foreign_instance"
        assert [link.did for link in cp.hub.links()] == [node.key.did]


async def test_unknown_frame_type_ends_the_link(cp: Plane) -> None:
    """An unknown type is refused with the reason; unknown fields are ignored."""
    node = RawNode()
    async with node.linked(cp):
        assert node.socket is not None
        await node.socket.send_str('{"type": "ping", "future": true}')
        await node.next(Pong)
        await node.socket.send_str('{"type": "teleport"}')
        refused = await node.next(Refused)
        assert refused.problem["code"] == "bad_frame"
        await until(lambda: not cp.hub.links())


@pytest.mark.parametrize("schema", [{"anyOf": 5}, {"type": ["object", {}], "properties": {"n": {"type": [{}]}}}])
async def test_a_malformed_schema_of_another_node_breaks_no_call(cp: Plane, schema: Any) -> None:
    """A call of a reasoner with a malformed schema is refused or runs; the link of its caller stays open."""
    bad = RawNode(functions=(FunctionSpec(name="fn", input_schema=schema, output_schema=schema),), node_id="bad")
    caller = RawNode(node_id="caller")
    async with bad.linked(cp), caller.linked(cp):
        await caller.send(Call(op_id="large", target="bad.fn", input={"n": [2**53 + 1]}))
        refused = await caller.next(CallResult, op_id="large")
        assert refused.problem["code"] == "unrepresentable"
        await caller.send(Call(op_id="small", target="bad.fn", input={"n": 1}))
        await bad.answer(await bad.next(Invoke), {"n": 2})
        assert (await caller.next(CallResult, op_id="small")).output == {"n": 2}


@pytest.mark.parametrize("seconds", ["1e308", "Infinity", "86401"])
async def test_the_timeout_of_a_call_is_one_day_at_most(cp: Plane, seconds: str) -> None:
    """A call with a longer timeout is answered with a problem; the link stays open."""
    node = RawNode()
    async with node.linked(cp):
        frame = encode_frame(Call(op_id="one", target="node.fn", input={}, timeout=7.0))
        assert node.socket is not None
        await node.socket.send_str(frame.replace('"timeout":7.0', f'"timeout":{seconds}'))
        refused = await node.next(CallResult, op_id="one")
        assert (refused.problem["code"], refused.problem["field"]) == ("invalid_input", "timeout")
        await node.send(Call(op_id="two", target="node.fn", input={}, timeout=86_400))
        await node.next(Invoke)


@pytest.mark.parametrize("seconds", [86_401, 1e308, 10**400, 0])
def test_the_timeout_of_a_call_in_a_session_is_one_day_at_most(seconds: float) -> None:
    """A handler's call has the same limit."""
    args = {"target": "shop.fn", "timeout": seconds}
    refused = parse_command(SessionCommand(op_id="one", session_id="ses", epoch=1, command="call", args=args))
    assert isinstance(refused, InvalidInput)


@pytest.mark.parametrize("epoch", [2**53, 2**60])
def test_numbers_of_frames_end_where_json_readers_round(epoch: int) -> None:
    """An epoch beyond 2^53 - 1 is no number of a frame, and an instance id has 200 characters at most."""
    RunningAttempt(execution_id="exe", attempt=1, epoch=2**53 - 1)
    with pytest.raises(ValidationError):
        RunningAttempt(execution_id="exe", attempt=1, epoch=epoch)
    with pytest.raises(ValidationError):
        Hello(node_id="node", instance_id="i" * 201, did="did", signature="")


async def test_a_hello_of_version_2_without_a_nonce_is_refused(cp: Plane) -> None:
    """The nonce makes the welcome one for this hello; version 1 has none."""

    def unasked(self: Greeter, hello: Hello, challenge: Challenge, _url: str) -> str:
        digest = hello_digest(encode_frame(hello))
        message = hello_message(audience=challenge.did or "", protocol=2, nonce=challenge.nonce, hello=digest)
        return encode_frame(hello.model_copy(update={"signature": b64url(node.key.sign(message))}))

    async with dialled(cp, RawNode()) as node:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Greeter, "hello", unasked)
            answer = await node.greet(nonce=None)
    assert isinstance(answer, Refused)
    assert (answer.problem["code"], answer.problem["field"], answer.retry) == ("bad_frame", "nonce", False)


async def test_a_call_that_the_control_plane_fails_at_is_answered(cp: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the control plane ends the call with a problem; the link stays open."""

    def broken(*_: object) -> None:
        raise TypeError("a fault")

    node = RawNode()
    async with node.linked(cp):
        with monkeypatch.context() as patch:
            patch.setattr(cp.engine._calls, "_commit", broken)
            await node.send(Call(op_id="one", target="shop.fn", input={}))
            failed = await node.next(CallResult, op_id="one")
        assert (failed.problem["code"], failed.problem["status"]) == ("internal_error", 500)
        await node.send(Ping())
        await node.next(Pong)


async def test_a_result_that_the_control_plane_fails_at_fails_its_execution_only(
    cp: Plane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is recorded as a failure and acknowledged; the link, and the other executions of the node, go on."""
    node = RawNode()
    async with node.linked(cp):
        good, bad = await cp.start("node.fn"), await cp.start("node.fn")
        invokes = {frame.context.execution_id: frame for frame in (await node.next(Invoke), await node.next(Invoke))}
        with monkeypatch.context() as patch:
            patch.setattr(ResultVerifier, "verify", _broken)
            await node.answer(invokes[bad], "lost")
            await node.next(ResultAck, execution_id=bad, accepted=True)
        view = await cp.finished(bad)
        assert (view["status"], view["problem"]["code"]) == ("failed", "internal_error")
        assert view["problem"]["execution_id"] == bad
        assert view["problem"]["detail"] == "The control plane failed at the result."
        assert "canary" not in str(view)
        assert "canary" in caplog.text
        await node.answer(invokes[good], "kept")
        assert (await cp.finished(good))["output"] == "kept"
        assert len(cp.hub.links()) == 1


async def test_a_result_that_cannot_be_recorded_at_all_ends_the_link(
    cp: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node sends it again over its next link."""
    node = RawNode()
    async with node.linked(cp):
        execution_id = await cp.start("node.fn")
        invoke = await node.next(Invoke)
        with monkeypatch.context() as patch:
            patch.setattr(ResultVerifier, "verify", _broken)
            patch.setattr(cp.engine, "fail_result", _broken)
            await node.answer(invoke, "again")
            await until(lambda: not cp.hub.links())
    held = RunningAttempt(execution_id=execution_id, attempt=1, epoch=invoke.epoch)
    async with node.linked(cp, results=(held,)):
        await node.send(node.result_of(invoke, "again"))
        assert (await cp.finished(execution_id))["output"] == "again"


@pytest.mark.parametrize("error", [TypeError("a fault"), Unavailable("The disk is full.")])
async def test_a_progress_that_cannot_be_recorded_is_dropped(
    cp: Plane, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The next one replaces it; the link stays open."""

    def failing(*_: object) -> None:
        raise error

    node = RawNode()
    async with node.linked(cp):
        execution_id = await cp.start("node.fn")
        invoke = await node.next(Invoke)
        with monkeypatch.context() as patch:
            patch.setattr(cp.engine, "progress", failing)
            await node.send(Progress(execution_id=execution_id, attempt=1, epoch=invoke.epoch, value={"done": 1}))
            await node.send(Ping())
            await node.next(Pong)
        await node.answer(invoke, "done")
        assert (await cp.finished(execution_id))["output"] == "done"


def _broken(*_: object, **__: object) -> None:
    raise TypeError("a canary")


async def test_a_closed_link_leaves_no_call_behind(cp: Plane) -> None:
    """The calls of a node are forgotten with its link; over the next one the node repeats them and gets their results."""
    node, call = RawNode(), Call(op_id="one", target="node.fn", input={})
    async with node.linked(cp):
        await node.send(call)
        await node.next(CallAccepted, op_id="one")
    await until(lambda: not cp.hub.links())
    assert not cp.engine._calls._pending
    assert not cp.engine._waiters._callbacks
    async with node.linked(cp):
        await node.send(call)
        await node.answer(await node.next(Invoke), 7)
        assert (await node.next(CallResult, op_id="one")).output == 7
        assert not cp.engine._waiters._callbacks


async def test_a_fault_after_a_commit_holds_nobody_up(cp: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are acknowledged and other waiters notified although what follows their commit fails."""
    node = RawNode()
    async with node.linked(cp):

        def broken(*_: object) -> None:
            raise TypeError("a fault")

        for place in ("_ended", "_bus"):
            execution_id = await cp.start("node.fn")
            cp.engine._waiters.call(execution_id, broken)
            waiting = asyncio.ensure_future(cp.engine.wait(execution_id, None))
            invoke = await node.next(Invoke)
            with monkeypatch.context() as patch:
                patch.setattr(cp.engine, place, broken if place == "_ended" else object())
                await node.send(node.result_of(invoke, 1))
                assert (await node.next(ResultAck)).accepted
            assert (await waiting).output == 1


async def test_declarations_stay_known_while_the_node_is_away(cp: Plane) -> None:
    """Declarations outlive the link, until the newest instance no longer declares them."""
    node = RawNode()
    async with node.linked(cp, sessions=(VOICE,)):
        assert set(cp.hub.functions()) == {"node.fn"}
        assert cp.hub.sessions() == {"node.voice": VOICE}
    await until(lambda: not cp.hub.links())
    assert set(cp.hub.functions()) == {"node.fn"}
    async with RawNode().linked(cp, functions=(FunctionSpec(name="other", input_schema={}),)):
        assert set(cp.hub.functions()) == {"node.other"}
        assert cp.hub.sessions() == {}


async def test_handler_goes_to_the_instance_with_the_fewest_sessions(cp: Plane) -> None:
    """Only instances that declare the session are considered."""
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


class FakeSessions:
    """Records the calls of `SessionPort`."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    async def session_command(self, link: LinkedNode, frame: Any) -> None:
        self.told.append(("command", frame.op_id))

    async def session_done(self, link: LinkedNode, frame: SessionDone) -> None:
        self.told.append(("done", frame.op_id))

    async def node_linked(self, link: LinkedNode) -> None:
        self.told.append(("linked", link.instance_id))

    async def node_lost(self, link: LinkedNode) -> None:
        self.told.append(("lost", link.instance_id))


async def test_sessions_are_notified_in_order(cp: Plane) -> None:
    """Linked, done and lost reach the sessions in order."""
    sessions, node = FakeSessions(), RawNode()
    cp.hub.bind_sessions(sessions)
    async with node.linked(cp, open_sessions=(("ses_1", 3),)):
        assert cp.hub.links()[0].sessions == set()  # the store knows of no such handler
        await node.send(SessionDone(op_id="op_1", session_id="ses_1", epoch=3))
        await until(lambda: len(sessions.told) == 2)
    await until(lambda: len(sessions.told) == 3)
    assert sessions.told == [("linked", node.instance_id), ("done", "op_1"), ("lost", node.instance_id)]


async def test_outbox_of_a_stalled_node_is_bounded(tmp_path: Path) -> None:
    """A node that does not read its frames loses its link."""
    async with plane(tmp_path / "a.db", ping_interval=0.1, ping_timeout=0.3) as cp:
        node = RawNode()
        async with dialled(cp, node):
            await node.greet()
            await until(cp.hub.links)  # listed after the welcome was sent
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
    """Both ends may ping."""
    async with plane(tmp_path / "a.db", ping_interval=0.05) as cp, dialled(cp, RawNode()) as node:
        await node.greet()
        assert isinstance(await node.receive(), Ping)
        await node.send(Ping())
        frame = await node.receive()
        while isinstance(frame, Ping):
            frame = await node.receive()
        assert isinstance(frame, Pong)


async def test_overlapping_links_of_one_instance(cp: Plane) -> None:
    """Overlapping links of one instance leave exactly one, with its work."""
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


async def test_shutdown_ends_links_without_losing_nodes(cp: Plane) -> None:
    """On shutdown the links end and no node counts as lost; a late node is told to retry."""
    sessions, node = FakeSessions(), RawNode(instance_id=new_id("node"))
    cp.hub.bind_sessions(sessions)
    async with node.linked(cp):
        await cp.hub.close()
        assert node.socket is not None
        await until(lambda: node.socket.closed)  # type: ignore[union-attr]
        assert sessions.told == [("linked", node.instance_id)]
        async with dialled(cp, RawNode()) as late:
            answer = await late.greet()
            assert isinstance(answer, Refused)
            assert answer.retry
