"""A node and a control plane over a real WebSocket: attempts, results, reconnects and refusals."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from agentfield import Agent
from agentfield.context import current, session_id
from agentfield.errors import ControlPlaneUnavailable, ExecutionFailed, ExecutionTimeout, NodeRefused, Unavailable
from agentfield.wire.frames import (
    Accepted,
    Call,
    CallAccepted,
    CallResult,
    Cancel,
    Drain,
    Ping,
    Refused,
    Result,
    ResultAck,
    Welcome,
)
from support.core.control_plane import Link, Plane, control_plane, invoke


@pytest.fixture(autouse=True)
def _home(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    monkeypatch.delenv("AGENTFIELD_URL", raising=False)
    monkeypatch.delenv("AGENTFIELD_API_KEY", raising=False)


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    async with control_plane() as plane:
        yield plane


class Order(BaseModel):
    number: int


def shop(plane: Plane, **options: Any) -> Agent:
    app = Agent("shop", url=plane.url, **options)

    @app.reasoner()
    async def lookup(order: Order, note: str = "") -> dict[str, Any]:
        """Find an order."""
        return {"number": order.number, "note": note}

    @app.reasoner()
    def slow_lookup(number: int) -> dict[str, Any]:
        here = current()
        assert here is not None
        return {"number": number, "thread": threading.current_thread().name, "session": here.headers["X-Session-ID"]}

    return app


async def run(link: Link, *args: Any, **fields: Any) -> Result:
    """Run a reasoner, acknowledge its result and return it."""
    asked = invoke(*args, **fields)
    await link.send(asked)
    accepted = await link.expect(Accepted)
    assert (accepted.execution_id, accepted.attempt) == (asked.context.execution_id, asked.context.attempt)
    return await link.result(asked)


async def test_hello_is_signed_and_lists_the_reasoners(plane: Plane) -> None:
    """`Hello` has the signed challenge, the reasoners with their schemas, and the concurrency."""
    async with shop(plane, concurrency=7):
        hello = (await plane.link()).hello
    assert (hello.node_id, hello.concurrency) == ("shop", 7)
    lookup = hello.functions[0]
    assert (lookup.name, lookup.description) == ("lookup", "Find an order.")
    assert lookup.input_schema["required"] == ["order"]
    assert lookup.output_schema == {"additionalProperties": True, "type": "object"}


async def test_a_nodes_key_survives_a_restart(plane: Plane) -> None:
    """A restarted node has the same DID and a new instance id."""
    hellos = []
    for _ in range(2):
        async with shop(plane):
            hellos.append((await plane.link()).hello)
    assert hellos[0].did == hellos[1].did
    assert hellos[0].instance_id != hellos[1].instance_id


async def test_a_reasoner_runs_and_its_result_is_signed(plane: Plane) -> None:
    """An `Invoke` is accepted, run with its input converted to the hinted types, and answered with a signed result."""
    async with shop(plane):
        link = await plane.link()
        result = await run(link, "lookup", {"order": {"number": 427}})
    assert (result.status, result.output) == ("succeeded", {"number": 427, "note": ""})
    assert result.took is not None
    assert 0 < result.took < 60


async def test_a_sync_reasoner_runs_in_a_thread_with_its_context(plane: Plane) -> None:
    """A plain function runs outside the event loop and sees the headers of its execution."""
    async with shop(plane):
        link = await plane.link()
        result = await run(link, "slow_lookup", {"number": 1})
    assert result.output["thread"] != threading.current_thread().name
    assert result.output["session"] == "ses_1"


async def test_invalid_input_names_the_field(plane: Plane) -> None:
    """Invalid input fails the attempt with the name of the field, and the node keeps working."""
    async with shop(plane):
        link = await plane.link()
        result = await run(link, "lookup", {"order": {"number": "many"}})
        assert result.problem is not None
        assert (result.status, result.problem["code"], result.problem["field"]) == (
            "failed",
            "invalid_input",
            "order.number",
        )
        assert "order.number" in result.problem["detail"]
        assert (await run(link, "lookup", {"order": {"number": 1}})).status == "succeeded"


@pytest.mark.parametrize(
    ("output", "field"),
    [(object(), "the output"), ({"a": [float("nan")]}, "the output.a[0]"), ({(1, 2): 3}, "the output")],
)
async def test_output_that_is_not_json_fails_with_the_reason(plane: Plane, output: Any, field: str) -> None:
    """A reasoner that returns a value that is not JSON fails, and the problem names the part."""
    app = shop(plane)

    @app.reasoner()
    async def odd() -> Any:
        return output

    async with app:
        result = await run(await plane.link(), "odd", {})
    assert result.problem is not None
    assert (result.status, result.problem["reason"], result.problem["field"]) == ("failed", "unrepresentable", field)


@pytest.mark.parametrize(
    "error", [ValueError("no such order"), SystemExit(3), asyncio.CancelledError(), TimeoutError()]
)
async def test_an_exception_fails_the_attempt_and_the_node_keeps_working(plane: Plane, error: BaseException) -> None:
    """Any exception of a reasoner becomes a problem that names it; the node keeps working."""
    app = shop(plane)

    @app.reasoner()
    async def broken() -> None:
        raise error

    async with app:
        link = await plane.link()
        result = await run(link, "broken", {})
        assert result.status == "failed"
        assert result.problem is not None
        assert (result.problem["code"], result.problem["error"]) == ("execution_failed", type(error).__name__)
        assert (await run(link, "lookup", {"order": {"number": 1}})).status == "succeeded"


async def test_an_unknown_function_is_a_failed_execution(plane: Plane) -> None:
    """An `Invoke` of an unknown function fails and lists the reasoners of the node."""
    async with shop(plane):
        result = await run(await plane.link(), "lokup", {})
    assert result.problem is not None
    assert result.problem["code"] == "not_found"
    assert "lookup" in result.problem["hint"]


async def test_an_output_beyond_the_size_limit_fails(plane: Plane) -> None:
    """An output that no frame can carry fails the attempt instead of breaking the link."""
    app = shop(plane)

    @app.reasoner()
    async def flood() -> str:
        return "x" * 4_000_000

    async with app:
        result = await run(await plane.link(), "flood", {})
    assert result.problem is not None
    assert result.problem["code"] == "limit_exceeded"


async def test_a_run_past_its_deadline_is_a_timeout(plane: Plane) -> None:
    """A reasoner is stopped at the deadline of its execution."""
    app = shop(plane)

    @app.reasoner()
    async def forever() -> None:
        await asyncio.Event().wait()

    async with app:
        result = await run(await plane.link(), "forever", {}, deadline=time.time() + 0.05)
    assert result.status == "timeout"
    assert result.problem is not None
    assert result.problem["code"] == "execution_timeout"


async def test_cancel_stops_a_run_and_reports_it(plane: Plane) -> None:
    """A cancelled reasoner receives `CancelledError`, and the control plane a cancelled result."""
    app = shop(plane)
    seen = asyncio.Event()

    @app.reasoner()
    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.set()
            raise

    async with app:
        link = await plane.link()
        asked = invoke("forever", {})
        await link.send(asked)
        await link.expect(Accepted)
        await link.send(Cancel(execution_id="exe_1", reason="caller spoke"))
        result = await link.result(asked)
    assert (result.status, seen.is_set()) == ("cancelled", True)


async def test_a_duplicate_invoke_runs_once(plane: Plane) -> None:
    """A duplicate `Invoke` of a running attempt is only accepted again; one of a finished attempt is answered with its result."""
    app = shop(plane)
    go, runs = asyncio.Event(), []

    @app.reasoner()
    async def once() -> int:
        runs.append(1)
        await go.wait()
        return len(runs)

    async with app:
        link = await plane.link()
        asked = invoke("once", {})
        for _ in range(2):
            await link.send(asked)
            await link.expect(Accepted)
        go.set()
        first = await link.expect(Result)
        await link.send(asked)
        assert await link.result(asked) == first
    assert runs == [1]


async def test_no_more_runs_than_the_concurrency_at_a_time(plane: Plane) -> None:
    """Attempts beyond the node's concurrency wait and are not accepted yet."""
    app = shop(plane, concurrency=1)
    go = asyncio.Event()

    @app.reasoner()
    async def hold() -> None:
        await go.wait()

    async with app:
        link = await plane.link()
        asked = [invoke("hold", {}, execution_id=f"exe_{n}") for n in range(2)]
        for frame in asked:
            await link.send(frame)
        assert (await link.expect(Accepted)).execution_id == "exe_0"
        go.set()
        assert (await link.result(asked[0])).execution_id == "exe_0"
        assert (await link.expect(Accepted)).execution_id == "exe_1"
        assert (await link.result(asked[1])).execution_id == "exe_1"


