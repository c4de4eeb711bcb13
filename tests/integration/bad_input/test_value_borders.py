"""Arbitrary JSON-like values at every border of a control plane: refused with a code, or carried; nothing else is harmed.

One control plane, one agent over a real link and a neighbour's call live through all examples of a test; at its end the
neighbour's next turn is answered, no task is left, and no ended session has an open execution of kind session or turn.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfield import Agent, AgentFieldError, Limits
from agentfield.client import ControlPlaneClient
from agentfield.errors import ExecutionError, InvalidInput
from agentfield.identity import NodeKey, b64url, challenge_message, hello_message
from agentfield.plugins import Registry
from agentfield.testing.scripted.answers import ToolUse
from agentfield.values import MAX_INTEGER, load_canonical
from agentfield.wire.frames import Hello
from agentfield.wire.handshake import hello_digest
from agentfield.wire.link_protocol import PROOFS, PROTOCOLS
from agentfield.wire.node_declarations import FunctionSpec
from agentfield_server.app import ControlPlane
from agentfield_server.testing.caller import Caller
from agentfield_server.testing.harness import ControlPlaneHarness
from support.server.store import open_in_ended_sessions
from support.waiting import until, until_async

CALL: dict[str, Any] = {
    "provider": "scripted",
    "transport": "websocket",
    "limits": Limits(idle=1e6, duration=1e6),
}
pytestmark = pytest.mark.fuzz

CODES = {"malformed_json", "unrepresentable", "invalid_input"}
EXAMPLES = settings(max_examples=settings().max_examples // 4, deadline=None)


def nested(levels: int, inner: Any) -> Any:
    """Return objects and lists in each other."""
    for level in range(levels):
        inner = [inner] if level % 2 else {"in": inner}
    return inner


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.text(st.characters(categories=["Cs"]), min_size=1, max_size=2)
)
KEYS = st.text(st.characters(), max_size=6) | st.sampled_from(
    ["", "code", "status", "type", "__proto__", "$ref", "target"]
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
) | st.builds(nested, st.integers(28, 40) | st.just(500), LEAVES)
TEXTS = st.builds(json.dumps, VALUES) | st.sampled_from(
    ["1e400", "NaN", "-Infinity", "9" * 5000, "[" * 20_000, '{"a": 1, "a": 2}', "{", "", "\ufeff1", '"\\ud800"', "01"]
)
"""JSON texts, and texts that are almost JSON."""


class Odd(Exception):
    """An exception of user code with any text."""


def agent() -> Agent:
    """Return the agent whose reasoners return, raise and pause with what the test put into `app.given`."""
    app = Agent("shop", registry=Registry.of([]))
    given: list[Any] = []
    app.given = given  # type: ignore[attr-defined]

    @app.reasoner()
    async def echo(value: Any = None) -> Any:
        return value

    @app.reasoner()
    async def count(n: int, more: dict[str, list[int]] | None = None) -> int:
        return n + sum(sum(numbers) for numbers in (more or {}).values())

    @app.reasoner()
    async def give() -> Any:
        return given[-1]

    @app.reasoner()
    async def fail() -> None:
        raise given[-1]

    @app.reasoner()
    async def ask() -> str:
        return (await app.pause("May I?", details=given[-1])).status

    @app.session("voice", **CALL, tools=["shop.echo", "shop.count", "shop.give"])
    async def voice(session: Any) -> None: ...

    return app


def other_agent() -> Agent:
    """Return the neighbour's agent."""
    app = Agent("neighbour", registry=Registry.of([]))

    @app.session("voice", **CALL)
    async def voice(session: Any) -> None: ...

    return app


class Border:
    """A control plane with the agent, a call and a neighbour's call."""

    def __init__(self, app: Agent, plane: ControlPlane, client: ControlPlaneClient, caller: Caller) -> None:
        self.given: list[Any] = app.given  # type: ignore[attr-defined]
        self.plane = plane
        self.client = client
        self.caller = caller

    async def post(self, path: str, text: str) -> tuple[int, Any]:
        """Send a JSON text; check that the answer is typed."""
        async with aiohttp.ClientSession(trust_env=False) as http:
            body = io.BytesIO(text.encode("utf-8", "replace"))
            headers = {"Content-Type": "application/json"}
            async with http.post(f"{self.plane.url}/api/v1{path}", data=body, headers=headers) as response:
                answer = json.loads(await response.text())
                assert response.status < 500 or answer["code"] in {"execution_failed", "execution_error"}, answer
                if response.status >= 400:
                    assert answer["code"] in CODES | {"execution_failed"}, answer
                return response.status, answer


