"""Plugin hooks in a session: admission gates, and tool middleware through cancellation, end and restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from msgspec.structs import replace

from agentfield.errors import ExecutionCancelled, Forbidden, InvalidInput, PluginBroken
from agentfield.identity import NodeKey, digest
from agentfield.plugins import Proceed, SessionRequest, ToolCall
from agentfield.realtime.commands import AddTextCommand, ToolResultCommand
from agentfield.realtime.events import Interrupted, ReplyEnded, ReplyStarted, ToolRequested
from agentfield.realtime.transport import Evidence
from agentfield.wire.frames import RunningAttempt
from agentfield.wire.rest import StartRequest
from agentfield_server.sessions.start import IncomingCall
from agentfield_server.store.records import IdempotencyKey
from support.core.hooks import plugin
from support.server.sessions import Adapter, Plane, Provider, ScriptedNode, plane
from support.waiting import until, until_async

Middleware = Callable[[ToolCall, Proceed], Awaitable[Any]]


def middleware(name: str, function: Middleware) -> object:
    return plugin(name, tool_middleware=lambda: [function])


async def live(here: Plane, adapter: Adapter, node: ScriptedNode) -> tuple[str, Provider]:
    """Start a session and connect its caller."""
    session_id = await here.start()
    await here.sessions.offer(session_id, "offer")
    await here.state(session_id, "live")
    await node.opened(1)
    return session_id, list(adapter.calls.values())[-1]


def model_node(here: Plane, look: Callable[[dict[str, Any]], Any], key: NodeKey | None = None) -> ScriptedNode:
    """Return a node whose session the model answers, with one tool."""
    node = ScriptedNode(key or NodeKey.generate(), here.url, floor="model", tools=("shop.look",))
    node.functions["look"] = look
    return node


def ask(provider: Provider, **arguments: Any) -> None:
    """Let the model call its tool once."""
    provider.caller_says("look")
    provider.tell(ReplyStarted(reply="r1"))
    provider.tell(ToolRequested(call_id="c1", name="shop.look", arguments=json.dumps(arguments), reply="r1"))
    provider.tell(ReplyEnded(reply="r1", tools=1))


async def the_tool(here: Plane, session_id: str) -> Any:
    """Return the only execution of a tool; None if there is none."""
    found = [x for x in await here.executions(session_id) if x.kind == "tool"]
    assert len(found) <= 1
    return found[0] if found else None


async def test_a_gate_decides_before_anything_is_stored(tmp_path: Path) -> None:
    """A gate gets the request and its principal; a refused session is not stored and holds no lease."""
    asked: list[SessionRequest] = []

    async def only_ann(request: SessionRequest) -> None:
        asked.append(request)
        if request.caller != "ann":
            raise Forbidden("only ann may call")

    adapter = Adapter()
    async with plane(tmp_path, adapter, plugin("door", session_authorize=only_ann)) as here:
        node = await ScriptedNode(NodeKey.generate(), here.url, tags=("vip",)).link()
        evidence = Evidence("signature", {"number": "+49"})
        request = StartRequest(target="shop.voice", caller="bob", metadata={"line": "1"})
        with pytest.raises(Forbidden) as caught:
            await here.sessions.start(request, principal="op", incoming_call=IncomingCall("webrtc", evidence))
        assert caught.value.code == "session_refused"
        assert await here.store.list_sessions() == []
        await here.start()
        assert [row.caller for row in await here.store.list_sessions()] == ["ann"]
        first = asked[0]
        assert (first.target, first.caller, dict(first.metadata)) == ("shop.voice", "bob", {"line": "1"})
        assert (first.provider, first.transport, first.model) == ("acme", "webrtc", "m-1")
        assert (first.tags, first.principal, first.evidence) == (("vip",), "op", evidence)
        await node.drop()


async def test_a_repeated_start_skips_the_gate(tmp_path: Path) -> None:
    """A repeated start returns its session, even if a gate would refuse it now."""
    asked: list[SessionRequest] = []

    async def once(request: SessionRequest) -> None:
        asked.append(request)
        if len(asked) > 1:
            raise Forbidden("one is enough")

    adapter = Adapter()
    async with plane(tmp_path, adapter, plugin("door", session_authorize=once)) as here:
        node = await ScriptedNode(NodeKey.generate(), here.url).link()
        request = StartRequest(target="shop.voice")
        key = IdempotencyKey(principal="op", route="start", target="shop.voice", key="k1", body_digest=b"1")
        first, config = await here.sessions.start(request, principal="op", idempotency=key)
        assert await here.sessions.start(request, principal="op", idempotency=key) == (first, config)
        assert len(asked) == 1
        with pytest.raises(InvalidInput) as caught:
            await here.sessions.start(request, principal="op", idempotency=replace(key, body_digest=b"2"))
        assert caught.value.code == "idempotency_mismatch"
        with pytest.raises(Forbidden, match="one is enough"):
            await here.sessions.start(request, principal="op", idempotency=replace(key, key="k2"))
        await node.drop()


async def test_a_middleware_changes_what_the_model_gets(tmp_path: Path) -> None:
    """A middleware changes input and output for the model; the execution records what the node got and returned, signed."""

    async def redacts(call: ToolCall, proceed: Proceed) -> Any:
        output = await proceed(call.with_input({**call.input, "order": 427}))
        return {**output, "card": "hidden"}

    adapter = Adapter()
    async with plane(tmp_path, adapter, middleware("redact", redacts)) as here:
        node = await model_node(here, lambda given: {"order": given["order"], "card": "4711"}).link()
        session_id, provider = await live(here, adapter, node)
        ask(provider, order=1)
        result = await provider.asked(ToolResultCommand)
        assert json.loads(result.output) == {"order": 427, "card": "hidden"}
        tool = await the_tool(here, session_id)
        assert (tool.input, tool.output) == ({"order": 427}, {"order": 427, "card": "4711"})
        assert (tool.input_digest, tool.output_digest) == (digest(tool.input), digest(tool.output))
        assert tool.signature
        about = {"call_id": "c1", "target": "shop.look", "plugin": "redact"}
        (changed,) = await here.recorded(session_id, "tool.input_changed")
        assert changed == {**about, "asked": {"order": 1}}
        (given,) = await here.recorded(session_id, "tool.output_changed")
        assert given == {**about, "given": {"order": 427, "card": "hidden"}}
        told = [(event.type, event.execution_id) for event in await here.events(session_id)]
        created = told.index(("execution.created", tool.id))
        assert told[created + 1] == ("tool.input_changed", tool.id)
        assert told.index(("tool.output_changed", tool.id)) == [kind for kind, _ in told].index("tool.answered") - 1
        await node.drop()


class HideCard:
    """Replaces the card of a call's input before it is recorded."""

    def redact(self, call: ToolCall) -> dict[str, Any]:
        if call.input.get("order") == 13:
            raise ValueError(f"secret {call.input}")
        return {**call.input, "card": "…" + str(call.input["card"])[-4:]}

    async def __call__(self, call: ToolCall, proceed: Proceed) -> Any:
        return await proceed(call)


