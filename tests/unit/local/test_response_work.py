"""Work of responses: cancelling it before its first step leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import warnings

import pytest

from agentfield_local.brain import ObedientBrain
from agentfield_local.brain.protocol import BrainRequest
from agentfield_local.faults.behaviour import Behaviour
from agentfield_local.realtime.conversation.effects import CancelWork, Effect, QueryBrain, SynthesizeText
from agentfield_local.realtime.session.runner import SessionRunner
from agentfield_local.runtime.clock import WallClock
from agentfield_local.speech.pool import EnginePool
from agentfield_local.speech.synthetic import synthetic_engines


@pytest.mark.parametrize(
    "work",
    [QueryBrain("resp_1", BrainRequest("", ())), SynthesizeText("resp_1", "item_1", "Hello.")],
    ids=["brain", "synthesis"],
)
async def test_cancelling_work_before_its_first_step_leaves_no_coroutine(work: Effect) -> None:
    """Work that is started and cancelled in one list of effects leaves no coroutine that was never awaited."""
    pool = EnginePool(synthetic_engines(["hello"]), ObedientBrain())
    session = SessionRunner(pool, Behaviour(), WallClock(), on_end=lambda _: None)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            session._perform([work, CancelWork("resp_1")])
            cancelled = [task for task in asyncio.all_tasks() if task.get_name() == "response resp_1"]
            assert len(cancelled) == 1
            await asyncio.wait(cancelled)
            assert cancelled.pop().cancelled()
            gc.collect()
        assert [str(each.message) for each in warned] == []
    finally:
        await session.close()
        await pool.close()
