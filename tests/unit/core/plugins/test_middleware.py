"""The tool middleware: order, vetoes, changes and timeouts; a failure affects its call only."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield.errors import AgentFieldError, ExecutionFailed, Forbidden, InvalidInput, MiddlewareFailed, PluginBroken
from agentfield.plugins import Proceed, ToolCall
from agentfield.plugins.hooks.middleware import MAX_OUTPUT, Invocation, MiddlewareChain
from support.core.hooks import call, plugin, registry

Function = Callable[[ToolCall, Proceed], Awaitable[Any]]


class At:
    """A middleware with an order."""

    def __init__(self, function: Function, order: Any = 0) -> None:
        self.order = order
        self._function = function

    async def __call__(self, call: ToolCall, proceed: Proceed) -> Any:
        return await self._function(call, proceed)


def chain(*functions: Function, timeout: float = 5.0) -> MiddlewareChain:
    """Return a chain of the plugins a, b, c …, each with one middleware."""
    plugins = [
        plugin(name, tool_middleware=lambda function=function: [function])
        for name, function in zip("abcdef", functions, strict=False)
    ]
    return MiddlewareChain(registry(*plugins), timeout=timeout)


class Target:
    """A target that keeps its inputs."""

    def __init__(self, output: Any = None, error: AgentFieldError | None = None) -> None:
        self.inputs: list[Any] = []
        self._output, self._error = output, error

    async def __call__(self, call: ToolCall) -> Any:
        self.inputs.append(dict(call.input))
        if self._error is not None:
            raise self._error
        return self._output


async def passed(call: ToolCall, proceed: Proceed) -> Any:
    """Pass the call on unchanged."""
    return await proceed(call)


def events_of(invocation: Invocation) -> list[tuple[str, dict[str, Any]]]:
    return [
        (event.type, {name: value for name, value in event.body.items() if name not in ("call_id", "target")})
        for event in invocation.events
    ]


@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from("pqrs")), max_size=12), st.randoms())
async def test_the_order_does_not_depend_on_discovery(places: list[tuple[int, str]], random: Any) -> None:
    """Middleware is sorted by order, plugin name and position in the plugin's list."""
    ran: list[tuple[int, str, int]] = []

    def marked(order: int, name: str, number: int) -> At:
        async def mark(call: ToolCall, proceed: Proceed) -> Any:
            ran.append((order, name, number))
            output = await proceed(call)
            assert ran.pop() == (order, name, number)
            return output

        return At(mark, order)

    named: dict[str, list[At]] = {}
    for order, name in places:
        mine = named.setdefault(name, [])
        mine.append(marked(order, name, len(mine)))
    plugins = [plugin(name, tool_middleware=lambda mine=mine: mine) for name, mine in named.items()]
    random.shuffle(plugins)
    seen: list[tuple[int, str, int]] = []

    async def target(call: ToolCall) -> Any:
        seen.extend(ran)
        return dict(call.input)

    invocation = Invocation(call(word="x"))
    assert await MiddlewareChain(registry(*plugins)).run(invocation, target) == {"word": "x"}
    assert seen == sorted(
        (order, name, n) for name, mine in named.items() for n, order in enumerate(m.order for m in mine)
    )
    assert (ran, invocation.events) == ([], [])


async def test_changes_are_recorded_with_their_plugin() -> None:
    """The target gets the changed input, the session the changed output; each event has the plugin and the original value."""

    async def louder(call: ToolCall, proceed: Proceed) -> Any:
        return await proceed(call.with_input({**call.input, "word": "LOUD"}))

    async def redacts(call: ToolCall, proceed: Proceed) -> Any:
        assert call.input == {"word": "LOUD"}
        return {**await proceed(call), "card": "…"}

    invocation, target = Invocation(call(word="loud")), Target({"card": "4711"})
    assert await chain(louder, redacts).run(invocation, target) == {"card": "…"}
    assert target.inputs == [{"word": "LOUD"}]
    assert events_of(invocation) == [
        ("tool.input_changed", {"plugin": "a", "asked": {"word": "loud"}}),
        ("tool.output_changed", {"plugin": "b", "given": {"card": "…"}}),
    ]