async def test_an_attempt_cancelled_while_waiting_takes_no_slot(plane: Plane) -> None:
    """The cancellation of a waiting attempt is reported, and the next one in the queue gets its slot."""
    app = shop(plane, concurrency=1)
    go = asyncio.Event()

    @app.reasoner()
    async def hold() -> None:
        await go.wait()

    async with app:
        link = await plane.link()
        asked = [invoke("hold", {}, execution_id=f"exe_{n}") for n in range(3)]
        for frame in asked:
            await link.send(frame)
        await link.expect(Accepted)
        await link.send(Cancel(execution_id="exe_1"))
        assert (await link.result(asked[1])).status == "cancelled"
        go.set()
        assert (await link.result(asked[0])).status == "succeeded"
        assert (await link.expect(Accepted)).execution_id == "exe_2"
        assert (await link.result(asked[2])).status == "succeeded"


async def test_a_result_is_sent_again_until_it_is_acknowledged(plane: Plane) -> None:
    """A result whose acknowledgement was lost with the link is announced in `Hello` and sent again on the next link."""
    async with shop(plane):
        link = await plane.link()
        asked = invoke("lookup", {"order": {"number": 427}})
        await link.send(asked)
        await link.expect(Accepted)
        first = await link.expect(Result)
        await link.drop()
        link = await plane.link()
        assert [r.execution_id for r in link.hello.results] == ["exe_1"]
        assert await link.result(asked) == first
        await link.drop()
        assert (await plane.link()).hello.results == ()


