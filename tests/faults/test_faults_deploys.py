"""Agents that are replaced while they work: calls end with the code that they began with, and no work is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agentfield.errors import AgentFieldError
from faults_kit import STEPS, House, eventually, opened, phone, provider

LONG = {"AGENTFIELD_DRAIN_SECONDS": "60"}


def changed(folder: Path, *, declared: bool = False) -> Path:
    """Return the agent with new words, and with a new declaration if wanted."""
    source = STEPS.read_text().replace('said = f"', 'said = f"new: ')
    if declared:
        source = source.replace('transport="webrtc",', 'transport="webrtc", instructions="Be brief.",')
    file = folder / "new_agent.py"
    file.write_text(source)
    return file


async def test_a_call_goes_on_over_a_rolling_deploy(tmp_path):
    """A call ends with the instance that it began on, while the next call is answered by the new code."""
    async with provider("one", "two", "three") as local, opened(House(tmp_path, local_url=local.url)) as house:
        await house.start_plane()
        old = house.agent(env=LONG)
        before = await house.start_agent(old)
        async with phone(house) as call:
            await call.turn("one")
            await call.answered("one, attempt 1")
            await house.start_agent(house.agent(changed(tmp_path, declared=True)))
            stopping = asyncio.create_task(old.stop())
            await eventually(house.client.nodes, lambda nodes: any(node.draining for node in nodes))
            await call.turn("two")
            await call.answered("two, attempt 1, resumed False")
            async with phone(house) as later:
                await later.turn("three")
                await later.answered("new: three, attempt 1, resumed False")
                await later.hang_up()
            assert not stopping.done()
            assert (await call.hang_up()).end_reason == "caller_hangup"
            assert await stopping == 0
        runs = [e for e in call.story.all("execution.started") if e["body"].get("node_id") == "steps"]
        assert [run["body"]["instance_id"] == before.instance_id for run in runs] == [True, False]
        for run_id in (call.run_id, later.run_id):
            assert set(house.books().statuses(run_id).values()) == {"succeeded"}
            house.books().check_over(run_id)


async def test_a_call_that_outlasts_the_drain_goes_on_elsewhere(tmp_path):
    """When the time to drain is over, a handler is resumed by another instance with the same declaration."""
    async with provider("one", "two") as local, opened(House(tmp_path, local_url=local.url)) as house:
        await house.start_plane()
        old = house.agent()
        await house.start_agent(old)
        async with phone(house) as call:
            await call.turn("one")
            await call.answered("one, attempt 1")
            await house.start_agent(house.agent(changed(tmp_path)))
            assert await old.stop() == 0
            await call.story.until("handler.started", resumed=True)
            await call.turn("two")
            await call.answered("new: two, attempt 1, resumed True")
            assert (await call.hang_up()).end_reason == "caller_hangup"


async def test_sigterm_under_load_loses_nothing(tmp_path):
    """What an instance runs ends there, what comes goes elsewhere, and nothing is run a second time."""
    async with opened(House(tmp_path)) as house:
        await house.start_plane()
        first, second = house.agent(env=LONG), house.agent(env=LONG)
        one = await house.start_agent(first)
        await house.start_agent(second)
        house.gate.touch()
        held = [await house.client.execute_async("steps.step", {"text": str(n)}) for n in range(20)]
        more = asyncio.create_task(_many(house, 200))
        stopping = asyncio.create_task(first.stop())
        await eventually(
            house.client.nodes, lambda nodes: any(n.draining and n.instance_id == one.instance_id for n in nodes)
        )
        assert not stopping.done()
        house.gate.unlink()
        assert await stopping == 0
        ids = [*(view.id for view in held), *await more]
        for execution_id in ids:
            view = await eventually(
                lambda wanted=execution_id: house.client.get_execution(wanted),
                lambda view: view.status not in ("queued", "running"),
            )
            assert (view.status, view.attempt) == ("succeeded", 1)


async def _many(house: House, count: int) -> list[str]:
    """Start executions one after the other, in the moment in which an instance begins to drain."""
    started = []
    for number in range(count):
        try:
            started.append((await house.client.execute_async("steps.double", {"number": number})).id)
        except AgentFieldError as error:
            raise AssertionError(f"call {number} was refused") from error
    return started