class Redacts:
    """Redacts one value; `result` replaces what it returns."""

    def __init__(self, name: str, result: Callable[[dict[str, Any]], Any] | None = None) -> None:
        self.name = name
        self.result = result

    def redact(self, call: ToolCall) -> Any:
        given = dict(call.input)
        return {**given, self.name: "…"} if self.result is None else self.result(given)

    async def __call__(self, call: ToolCall, proceed: Proceed) -> Any:
        return await proceed(call)


def redacting(*middleware: Any) -> MiddlewareChain:
    return MiddlewareChain(
        registry(
            *(plugin(f"p{number}", tool_middleware=lambda each=each: [each]) for number, each in enumerate(middleware))
        )
    )


def test_each_redaction_sees_the_one_before() -> None:
    """All plugins redact, outermost first; a change is recorded without values, and without a change nothing is."""
    seen: list[dict[str, Any]] = []

    def unchanged(given: dict[str, Any]) -> dict[str, Any]:
        seen.append(given)
        return given

    invocation = Invocation(call(card="4711", pin="12"))
    made = redacting(Redacts("card"), Redacts("pin", unchanged), Redacts("pin")).redact(invocation)
    assert dict(made.input) == {"card": "…", "pin": "…"}
    assert seen == [{"card": "…", "pin": "12"}]
    assert events_of(invocation) == [("tool.input_redacted", {"plugin": name}) for name in ("p0", "p2")]
    assert dict(invocation.call.input) == {"card": "4711", "pin": "12"}


def changes_its_copy(given: dict[str, Any]) -> dict[str, Any]:
    given["nested"]["card"] = "changed"
    return {"nested": {"card": "…"}}


def test_a_redaction_works_on_a_copy() -> None:
    """What `redact` does to its argument has no effect."""
    invocation = Invocation(call(nested={"card": "4711"}))
    assert dict(redacting(Redacts("", changes_its_copy)).redact(invocation).input) == {"nested": {"card": "…"}}
    assert dict(invocation.call.input) == {"nested": {"card": "4711"}}


def raises_the_value(given: dict[str, Any]) -> NoReturn:
    raise ValueError(str(given))


def exits_with_the_value(given: dict[str, Any]) -> NoReturn:
    raise SystemExit(str(given))


def is_cancelled(given: dict[str, Any]) -> NoReturn:
    raise asyncio.CancelledError(str(given))