async def test_work_continues_while_the_link_is_lost(plane: Plane) -> None:
    """An attempt that outlives its link is reported as running on the next one, and its result follows."""
    app = shop(plane)
    go = asyncio.Event()

    @app.reasoner()
    async def hold() -> str:
        await go.wait()
        return "done"

    async with app:
        link = await plane.link()
        asked = invoke("hold", {})
        await link.send(asked)
        await link.expect(Accepted)
        await link.drop()
        link = await plane.link()
        assert [r.execution_id for r in link.hello.running] == ["exe_1"]
        go.set()
        assert (await link.result(asked)).output == "done"


async def test_the_welcome_may_cancel_and_acknowledge(plane: Plane) -> None:
    """`Welcome` cancels attempts and acknowledges results that changed while the link was lost."""
    app = shop(plane)

    @app.reasoner()
    async def forever() -> None:
        await asyncio.Event().wait()

    async with app:
        link = await plane.link()
        await link.send(asked := invoke("forever", {}, execution_id="exe_given_up"))
        await link.expect(Accepted)
        await link.send(invoke("lookup", {"order": {"number": 1}}, execution_id="exe_stored"))
        await link.expect(Accepted)
        await link.expect(Result)
        plane.welcome = Welcome(cancel=("exe_given_up",), ack=("exe_stored",))
        await link.drop()
        link = await plane.link()
        assert (await link.result(asked)).status == "cancelled"


