"""The event loop of nodes and control planes: which one is used, and that a node works on the fast one."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from agentfield import Agent
from agentfield.errors import InvalidInput, Unavailable
from agentfield.processes import event_loop
from agentfield.processes.event_loop import EVENT_LOOP
from agentfield.wire.frames import Accepted
from support.core.control_plane import control_plane, invoke
from support.waiting import SECONDS

FAST = {EVENT_LOOP: "fast"}


async def kind() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


@pytest.mark.parametrize("env", [{}, {EVENT_LOOP: ""}, {EVENT_LOOP: "asyncio"}])
def test_asyncio_is_the_default(env: dict[str, str]) -> None:
    """The extra changes nothing by being installed."""
    assert event_loop.run(kind(), env) == "asyncio"
    assert event_loop.describe(env).startswith("asyncio's own; AGENTFIELD_EVENT_LOOP=fast uses ")


def test_the_setting_chooses_the_fast_one() -> None:
    """The setting has the same value on all systems."""
    name = "winloop" if sys.platform == "win32" else "uvloop"
    assert event_loop.run(kind(), FAST) == name
    assert event_loop.describe(FAST).startswith(f"{name} ")


def test_another_value_is_refused() -> None:
    """The error names both values."""
    with pytest.raises(InvalidInput) as refused:
        event_loop.run(kind(), {EVENT_LOOP: "uvloop"})
    assert (refused.value.code, refused.value.message, refused.value.hint) == (
        "bad_setting",
        "AGENTFIELD_EVENT_LOOP is 'uvloop'; it is asyncio or fast.",
        "AGENTFIELD_EVENT_LOOP=fast, or unset AGENTFIELD_EVENT_LOOP",
    )


def test_the_extra_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what is missing; nothing falls back silently."""
    monkeypatch.setattr(event_loop, "_FAST", "no_such_loop")
    with pytest.raises(Unavailable) as refused:
        event_loop.run(kind(), FAST)
    assert (refused.value.code, refused.value.message) == (
        "speed_not_installed",
        "AGENTFIELD_EVENT_LOOP=fast needs no_such_loop, which is not installed.",
    )
    assert event_loop.describe({}) == "asyncio's own; agentfield-core[speed] (no_such_loop) is not installed"


def test_a_node_on_the_fast_loop_says_that_it_enters_before_it_is_blocked() -> None:
    """The kernel has `accepted` before the function runs, also where the loop keeps what it sends."""
    app, entered, release = Agent("blocked"), threading.Event(), threading.Event()

    @app.reasoner
    async def block() -> str:
        entered.set()
        release.wait(SECONDS)
        return "done"

    linked: list[str] = []
    ready, failed = threading.Event(), list[BaseException]()

    async def serve() -> None:
        async with control_plane() as plane:
            linked.append(plane.url)
            ready.set()
            link = await plane.link()
            work = invoke("block", {})
            await link.send(work)
            await link.expect(Accepted)
            assert entered.wait(SECONDS)
            release.set()
            assert (await link.result(work)).output == "done"

    def thread() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # noqa: BLE001 - raised in the test
            failed.append(error)
            release.set()

    async def node(done: threading.Thread) -> None:
        async with app.linked(url=linked[0]):
            await asyncio.to_thread(done.join)

    there = threading.Thread(target=thread)
    there.start()
    assert ready.wait(SECONDS)
    event_loop.run(node(there), FAST)
    if failed:
        raise failed[0]