@pytest.mark.parametrize(
    "result",
    [
        raises_the_value,
        exits_with_the_value,
        is_cancelled,
        lambda _: None,
        lambda _: "text",
        lambda _: {"a": object()},
        lambda _: {1: 2},
    ],
)
def test_a_failed_redaction_fails_the_call(result: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Any failure is `middleware_failed` with the plugin's name; the value is in no message."""
    invocation = Invocation(call(card="4711"))
    with pytest.raises(MiddlewareFailed) as caught:
        redacting(Redacts("", result)).redact(invocation)
    assert "4711" not in f"{caught.value.to_problem()} {caplog.text}"
    assert [kind for kind, _ in events_of(invocation)] == ["tool.middleware_failed"]


async def test_a_mutation_takes_effect_when_passed_on() -> None:
    """Mutated values affect no other middleware until they are passed on, which is recorded."""
    asked = call(words=["a"])

    async def adds(call: ToolCall, proceed: Proceed) -> Any:
        call.input["words"].append("b")
        output = await proceed(call)
        output["found"].append("c")
        return output

    kept = {"found": ["x"]}
    invocation, target = Invocation(asked), Target(kept)
    assert await chain(adds, passed).run(invocation, target) == {"found": ["x", "c"]}
    assert target.inputs == [{"words": ["a", "b"]}]
    assert (asked.input, kept) == ({"words": ["a"]}, {"found": ["x"]})
    assert [event.type for event in invocation.events] == ["tool.input_changed", "tool.output_changed"]


@pytest.mark.parametrize(("value", "kept"), [("x" * 40_000, "bytes"), (2**60, "bytes"), ("x", "value")])
async def test_unrecordable_values_are_recorded_as_digests(value: Any, kept: str) -> None:
    """Large values and values without canonical JSON are recorded as size and digest."""

    async def answers(call: ToolCall, proceed: Proceed) -> Any:
        return value

    invocation = Invocation(call())
    assert await chain(answers).run(invocation, Target()) == value
    ((_, body),) = events_of(invocation)
    assert body.keys() == ({"plugin", "given"} if kept == "value" else {"plugin", "given_bytes", "given_sha256"})


async def test_a_veto_has_the_plugins_message() -> None:
    """The target is not run; the code is `tool_vetoed`."""

    async def vetoes(call: ToolCall, proceed: Proceed) -> NoReturn:
        raise Forbidden("orders are looked up by day", hint="ask tomorrow")

    invocation, target = Invocation(call()), Target()
    with pytest.raises(Forbidden) as caught:
        await chain(passed, vetoes, passed).run(invocation, target)
    told = caught.value
    assert (told.code, told.status, told.hint) == ("tool_vetoed", 403, "ask tomorrow")
    assert told.message == "The plugin 'b' refused the call of shop.look: orders are looked up by day"
    assert target.inputs == []
    assert events_of(invocation) == [("tool.vetoed", {"plugin": "b", "message": "orders are looked up by day"})]


async def raises(call: ToolCall, proceed: Proceed) -> NoReturn:
    raise RuntimeError("secret-4711")


async def raises_later(call: ToolCall, proceed: Proceed) -> NoReturn:
    await proceed(call)
    raise InvalidInput("secret-4711")


async def exits(call: ToolCall, proceed: Proceed) -> NoReturn:
    raise SystemExit(3)


async def cancels(call: ToolCall, proceed: Proceed) -> NoReturn:
    raise asyncio.CancelledError


async def hangs(call: ToolCall, proceed: Proceed) -> None:
    await asyncio.Event().wait()


async def hangs_later(call: ToolCall, proceed: Proceed) -> None:
    await proceed(call)
    await asyncio.Event().wait()


async def returns_an_object(call: ToolCall, proceed: Proceed) -> Any:
    return object()


async def returns_nan(call: ToolCall, proceed: Proceed) -> Any:
    return [float("nan")]


async def returns_too_much(call: ToolCall, proceed: Proceed) -> Any:
    return "x" * MAX_OUTPUT


async def proceeds_twice(call: ToolCall, proceed: Proceed) -> Any:
    await proceed(call)
    return await proceed(call)


async def proceeds_elsewhere(call: ToolCall, proceed: Proceed) -> Any:
    return await proceed(dataclasses.replace(call, target="shop.delete"))


async def proceeds_with_an_object(call: ToolCall, proceed: Proceed) -> Any:
    return await proceed(call.with_input({"x": object()}))


@pytest.mark.parametrize(
    ("fails", "runs"),
    [
        (raises, 0),
        (raises_later, 1),
        (exits, 0),
        (cancels, 0),
        (hangs, 0),
        (hangs_later, 1),
        (returns_an_object, 0),
        (returns_nan, 0),
        (returns_too_much, 0),
        (proceeds_twice, 1),
        (proceeds_elsewhere, 0),
        (proceeds_with_an_object, 0),
    ],
)
async def test_a_failure_names_the_plugin_and_withholds_the_result(
    fails: Function, runs: int, caplog: pytest.LogCaptureFixture
) -> None:
    """For each fault of a middleware the call fails once, and the details stay in the log."""
    invocation, target = Invocation(call()), Target({"card": "4711"})
    with pytest.raises(MiddlewareFailed) as caught:
        await chain(passed, fails, timeout=0.02).run(invocation, target)
    told = caught.value
    assert (told.code, told.status) == ("middleware_failed", 502)
    assert told.message == "The plugin 'b' failed at the call of shop.look, so there is no result."
    assert told.hint == "see the control plane's log, or start it with AGENTFIELD_DISABLE_PLUGINS=b"
    assert told.data == {"plugin": "b", "target": "shop.look"}
    assert "4711" not in str(told.to_problem())
    assert len(target.inputs) == runs
    assert events_of(invocation) == [("tool.middleware_failed", {"plugin": "b"})]
    assert "plugin.hook_failed plugin=b hook=agentfield_tool_middleware target=shop.look" in caplog.text


async def test_the_timeout_is_suspended_while_the_target_runs() -> None:
    """A target may run longer than the timeout; the middleware continues with its remaining time."""
    seen: list[float | None] = []

    async def slow(call: ToolCall) -> Any:
        await asyncio.sleep(1.2)  # longer than a middleware has for itself
        return 1

    async def checks(call: ToolCall, proceed: Proceed) -> Any:
        output = await proceed(call)
        await asyncio.sleep(0)
        seen.append(output)
        return output

    invocation = Invocation(call())
    assert await chain(checks, checks, timeout=1.0).run(invocation, slow) == 1
    assert (seen, invocation.events) == ([1, 1], [])


async def test_the_targets_error_passes_through_unchanged() -> None:
    """A middleware may catch the error and return an output, which is recorded."""
    error = ExecutionFailed("no such order")
    seen: list[AgentFieldError] = []

    async def looks(call: ToolCall, proceed: Proceed) -> Any:
        try:
            return await proceed(call)
        except AgentFieldError as caught:
            seen.append(caught)
            raise

    async def rescues(call: ToolCall, proceed: Proceed) -> Any:
        try:
            return await proceed(call)
        except ExecutionFailed:
            return "none"

    invocation = Invocation(call())
    with pytest.raises(ExecutionFailed) as caught:
        await chain(looks, looks).run(invocation, Target(error=error))
    assert caught.value is error
    assert (seen, invocation.events) == ([error, error], [])
    assert await chain(rescues, looks).run(invocation, Target(error=error)) == "none"
    assert events_of(invocation) == [("tool.output_changed", {"plugin": "a", "given": "none"})]


async def test_cancelling_a_call_cancels_the_chain() -> None:
    """A cancellation is no failure of a plugin."""
    started, stopped = asyncio.Event(), asyncio.Event()

    async def waits(call: ToolCall) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    invocation = Invocation(call())
    task = asyncio.create_task(chain(passed, passed).run(invocation, waits))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (stopped.is_set(), invocation.events) == (True, [])


def test_without_plugins_the_chain_is_empty() -> None:
    """An empty chain is false, so that callers can skip it."""
    assert not MiddlewareChain(registry(plugin("a")))
    assert not MiddlewareChain(registry(plugin("a", tool_middleware=lambda: ())))
    assert chain(passed)


def sync(call: ToolCall, proceed: Proceed) -> None:
    """Not a middleware: it is not async."""


def boom() -> NoReturn:
    raise RuntimeError("secret-4711")


class AsyncRedact(Redacts):
    """A middleware whose redact is a coroutine function."""

    def __init__(self) -> None:
        super().__init__("")

    async def redact(self, call: ToolCall) -> Any:
        return call.input


@pytest.mark.parametrize(
    ("hook", "why"),
    [
        (boom, "agentfield_tool_middleware raised RuntimeError"),
        (lambda: None, "agentfield_tool_middleware raised TypeError"),
        (lambda: [sync], "agentfield_tool_middleware returned function, whose __call__ is not 'async def'"),
        (lambda: [At], "agentfield_tool_middleware returned type, whose __call__ is not 'async def'"),
        (lambda: [3], "agentfield_tool_middleware returned int, whose __call__ is not 'async def'"),
        (lambda: [AsyncRedact()], "the redact of AsyncRedact is not written with 'def'"),
        (lambda: [At(passed, order="first")], "the order of a tool middleware is 'first', not a whole number"),
    ],
)
def test_an_invalid_middleware_prevents_the_start(hook: Any, why: str) -> None:
    """Calls must not pass without a middleware that is installed."""
    with pytest.raises(PluginBroken) as caught:
        MiddlewareChain(registry(plugin("a"), plugin("b", tool_middleware=hook)))
    told = caught.value
    assert (
        told.message == f"The plugin 'b' does not say what its tool middleware is: {why}. Calls would pass without it."
    )
    assert told.hint == "correct the plugin, or start the control plane with AGENTFIELD_DISABLE_PLUGINS=b"
    assert "secret" not in str(told.to_problem())