async def test_a_call_inside_a_reasoner_belongs_to_its_execution(plane: Plane) -> None:
    """`app.call` in a reasoner names the execution as parent and carries the session."""
    app = shop(plane)

    @app.reasoner()
    async def outer() -> Any:
        assert session_id() == "ses_1"
        return await app.call("stock.count", item="clock")

    async with app:
        link = await plane.link()
        asked = invoke("outer", {})
        await link.send(asked)
        await link.expect(Accepted)
        call = await link.expect(Call)
        assert (call.target, call.input) == ("stock.count", {"item": "clock"})
        assert (call.parent_id, call.session_id) == ("exe_1", "ses_1")
        await link.send(CallAccepted(op_id=call.op_id, execution_id="exe_2"))
        await link.send(CallResult(op_id=call.op_id, execution_id="exe_2", output=3))
        assert (await link.result(asked)).output == 3


async def test_an_attempt_that_waits_for_its_call_yields_its_slot(plane: Plane) -> None:
    """With a concurrency of one, a reasoner can call another one of its own node without a deadlock."""
    app = shop(plane, concurrency=1)

    @app.reasoner()
    async def outer() -> Any:
        return await app.call("shop.inner")

    @app.reasoner()
    async def inner() -> str:
        return "in"

    async with app:
        link = await plane.link()
        first, second = invoke("outer", {}, execution_id="exe_1"), invoke("inner", {}, execution_id="exe_2")
        await link.send(first)
        await link.expect(Accepted)
        call = await link.expect(Call)
        await link.send(second)
        assert (await link.expect(Accepted)).execution_id == "exe_2"
        assert (await link.result(second)).output == "in"
        await link.send(CallResult(op_id=call.op_id, execution_id="exe_2", output="in"))
        assert (await link.result(first)).output == "in"


async def test_a_call_outside_of_a_reasoner_survives_a_reconnect(plane: Plane) -> None:
    """A call that was not answered before the link was lost is sent again with the same operation id."""
    async with shop(plane) as app:
        link = await plane.link()
        answer = asyncio.create_task(app.call("stock.count", timeout=30, item="clock"))
        call = await link.expect(Call)
        assert (call.parent_id, call.timeout) == (None, 30)
        await link.drop()
        link = await plane.link()
        assert await link.expect(Call) == call
        await link.send(CallResult(op_id=call.op_id, output=[1]))
        assert await answer == [1]


async def test_a_call_that_failed_raises_its_error(plane: Plane) -> None:
    """The problem of a call becomes the exception of its class."""
    async with shop(plane) as app:
        link = await plane.link()
        answer = asyncio.create_task(app.call("stock.count"))
        call = await link.expect(Call)
        problem = ExecutionFailed("stock.count raised KeyError: 'clock'", target="stock.count").to_problem()
        await link.send(CallResult(op_id=call.op_id, problem=problem))
        with pytest.raises(ExecutionFailed, match="KeyError") as caught:
            await answer
    assert caught.value.data["target"] == "stock.count"


async def test_a_call_without_a_running_agent_is_refused_with_a_hint() -> None:
    """A call before the agent runs raises with a hint."""
    with pytest.raises(Unavailable, match="async with app"):
        await Agent("shop").call("stock.count")