@asynccontextmanager
async def borders(home: Path) -> AsyncIterator[Border]:
    """Run everything; at the end the neighbour is answered, and nothing is left open."""
    harness, app = ControlPlaneHarness(home, []), agent()
    async with harness.plane() as plane, ControlPlaneClient(plane.url) as client:
        async with (
            harness.call(other_agent()) as neighbour,
            harness.call(app) as caller,
        ):
            calls = open_calls()
            yield Border(app, plane, client, caller)
            await until(lambda: open_calls() <= calls, "no task of a call is left")
            neighbour.model_answers("I am still here.")
            await (await neighbour.types("are you there")).speaks("I am still here.")

        async def all_ended() -> bool:
            return all(view.state == "ended" for view in await client.list_sessions())

        await until_async(all_ended, what="all sessions have ended")
    assert open_in_ended_sessions(home / "agentfield.db") == []


def open_calls() -> set[str]:
    """Return the names of the tasks that run calls and attempts."""
    return {name for task in asyncio.all_tasks() if (name := task.get_name()).startswith("shop.")}


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Callable[[Callable[[Border], Any]], None]]:
    """Return a function that runs one example; all examples of a test share the installation."""

    async def hold(opened: asyncio.Future[Border], done: asyncio.Event) -> None:
        async with borders(tmp_path) as border:
            opened.set_result(border)
            await done.wait()

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        opened: asyncio.Future[Border] = loop.create_future()
        done = asyncio.Event()
        holder = loop.create_task(hold(opened, done))

        async def start() -> Border:
            waiting: list[asyncio.Future[Any]] = [holder, opened]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if holder.done():
                holder.result()
            return await opened

        border = runner.run(start())
        yield lambda example: runner.run(asyncio.wait_for(example(border), 30))
        done.set()
        runner.run(asyncio.wait_for(holder, 60))


