"""`Agent.call_sync`: calls of plain functions, their deadlines and cancellation, and the wrong ways to call."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentfield import Agent, Session
from agentfield.errors import AgentFieldError, Conflict, ExecutionCancelled, Unavailable
from agentfield.wire.frames import Accepted, Call, CallResult, Cancel, Result
from support.core.control_plane import Plane, control_plane, invoke, opening
from support.waiting import until


@pytest.fixture(autouse=True)
def _home(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    async with control_plane() as plane:
        yield plane


class Shop:
    """An agent whose plain function calls another target, and how its calls ended."""

    def __init__(self, plane: Plane) -> None:
        self.app = Agent("shop", url=plane.url)
        self.raised: list[BaseException] = []
        self.app.reasoner()(self.total)

    def total(self, n: int) -> int:
        try:
            return int(self.app.call_sync("shop.add", n=n)) + 1
        except BaseException as error:
            self.raised.append(error)
            try:
                self.app.call_sync("shop.add", n=n)
            except AgentFieldError as later:
                self.raised.append(later)
            raise


async def test_a_plain_function_calls_another_target(plane: Plane) -> None:
    """The call belongs to the execution of the function, whose thread gets the output."""
    shop = Shop(plane)
    async with shop.app:
        link = await plane.link()
        asked = invoke("total", {"n": 1})
        await link.send(asked)
        await link.expect(Accepted)
        call = await link.expect(Call)
        assert (call.target, call.input, call.parent_id, call.session_id) == ("shop.add", {"n": 1}, "exe_1", "ses_1")
        await link.send(CallResult(op_id=call.op_id, output=41))
        assert (await link.result(asked)).output == 42


async def test_a_function_past_its_deadline_is_released(plane: Plane) -> None:
    """The thread gets `ExecutionCancelled` when its attempt has timed out, and so does every later call of it."""
    shop = Shop(plane)
    async with shop.app:
        link = await plane.link()
        await link.send(invoke("total", {"n": 1}, deadline=time.time() + 0.3))
        await link.expect(Accepted)
        await link.expect(Call)
        assert (await link.expect(Result)).status == "timeout"
        await until(lambda: len(shop.raised) == 2)
    assert [type(error) for error in shop.raised] == [ExecutionCancelled, ExecutionCancelled]


async def test_a_cancelled_function_is_released(plane: Plane) -> None:
    """A cancelled attempt releases the thread that waits for its call."""
    shop = Shop(plane)
    async with shop.app:
        link = await plane.link()
        asked = invoke("total", {"n": 1})
        await link.send(asked)
        await link.expect(Accepted)
        await link.expect(Call)
        await link.send(Cancel(execution_id="exe_1"))
        assert (await link.result(asked)).status == "cancelled"
        await until(lambda: len(shop.raised) == 2)
    assert [type(error) for error in shop.raised] == [ExecutionCancelled, ExecutionCancelled]


async def test_a_stopped_node_releases_every_thread(plane: Plane) -> None:
    """A thread of the program that waits for a call gets an error when the node stops."""
    app, raised = Agent("shop", url=plane.url), []

    def wait() -> None:
        try:
            app.call_sync("shop.add", n=1)
        except AgentFieldError as error:
            raised.append(error)

    async with app:
        link = await plane.link()
        thread = threading.Thread(target=wait)
        thread.start()
        await link.expect(Call)
    await asyncio.to_thread(thread.join)
    assert isinstance(raised[0], Unavailable)
    with pytest.raises(Unavailable):
        await asyncio.to_thread(app.call_sync, "shop.add", n=1)


async def test_a_blocking_call_in_a_coroutine_is_refused(plane: Plane) -> None:
    """`call_sync` on the node's event loop would wait for itself: it is refused at once."""
    app = Agent("shop", url=plane.url)
    async with app:
        await plane.link()
        with pytest.raises(Conflict) as caught:
            app.call_sync("shop.add", n=1)
    assert caught.value.code == "blocks_event_loop"
    assert "await app.call" in str(caught.value.hint)


async def test_another_event_loop_is_refused_at_once(plane: Plane) -> None:
    """`asyncio.run(app.call(...))` and session commands in a thread raise a typed error, and nothing is sent."""
    app, found = Agent("shop", url=plane.url), []

    @app.session("voice", provider="openai", transport="webrtc")
    async def voice(session: Session) -> None:
        async def speak() -> None:
            await session.say("Hello.")

        for attempt in (
            lambda: asyncio.run(app.call("shop.add", n=1)),
            lambda: asyncio.run(session.call("shop.add", n=1)),
            lambda: asyncio.run(speak()),
            lambda: session.say("Hello."),
        ):
            try:
                await asyncio.to_thread(attempt)
            except Conflict as error:
                found.append((error.code, "call_sync" in str(error.hint)))
        await session.input()

    async with app:
        link = await plane.link()
        await link.send(opening())
        await link.command("input")
    assert found == [("wrong_event_loop", True)] * 4