async def test_a_call_whose_answer_never_comes_times_out(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call with a timeout ends even when the control plane never answers."""
    monkeypatch.setattr("agentfield.agent.CALL_SLACK", 0.0)
    async with shop(plane) as app:
        with pytest.raises(ExecutionTimeout, match=r"stock\.count"):
            await app.call("stock.count", timeout=0.05)


async def test_pings_are_answered(plane: Plane) -> None:
    """The node answers a ping."""
    async with shop(plane):
        link = await plane.link()
        await link.send(Ping())
        await run(link, "lookup", {"order": {"number": 1}})
        assert link.pongs == 1


async def test_a_silent_link_is_reopened(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control plane that no longer answers pings loses the link, and the node opens another one."""
    monkeypatch.setattr("agentfield.link.socket.PING_INTERVAL", 0.02)
    monkeypatch.setattr("agentfield.link.socket.SILENCE_TIMEOUT", 0.1)
    async with shop(plane):
        link = await plane.link()
        link.mute = True
        again = await plane.link()
        assert again.hello.instance_id == link.hello.instance_id
        assert link.pings > 0


async def test_a_refused_node_does_not_reconnect(plane: Plane) -> None:
    """A final refusal ends the node with the message of the control plane."""
    plane.refusals = [Refused(problem={"code": "node_refused", "detail": "shop is another's", "hint": "rename it"})]
    with pytest.raises(NodeRefused, match="shop is another's") as caught:
        await shop(plane).__aenter__()
    assert (caught.value.hint, plane.knocks) == ("rename it", 1)


@pytest.mark.parametrize("caught", [False, True])
async def test_a_refused_program_ends_with_the_error_in_place_of_a_traceback(plane: Plane, caught: bool) -> None:
    """`python agent.py` prints error, hint and code and fails; a program may still catch the error of `app.run()`."""
    problem = {"code": "control_plane_changed", "detail": "shop is \x1b another's", "hint": "rename it"}
    plane.refusals = [Refused(problem=problem)] * 2
    first = "\ntry:\n    app.run()\nexcept NodeRefused as error:\n    print('caught', error.code)\n"
    code = "from agentfield import Agent\nfrom agentfield.errors import NodeRefused\napp = Agent('shop')"
    code += f"{first if caught else ''}\napp.run()"
    env = {**os.environ, "AGENTFIELD_URL": plane.url}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, env=env, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    assert (process.returncode, out.decode()) == (1, "caught control_plane_changed\n" if caught else "")
    assert err.decode() == "error: shop is \\x1b another's\nhint: rename it\ncode: control_plane_changed\n"


async def test_a_refusal_with_retry_is_followed_by_a_reconnect(plane: Plane) -> None:
    """After a refusal with `retry` the node connects again."""
    plane.refusals = [Refused(problem={"detail": "starting"}, retry=True)]
    async with shop(plane):
        await plane.link()
    assert plane.knocks == 2


async def test_a_wrong_api_key_is_refused_with_a_hint(plane: Plane) -> None:
    """A control plane refuses a node without its API key, and the error names the setting."""
    plane.api_key = "secret"
    with pytest.raises(NodeRefused, match="AGENTFIELD_API_KEY"):
        await shop(plane).__aenter__()
    async with shop(plane, api_key="secret"):
        await plane.link()


async def test_an_unreachable_control_plane_is_an_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """`async with app` without a control plane raises with the address and the command."""
    monkeypatch.setattr("agentfield.agent.LINK_TIMEOUT", 0.2)
    with pytest.raises(ControlPlaneUnavailable, match=r"127\.0\.0\.1:9.*nothing answers there[\s\S]*af server"):
        await Agent("shop", url="http://127.0.0.1:9").__aenter__()


async def test_leaving_the_block_lets_running_work_finish(plane: Plane) -> None:
    """A running attempt finishes, and its result is acknowledged, before the link is closed."""
    app = shop(plane)
    go = asyncio.Event()

    @app.reasoner()
    async def hold() -> str:
        await go.wait()
        return "done"

    async def last(link: Link) -> Result:
        await link.expect(Drain)
        result = await link.expect(Result)
        await link.send(ResultAck(execution_id=result.execution_id, attempt=result.attempt))
        return result

    async with app:
        link = await plane.link()
        await link.send(invoke("hold", {}))
        await link.expect(Accepted)
        ended = asyncio.create_task(last(link))
        asyncio.get_running_loop().call_soon(go.set)
    assert (await ended).output == "done"
