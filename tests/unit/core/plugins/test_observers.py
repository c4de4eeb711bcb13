"""Observer hooks: each implementation gets recorded events from its own queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from agentfield.plugins import RecordedEvent
from agentfield.plugins.hooks.observers import DeliveryCounts, ObserverDispatcher
from support.core.hooks import plugin, recorded, registry
from support.waiting import until


class Seen(list[Any]):
    """An observer that keeps its events."""

    def hook(self) -> Callable[..., Any]:
        async def observe(event: RecordedEvent) -> None:
            self.append(event)

        return observe


HOOKS = (
    "session_started",
    "session_turn",
    "session_ended",
    "execution_started",
    "execution_finished",
    "dag_event",
)

EVENTS = (
    recorded("session.created", 1, target="shop.voice"),
    recorded("execution.created", 2, kind="session"),
    recorded("session.state", 3, state="live"),
    recorded("turn.committed", 4, text="hello"),
    recorded("execution.started", 5, kind="tool"),
    recorded("execution.ended", 6, kind="tool"),
    recorded("execution.ended", 7, kind="turn"),
    recorded("execution.ended", 8, kind="call"),
    recorded("session.state", 9, state="ended", reason="operator"),
    recorded("execution.ended", 10, kind="session"),
)


async def test_each_hook_gets_its_events() -> None:
    """Sessions, turns and executions have their hooks; `dag_event` gets all events in order."""
    seen = {name: Seen() for name in HOOKS}
    told = registry(plugin("a", **{name: seen[name].hook() for name in HOOKS}))
    async with ObserverDispatcher(told) as observers:
        for event in EVENTS:
            observers.dispatch(*event)
    assert {name: [event.seq for event in events] for name, events in seen.items()} == {
        "session_started": [1],
        "session_turn": [4],
        "session_ended": [9],
        "execution_started": [5],
        "execution_finished": [6, 8],
        "dag_event": list(range(1, 11)),
    }
    (started,) = seen["session_started"]
    assert started == RecordedEvent(
        id="evt_1",
        seq=1,
        type="session.created",
        at=1.5,
        run_id="run_1",
        session_id="ses_1",
        execution_id=None,
        body={"target": "shop.voice"},
    )
    assert {counts.delivered for counts in observers.counts.values()} == {1, 2, 10}


async def test_observers_do_not_share_events() -> None:
    """Each observer gets its own copy with a read-only body."""
    seen = Seen()

    async def meddles(event: RecordedEvent) -> None:
        with pytest.raises(TypeError):
            event.body["x"] = 1  # type: ignore[index]
        event.body["list"].append(2)

    async with ObserverDispatcher(
        registry(plugin("a", dag_event=meddles), plugin("b", dag_event=seen.hook()))
    ) as observers:
        observers.dispatch(*recorded("anything", list=[1]))
    assert [event.body["list"] for event in seen] == [[1]]


async def raises(event: RecordedEvent) -> NoReturn:
    raise RuntimeError("boom")


async def exits(event: RecordedEvent) -> NoReturn:
    raise SystemExit(3)


async def cancels(event: RecordedEvent) -> NoReturn:
    raise asyncio.CancelledError


async def hangs(event: RecordedEvent) -> None:
    await asyncio.Event().wait()


async def test_failing_observers_are_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Observers that raise, exit, cancel themselves or hang continue with the next event; others get all events."""
    seen, before = Seen(), asyncio.all_tasks()
    bad = {"a": raises, "b": exits, "c": cancels, "d": hangs}
    plugins = [plugin(name, dag_event=function) for name, function in bad.items()]
    async with ObserverDispatcher(registry(*plugins, plugin("e", dag_event=seen.hook())), timeout=0.02) as observers:
        for seq in (1, 2):
            observers.dispatch(*recorded("anything", seq))
        await until(lambda: observers.counts["d", "agentfield_dag_event"].late == 2)
    assert [event.seq for event in seen] == [1, 2]
    counts = {name: observers.counts[name, "agentfield_dag_event"] for name in "abcde"}
    assert [counts[name] for name in "abc"] == [DeliveryCounts(failed=2)] * 3
    assert (counts["d"], counts["e"]) == (DeliveryCounts(late=2), DeliveryCounts(delivered=2))
    for name in bad:
        assert caplog.text.count(f"plugin.hook_failed plugin={name} hook=agentfield_dag_event") == 2
    assert asyncio.all_tasks() == before


async def test_a_full_queue_drops_the_oldest_event(caplog: pytest.LogCaptureFixture) -> None:
    """Dropped events are counted and logged."""
    seen, go_on = [], asyncio.Event()

    async def slow(event: RecordedEvent) -> None:
        seen.append(event.seq)
        await go_on.wait()

    async with ObserverDispatcher(registry(plugin("a", dag_event=slow)), size=3) as observers:
        observers.dispatch(*recorded("anything", 1))
        await until(lambda: seen)
        for seq in range(2, 10):
            observers.dispatch(*recorded("anything", seq))
        go_on.set()
    assert seen == [1, 7, 8, 9]
    assert observers.counts["a", "agentfield_dag_event"] == DeliveryCounts(delivered=4, dropped=5)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.getMessage() == (
        "plugin.events_dropped plugin=a hook=agentfield_dag_event: 5, 5 in all; it is slower than what happens"
    )


async def test_queues_are_drained_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """Queued events are delivered; a hanging observer is cancelled, and its events count as dropped."""
    seen, before = Seen(), asyncio.all_tasks()
    told = registry(plugin("a", dag_event=hangs), plugin("b", dag_event=seen.hook()))
    async with ObserverDispatcher(told, drain=1.0) as observers:
        for seq in range(1, 501):
            observers.dispatch(*recorded("anything", seq))
        assert seen == []
    assert [event.seq for event in seen] == list(range(1, 501))
    assert observers.counts["a", "agentfield_dag_event"] == DeliveryCounts(dropped=499)
    assert "plugin.events_dropped plugin=a hook=agentfield_dag_event: 499, 499 in all" in caplog.text
    assert asyncio.all_tasks() == before


async def test_an_observer_without_await_does_not_block_the_loop() -> None:
    """An observer with a full queue and no `await` does not starve other tasks."""
    order: list[str] = []

    async def eager(event: RecordedEvent) -> None:
        order.append("observer")

    async def other() -> None:
        for _ in range(3):
            order.append("other")
            await asyncio.sleep(0)

    async with ObserverDispatcher(registry(plugin("a", dag_event=eager))) as observers:
        for seq in range(1, 101):
            observers.dispatch(*recorded("anything", seq))
        await other()
    assert order.index("observer") < len(order) - 1 - order[::-1].index("other")
    assert order.count("observer") == 100


async def test_without_observers_there_is_no_task_and_no_queue() -> None:
    """Without implementations events are not kept."""
    before = asyncio.all_tasks()
    async with ObserverDispatcher(registry(plugin("a"))) as observers:
        observers.dispatch(*recorded("anything"))
        assert asyncio.all_tasks() == before
    assert observers.counts == {}
