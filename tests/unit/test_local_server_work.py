"""The work of responses on the local server: what is given up before it has begun leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import warnings

import pytest

from agentfield_local.behaviour import Behaviour
from agentfield_local.brain import ObedientBrain
from agentfield_local.brain.protocol import BrainRequest
from agentfield_local.clock import WallClock
from agentfield_local.engines_pool import EnginesPool
from agentfield_local.realtime.effects import Abandon, Effect, Think, Voice
from agentfield_local.realtime.live import LiveSession
from agentfield_local.speech.energy import synthetic_engines


@pytest.mark.parametrize(
    "work", [Think("resp_1", BrainRequest("", ())), Voice("resp_1", "item_1", "Hello.")], ids=["think", "voice"]
)
async def test_work_that_is_given_up_before_its_first_step_leaves_no_coroutine(work: Effect) -> None:
    """A response that is begun and abandoned in one breath has no coroutine that nobody awaited."""
    pool = EnginesPool(synthetic_engines(["hello"]), ObedientBrain())
    session = LiveSession(pool, Behaviour(), WallClock(), on_end=lambda _: None)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            session._perform([work, Abandon("resp_1")])
            given_up = [task for task in asyncio.all_tasks() if task.get_name() == "response resp_1"]
            assert len(given_up) == 1
            await asyncio.wait(given_up)
            assert given_up.pop().cancelled()
            gc.collect()
        assert [str(each.message) for each in told] == []
    finally:
        await session.close()
        await pool.close()
