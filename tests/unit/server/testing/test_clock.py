"""The time-skipping clock of tests: it runs, can be advanced, and takes no step past what is due."""

from __future__ import annotations

import asyncio
import threading

from agentfield_server.testing.clock import TimeSkippingClock


async def test_a_wait_ends_with_its_event_or_its_timeout() -> None:
    """The event comes first, or the clock is advanced to the end of the wait."""
    clock, event = TimeSkippingClock(), asyncio.Event()
    for until in (None, clock.monotonic() + 3600):
        waiting = asyncio.create_task(clock.wait(event, until))
        await asyncio.sleep(0)
        event.set()
        await waiting
        event.clear()
    waiting = asyncio.create_task(clock.wait(event, clock.monotonic() + 3600))
    await asyncio.sleep(0)
    clock.advance(3600)
    await waiting
    assert not event.is_set()


async def test_time_advances_from_one_timer_to_the_next() -> None:
    """An hour in ten timers, each set by the one before: each fires at its time, none at the end of the hour."""
    clock, taken = TimeSkippingClock(), list[float]()
    began = clock.monotonic()

    async def work() -> None:
        for _ in range(10):
            await clock.wait(asyncio.Event(), clock.monotonic() + 360)
            taken.append(round((clock.monotonic() - began) / 360))

    working = asyncio.create_task(work())
    await clock.run_for(3601)
    await working
    assert taken == list(range(1, 11))


async def test_time_does_not_advance_past_running_work() -> None:
    """Time does not advance past a task between two waits, however long that takes."""
    clock, done_later = TimeSkippingClock(), threading.Event()
    began, seen = clock.monotonic(), list[float]()

    async def work() -> None:
        await clock.wait(asyncio.Event(), began + 10)
        await asyncio.to_thread(done_later.wait, 5)
        seen.append(clock.monotonic() - began)
        await clock.wait(asyncio.Event(), began + 3600)

    working = asyncio.create_task(work())
    going = asyncio.create_task(clock.run_for(3600))
    async with asyncio.timeout(60):
        while clock.monotonic() - began < 10:  # noqa: ASYNC110 - the clock is what is tested
            await asyncio.sleep(0.01)
    # more than enough for the clock to take the work for done, if it did not know better
    for _ in range(20):
        await asyncio.sleep(0.01)
    done_later.set()
    await asyncio.gather(working, going)
    assert seen[0] < 3600