CARD = "4929000000004711"


def assert_in_no_file(value: str, folder: Path) -> None:
    """Check that no file of a stopped control plane contains a value."""
    for path in folder.rglob("*"):
        assert path.is_dir() or value.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("kind", ["tool", "call"])
async def test_what_a_middleware_redacts_is_recorded_nowhere(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither `tool.requested` nor `tool.input_changed`, an execution, a file or the log has the redacted value."""

    async def changes(call: ToolCall, proceed: Proceed) -> Any:
        return await proceed(call.with_input({**call.input, "locale": "en"}))

    adapter = Adapter()
    hide = plugin("hide", tool_middleware=lambda: [HideCard()])
    async with plane(tmp_path, adapter, hide, middleware("change", changes)) as here:
        node = await model_node(here, lambda given: {"paid": given["card"]}).link()
        session_id, provider = await live(here, adapter, node)
        if kind == "tool":
            ask(provider, order=1, card=CARD)
            assert json.loads((await provider.asked(ToolResultCommand)).output) == {"paid": "…4711"}
        else:
            command = await node.command("call", target="shop.look", input={"order": 1, "card": CARD})
            assert (await node.answer(command)).value == {"paid": "…4711"}
        about = {"target": "shop.look"}
        shown = {"order": 1, "card": "…4711"}
        requested = await here.recorded(session_id, "tool.requested")
        assert [each["arguments"] for each in requested] == ([shown] if kind == "tool" else [])
        (redacted,) = await here.recorded(session_id, "tool.input_redacted")
        assert {name: redacted[name] for name in redacted if name != "call_id"} == {**about, "plugin": "hide"}
        (changed,) = await here.recorded(session_id, "tool.input_changed")
        assert changed["asked"] == shown
        (invoke,) = node.invoked
        assert invoke.input == {**shown, "locale": "en"}
        await node.drop()
    assert CARD not in caplog.text
    assert_in_no_file(CARD, tmp_path)


@pytest.mark.parametrize("kind", ["tool", "call"])
async def test_a_call_that_cannot_be_redacted_is_refused(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A plugin whose `redact` fails keeps the call from running; its input is recorded nowhere, not even in the error."""
    adapter = Adapter()
    async with plane(tmp_path, adapter, plugin("hide", tool_middleware=lambda: [HideCard()])) as here:
        node = await model_node(here, lambda given: given).link()
        session_id, provider = await live(here, adapter, node)
        if kind == "tool":
            ask(provider, order=13, card=CARD)
            error = json.loads((await provider.asked(ToolResultCommand)).output)["error"]
            assert error == {"code": "middleware_failed", "message": "shop.look: a plugin failed at the call"}
            (refused,) = await here.recorded(session_id, "tool.refused")
            assert refused == {"call_id": "c1", "name": "shop.look", "why": "middleware_failed"}
        else:
            command = await node.command("call", target="shop.look", input={"order": 13, "card": CARD})
            problem = (await node.answer(command)).problem
            assert (problem["code"], problem["status"]) == ("middleware_failed", 502)
        (failed,) = await here.recorded(session_id, "tool.middleware_failed")
        assert failed["plugin"] == "hide"
        assert node.invoked == []
        assert await here.recorded(session_id, "tool.requested") == []
        await node.drop()
    assert CARD not in caplog.text
    assert_in_no_file(CARD, tmp_path)


async def test_a_redacted_call_continues_after_a_restart(tmp_path: Path) -> None:
    """The call continues with the input that was recorded: the redacted one."""
    adapter, key = Adapter(), NodeKey.generate()
    held = HeldMiddleware()
    hide = plugin("hide", tool_middleware=lambda: [HideCard()])
    async with plane(tmp_path, adapter, hide, plugin("holds", tool_middleware=lambda: [held])) as first:
        node = await model_node(first, lambda given: given, key).link()
        _, provider = await live(first, adapter, node)
        ask(provider, order=1, card=CARD)
        await held.here.wait()
        await node.drop()
    async with plane(tmp_path, adapter, hide) as second:
        again = await model_node(second, lambda given: given, key).link()
        await again.opened(2)
        result = await adapter.calls["call1"].asked(ToolResultCommand)
        assert json.loads(result.output) == {"order": 1, "card": "…4711"}
        await again.drop()


async def test_a_veto_reaches_the_model_and_is_recorded(tmp_path: Path) -> None:
    """The target is not run; the model gets the plugin's message, and the conversation continues."""

    async def vetoes(call: ToolCall, proceed: Proceed) -> NoReturn:
        raise Forbidden("not today")

    adapter = Adapter()
    async with plane(tmp_path, adapter, middleware("rules", vetoes)) as here:
        node = await model_node(here, lambda given: given).link()
        session_id, provider = await live(here, adapter, node)
        ask(provider)
        result = await provider.asked(ToolResultCommand)
        message = "The plugin 'rules' refused the call of shop.look: not today"
        assert json.loads(result.output) == {"error": {"code": "tool_vetoed", "message": message}}
        (vetoed,) = await here.recorded(session_id, "tool.vetoed")
        assert vetoed == {"call_id": "c1", "target": "shop.look", "plugin": "rules", "message": "not today"}
        assert (node.invoked, await the_tool(here, session_id)) == ([], None)
        await provider.speaks()
        await node.drop()


async def test_a_failing_middleware_withholds_the_result(tmp_path: Path) -> None:
    """The execution is recorded as succeeded; the model gets an error that names the plugin."""

    async def fails(call: ToolCall, proceed: Proceed) -> NoReturn:
        await proceed(call)
        raise RuntimeError("secret-4711")

    adapter = Adapter()
    async with plane(tmp_path, adapter, middleware("redact", fails)) as here:
        node = await model_node(here, lambda given: {"card": "4711"}).link()
        session_id, provider = await live(here, adapter, node)
        ask(provider)
        result = await provider.asked(ToolResultCommand)
        assert "4711" not in result.output
        assert json.loads(result.output)["error"]["code"] == "middleware_failed"
        tool = await the_tool(here, session_id)
        assert (tool.status, tool.output) == ("succeeded", {"card": "4711"})
        (event,) = [event for event in await here.events(session_id) if event.type == "tool.middleware_failed"]
        assert event.execution_id == tool.id
        await node.drop()


async def test_the_handler_s_calls_pass_the_middleware(tmp_path: Path) -> None:
    """`session.call` passes the same middleware; a veto is an error of the call, with its code."""

    async def by_kind(call: ToolCall, proceed: Proceed) -> Any:
        assert (call.kind, call.session, call.caller) == ("call", "shop.voice", "ann")
        if call.input.get("order") == 13:
            raise Forbidden("not that one", hint="ask for another")
        return {"changed": await proceed(call)}

    adapter = Adapter()
    async with plane(tmp_path, adapter, middleware("rules", by_kind)) as here:
        node = ScriptedNode(NodeKey.generate(), here.url)
        node.functions["look"] = lambda given: given
        await node.link()
        session_id, _ = await live(here, adapter, node)
        answer = await node.answer(await node.command("call", target="shop.look", input={"order": 1}))
        assert answer.value == {"changed": {"order": 1}}
        problem = (await node.answer(await node.command("call", target="shop.look", input={"order": 13}))).problem
        assert (problem["code"], problem["status"], problem["hint"]) == ("tool_vetoed", 403, "ask for another")
        assert len(await here.recorded(session_id, "tool.output_changed")) == 1
        await node.drop()


async def test_a_change_is_recorded_without_an_execution(tmp_path: Path) -> None:
    """A call that is refused after a middleware changed its input has no execution, but its change is recorded."""

    async def changes(call: ToolCall, proceed: Proceed) -> Any:
        return await proceed(call.with_input({"order": 2}))

    adapter = Adapter()
    async with plane(tmp_path, adapter, middleware("rules", changes)) as here:
        node = await ScriptedNode(NodeKey.generate(), here.url).link()
        session_id, _ = await live(here, adapter, node)
        problem = (await node.answer(await node.command("call", target="shop.nothing", input={"order": 1}))).problem
        assert problem["code"] == "unknown_target"
        (event,) = [event for event in await here.events(session_id) if event.type == "tool.input_changed"]
        assert (json.loads(event.canonical)["body"]["asked"], event.execution_id) == ({"order": 1}, None)
        await node.drop()


class HeldMiddleware:
    """A middleware that waits until the test releases it."""

    def __init__(self) -> None:
        self.here, self.go = asyncio.Event(), asyncio.Event()
        self.raised: BaseException | None = None

    async def __call__(self, call: ToolCall, proceed: Proceed) -> Any:
        self.here.set()
        await self.go.wait()
        try:
            return await proceed(call)
        except BaseException as error:
            self.raised = error
            raise


async def test_a_call_cancelled_in_the_middleware_is_not_started(tmp_path: Path) -> None:
    """The caller interrupts while a middleware holds the call: no execution is created."""
    held, adapter = HeldMiddleware(), Adapter()
    async with plane(tmp_path, adapter, plugin("holds", tool_middleware=lambda: [held])) as here:
        node = model_node(here, lambda given: given)
        node.on_interrupt = "cancel"
        await node.link()
        session_id, provider = await live(here, adapter, node)
        provider.caller_says("look")
        provider.tell(ReplyStarted(reply="r1"))
        provider.tell(ToolRequested(call_id="c1", name="shop.look", arguments="{}", reply="r1"))
        await held.here.wait()
        provider.tell(Interrupted(reply="r1"))
        result = await provider.asked(ToolResultCommand)
        assert json.loads(result.output)["error"]["code"] == "interrupted"
        held.go.set()
        await until(lambda: held.raised)
        assert isinstance(held.raised, ExecutionCancelled)
        assert (node.invoked, await the_tool(here, session_id)) == ([], None)
        await node.drop()


async def test_no_tool_starts_after_the_end(tmp_path: Path) -> None:
    """A session ends while a middleware holds a tool call: the tool is not run."""
    held, adapter = HeldMiddleware(), Adapter()
    async with plane(tmp_path, adapter, plugin("holds", tool_middleware=lambda: [held])) as here:
        node = await model_node(here, lambda given: given).link()
        session_id, provider = await live(here, adapter, node)
        ask(provider)
        await held.here.wait()
        await here.sessions.end(session_id, "operator")
        held.go.set()
        await until(lambda: held.raised)
        assert isinstance(held.raised, ExecutionCancelled)
        assert (node.invoked, await the_tool(here, session_id)) == ([], None)
        await node.drop()


async def test_an_execution_abandoned_by_its_middleware_is_cancelled(tmp_path: Path) -> None:
    """A middleware with its own deadline answers instead of the target: the execution is cancelled."""

    async def impatient(call: ToolCall, proceed: Proceed) -> Any:
        try:
            async with asyncio.timeout(0.2):
                return await proceed(call)
        except TimeoutError:
            return "it takes too long"

    adapter = Adapter()
    async with plane(tmp_path, adapter, middleware("timer", impatient)) as here:
        node = await model_node(here, lambda given: ...).link()
        session_id, provider = await live(here, adapter, node)
        ask(provider)
        assert (await provider.asked(ToolResultCommand)).output == '"it takes too long"'

        async def closed() -> Any:
            tool = await the_tool(here, session_id)
            return tool if tool is not None and tool.status == "cancelled" else None

        tool = await until_async(closed)
        assert tool.problem["reason"] == "a plugin cancelled it"
        (changed,) = await here.recorded(session_id, "tool.output_changed")
        assert changed["given"] == "it takes too long"
        await node.drop()


async def test_an_execution_abandoned_during_its_creation_is_cancelled(tmp_path: Path) -> None:
    """A middleware that stops waiting before the commit leaves no running execution."""

    async def turns_away(call: ToolCall, proceed: Proceed) -> Any:
        going_on = asyncio.ensure_future(proceed(call))
        await asyncio.sleep(0)
        going_on.cancel()
        await asyncio.gather(going_on, return_exceptions=True)
        return "never mind"

    adapter = Adapter()
    async with plane(tmp_path, adapter, middleware("turns", turns_away)) as here:
        node = await model_node(here, lambda given: ...).link()
        session_id, provider = await live(here, adapter, node)
        ask(provider)
        assert (await provider.asked(ToolResultCommand)).output == '"never mind"'

        async def closed() -> bool:
            tool = await the_tool(here, session_id)
            return tool is not None and tool.status == "cancelled"

        assert await until_async(closed)
        await node.drop()


@pytest.mark.parametrize("before", [True, False], ids=["in the middleware", "in the target"])
async def test_a_call_continues_after_a_restart(tmp_path: Path, before: bool) -> None:
    """After a stop at any point the call passes the middleware again, but runs and is recorded once."""
    adapter, key = Adapter(), NodeKey.generate()
    held, passages = HeldMiddleware(), []

    async def counts(call: ToolCall, proceed: Proceed) -> Any:
        passages.append(dict(call.input))
        output = await proceed(call.with_input({**call.input, "seen": len(passages)}))
        return {**output, "card": "hidden"}

    hooks = [middleware("counts", counts)]
    if before:
        hooks.append(plugin("holds", tool_middleware=lambda: [held]))
    async with plane(tmp_path, adapter, *hooks) as first:
        node = await model_node(first, lambda given: ..., key).link()
        session_id, provider = await live(first, adapter, node)
        ask(provider, order=1)
        if before:
            await held.here.wait()
        else:
            await until(lambda: node.invoked)
        invoked = list(node.invoked)
        await node.drop()

    async with plane(tmp_path, adapter, *hooks[:1]) as second:
        again = model_node(second, lambda given: ..., key)
        again.running = tuple(
            RunningAttempt(execution_id=x.context.execution_id, attempt=x.context.attempt, epoch=x.epoch)
            for x in invoked
        )
        await again.link()
        await again.opened(2)
        if before:
            await until(lambda: again.invoked)
        (invoke,) = invoked or again.invoked
        assert invoke.input == {"order": 1, "seen": 2 if before else 1}
        await again.finish(invoke, {"found": True})
        result = await adapter.calls["call1"].asked(ToolResultCommand)
        assert json.loads(result.output) == {"found": True, "card": "hidden"}
        assert passages == [{"order": 1}, {"order": 1}]
        assert (await the_tool(second, session_id)).status == "succeeded"
        for kind in ("tool.input_changed", "tool.output_changed"):
            assert len(await second.recorded(session_id, kind)) == 1
        await again.drop()


async def test_a_middleware_that_ignores_cancellation_cannot_block_the_shutdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A middleware that ignores its cancellation is left running at shutdown, with a log line."""
    monkeypatch.setattr("agentfield_server.sessions.actor.tool_runner._CLOSE", 0.05)
    entered, release, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def clings(call: ToolCall, proceed: Proceed) -> None:
        entered.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        done.set()

    adapter, node = Adapter(), None
    async with plane(tmp_path, adapter, middleware("clings", clings)) as here:
        node = await model_node(here, lambda given: given).link()
        _, provider = await live(here, adapter, node)
        ask(provider)
        await entered.wait()
        await node.drop()
    assert "1 calls of session" in caplog.text
    release.set()
    await done.wait()


async def test_a_late_result_passes_the_middleware(tmp_path: Path) -> None:
    """A result that arrives after its call was answered as pending enters the conversation as changed by the middleware."""

    async def redacts(call: ToolCall, proceed: Proceed) -> Any:
        return {**await proceed(call), "card": "hidden"}

    adapter = Adapter()
    async with plane(tmp_path, adapter, middleware("redact", redacts)) as here:
        node = await model_node(here, lambda given: ...).link()
        session_id, provider = await live(here, adapter, node)
        ask(provider)
        await until(lambda: node.invoked)
        await until_async(lambda: here.recorded(session_id, "tool.requested"))
        here.clock.advance(21)
        assert (await provider.asked(ToolResultCommand)).output == '{"status":"pending"}'
        await node.finish(node.invoked[0], {"card": "4711"})
        text = (await provider.asked(AddTextCommand)).text
        assert '{"card":"hidden"}' in text
        assert "4711" not in text
        await node.drop()


async def test_an_invalid_middleware_prevents_the_start_of_the_control_plane(tmp_path: Path) -> None:
    """A control plane with an invalid middleware does not start: calls must not pass unchecked."""

    def boom() -> NoReturn:
        raise RuntimeError

    with pytest.raises(PluginBroken):
        async with plane(tmp_path, Adapter(), plugin("redact", tool_middleware=boom)):
            pass