def integers(value: Any) -> Iterator[int]:
    """Return all integers in a JSON value."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from integers(item)


def test_arguments_of_a_model(at: Any) -> None:
    """Whatever a model writes as arguments, the call goes on: the tool gets them, or the model is told what to repair."""

    @EXAMPLES
    @given(st.sampled_from(["shop.echo", "shop.count"]), st.sampled_from(["value", "n"]), TEXTS, st.booleans())
    def check(target: str, name: str, text: str, whole: bool) -> None:
        async def example(border: Border) -> None:
            border.caller.model_answers(ToolUse(target, written=text if whole else f'{{"{name}": {text}}}'), "Done.")
            await (await border.caller.types("go on")).speaks("Done.")

        at(example)

    check()


def test_results_of_tools(at: Any) -> None:
    """A result is carried, or its execution fails with the path and says that the function ran; the call goes on."""

    @EXAMPLES
    @given(VALUES)
    def check(value: Any) -> None:
        async def example(border: Border) -> None:
            border.given[:] = [value]
            border.caller.model_answers(ToolUse("shop.give"), "Done.")
            turn = await border.caller.types("go on")
            await turn.speaks("Done.")
            try:
                output = (await border.client.execute("shop.give")).output
            except ExecutionError as error:
                problem = error.to_problem()
                assert (problem["code"], problem["reason"]) == ("execution_failed", "unrepresentable")
                assert problem["detail"].startswith("give ran, but its result cannot be carried: the output")
            else:
                assert output == value

        at(example)

    check()


def test_metadata_of_a_session(at: Any) -> None:
    """Metadata is taken as it is, or the start is refused with the path."""

    @EXAMPLES
    @given(TEXTS)
    def check(text: str) -> None:
        async def example(border: Border) -> None:
            status, answer = await border.post(
                "/sessions", f'{{"target": "shop.voice", "metadata": {{"given": {text}}}}}'
            )
            if status < 300:
                await border.client.end_session(answer["session_id"])
            else:
                assert answer["code"] in CODES

        at(example)

    check()


def test_inputs_over_rest(at: Any) -> None:
    """An input is carried exactly, or refused with a code; large integers where int is declared are decimal text."""

    @EXAMPLES
    @given(st.sampled_from(["echo", "count"]), st.sampled_from(["value", "n", "more"]), TEXTS)
    def check(target: str, name: str, text: str) -> None:
        async def example(border: Border) -> None:
            status, answer = await border.post(f"/execute/shop.{target}", f'{{"input": {{"{name}": {text}}}}}')
            if status < 300:
                assert all(abs(number) <= MAX_INTEGER or float(number) == number for number in integers(answer))
                if target == "echo":
                    assert answer["output"] == load_canonical(text)

        at(example)

    check()


@pytest.mark.parametrize("n", [2**53, -(2**53), 10**30, 10**3999, 7])
def test_declared_integers_over_rest(at: Any, n: int) -> None:
    """An integer of any size up to 4,000 digits is exact where int is declared, also within other types."""

    async def example(border: Border) -> None:
        given = {"n": n, "more": {"a": [n, 1]}}
        status, answer = await border.post("/execute/shop.count", json.dumps({"input": given}))
        assert (status, int(answer["output"])) == (200, 2 * n + 1)
        status, again = await border.post("/execute/shop.count", json.dumps({"input": {**given, "n": str(n)}}))
        assert (status, again["output"]) == (200, answer["output"])

    at(example)


async def test_large_integers_in_calls_of_a_handler(tmp_path: Path) -> None:
    """`session.call` passes a large integer exactly, at any depth that a value may have, and gets one back."""
    app, numbers = Agent("sums", registry=Registry.of([])), list[int]()

    @app.reasoner()
    async def double(n: int, more: Any = None) -> int:
        return 2 * n

    @app.session("voice", **CALL)
    async def voice(session: Any) -> None:
        await session.input()
        numbers.append(await session.call("sums.double", n=10**30, more=nested(31, 1)))
        await session.say("Done.")

    async with ControlPlaneHarness(tmp_path, []).call(app) as caller:
        await (await caller.types("go on")).speaks("Done.")
    assert numbers == [2 * 10**30]


def test_details_of_a_pause(at: Any) -> None:
    """The details of a pause are shown as they are, or the execution fails with the path."""

    @EXAMPLES
    @given(VALUES)
    def check(value: Any) -> None:
        async def example(border: Border) -> None:
            border.given[:] = [value]
            execution = await border.client.execute_async("shop.ask")

            async def settled() -> Any:
                view = await border.client.get_execution(execution.id)
                return view if view.status in ("waiting", "failed") else None

            view = await until_async(settled, what="it waits or has failed")
            if view.status == "failed":
                assert (view.problem["code"], view.problem["field"][:7]) == ("unrepresentable", "details")
            else:
                (approval,) = await border.client.list_approvals("pending")
                assert approval.details == value
                await border.client.cancel_execution(execution.id)

        at(example)

    check()


def test_exceptions_of_a_reasoner(at: Any) -> None:
    """An exception with any text and any data is a failure of its execution, and the node goes on."""

    @EXAMPLES
    @given(st.text(st.characters()), VALUES | st.builds(object))
    def check(text: str, value: Any) -> None:
        async def example(border: Border) -> None:
            for error in (Odd(text), AgentFieldError(text, given=value), AgentFieldError("x", hint=value)):
                border.given[:] = [error]
                with pytest.raises(AgentFieldError):
                    await border.client.execute("shop.fail")

        at(example)

    check()


def test_the_hello_of_a_node(at: Any) -> None:
    """A node whose declarations cannot be carried is refused with a code; others stay linked."""
    key = NodeKey.generate()

    @EXAMPLES
    @given(TEXTS, st.sampled_from(PROTOCOLS))
    def check(text: str, protocol: int) -> None:
        async def example(border: Border) -> None:
            async with (
                aiohttp.ClientSession(trust_env=False) as http,
                http.ws_connect(f"{border.plane.url}/api/v1/nodes/link") as socket,
            ):
                challenge = await socket.receive_json()
                hello = Hello(
                    protocol=protocol,
                    node_id="odd",
                    instance_id="one",
                    did=key.did,
                    signature="SIGNED",
                    nonce="n",
                    functions=(FunctionSpec(name="fn", input_schema={"default": "HERE"}),),
                )
                sent = hello.model_dump_json(exclude_none=True).replace('"HERE"', text)
                message = challenge_message(challenge["nonce"], "odd", "one")
                if protocol >= PROOFS:
                    with suppress(InvalidInput):
                        message = hello_message(
                            audience=challenge["did"],
                            protocol=protocol,
                            nonce=challenge["nonce"],
                            hello=hello_digest(sent),
                        )
                await socket.send_str(sent.replace("SIGNED", b64url(key.sign(message))))
                answer = await socket.receive_json()
                assert answer["type"] in ("welcome", "refused")
                if answer["type"] == "refused":
                    assert answer["problem"]["code"] in ("bad_frame", "malformed_json", "unrepresentable")

        at(example)

    check()


def test_values_of_python_code(at: Any) -> None:
    """The client refuses what JSON cannot hold before it is sent, with the path."""

    @EXAMPLES
    @given(VALUES)
    def check(value: Any) -> None:
        async def example(border: Border) -> None:
            refused, output = None, None
            try:
                output = (await border.client.execute("shop.echo", {"value": value})).output
            except InvalidInput as error:
                refused = error
            if refused is None:
                assert output == value
            else:
                assert (refused.code, refused.data["field"][:5]) == ("unrepresentable", "input")

        at(example)

    check()
