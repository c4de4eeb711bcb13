"""Rolling deploys of agents: a call keeps the code that it started with, and no work is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agentfield.errors import AgentFieldError
from support.faults.installation import STEPS, Installation, opened
from support.faults.live_call import calling
from support.providers.engines import local_provider
from support.waiting import until_async

LONG = {"AGENTFIELD_DRAIN_SECONDS": "60"}


def changed(folder: Path, *, declared: bool = False) -> Path:
    """Return the agent with another answer, and with another declaration if requested."""
    source = STEPS.read_text().replace('said = f"', 'said = f"new: ')
    if declared:
        source = source.replace('transport="webrtc",', 'transport="webrtc", instructions="Be brief.",')
    file = folder / "new_agent.py"
    file.write_text(source)
    return file


async def test_a_call_continues_during_a_rolling_deploy(tmp_path):
    """A call stays on the instance that started it; the next call is answered by the new code."""
    async with (
        local_provider("one", "two", "three") as local,
        opened(Installation(tmp_path, local_url=local.url)) as installation,
    ):
        await installation.start_plane()
        old = installation.agent(env=LONG)
        before = await installation.start_agent(old)
        async with calling(installation) as call:
            await call.turn("one")
            await call.answered("one, attempt 1")
            await installation.start_agent(installation.agent(changed(tmp_path, declared=True)))
            stopping = asyncio.create_task(old.stop())
            await until_async(installation.client.nodes, lambda nodes: any(node.draining for node in nodes))
            await call.turn("two")
            await call.answered("two, attempt 1, resumed False")
            async with calling(installation) as later:
                await later.turn("three")
                await later.answered("new: three, attempt 1, resumed False")
                await later.hang_up()
            assert not stopping.done()
            assert (await call.hang_up()).end_reason == "caller_hangup"
            assert await stopping == 0
        runs = [e for e in call.record.all("execution.started") if e["body"].get("node_id") == "steps"]
        assert [run["body"]["instance_id"] == before.instance_id for run in runs] == [True, False]
        for run_id in (call.run_id, later.run_id):
            assert set(installation.stored().statuses(run_id).values()) == {"succeeded"}
            installation.stored().check_over(run_id)


async def test_a_call_that_outlasts_the_drain_moves_to_another_instance(tmp_path):
    """After the drain timeout another instance with the same declaration resumes the handler."""
    async with (
        local_provider("one", "two") as local,
        opened(Installation(tmp_path, local_url=local.url)) as installation,
    ):
        await installation.start_plane()
        old = installation.agent()
        await installation.start_agent(old)
        async with calling(installation) as call:
            await call.turn("one")
            await call.answered("one, attempt 1")
            await installation.start_agent(installation.agent(changed(tmp_path)))
            assert await old.stop() == 0
            await call.record.until("handler.started", resumed=True)
            await call.turn("two")
            await call.answered("new: two, attempt 1, resumed True")
            assert (await call.hang_up()).end_reason == "caller_hangup"


async def test_sigterm_under_load_loses_nothing(tmp_path):
    """Running executions end on the draining instance, new ones run on the other instance, and none runs twice."""
    async with opened(Installation(tmp_path)) as installation:
        await installation.start_plane()
        first, second = installation.agent(env=LONG), installation.agent(env=LONG)
        one = await installation.start_agent(first)
        await installation.start_agent(second)
        installation.gate.touch()
        held = [await installation.client.execute_async("steps.step", {"text": str(n)}) for n in range(20)]
        more = asyncio.create_task(_many(installation, 200))
        stopping = asyncio.create_task(first.stop())
        await until_async(
            installation.client.nodes, lambda nodes: any(n.draining and n.instance_id == one.instance_id for n in nodes)
        )
        assert not stopping.done()
        installation.gate.unlink()
        assert await stopping == 0
        ids = [*(view.id for view in held), *await more]
        for execution_id in ids:
            view = await until_async(
                lambda wanted=execution_id: installation.client.get_execution(wanted),
                lambda view: view.status not in ("queued", "running"),
            )
            assert (view.status, view.attempt) == ("succeeded", 1)


async def _many(installation: Installation, count: int) -> list[str]:
    """Start executions one after the other while an instance begins to drain."""
    started = []
    for number in range(count):
        try:
            started.append((await installation.client.execute_async("steps.double", {"number": number})).id)
        except AgentFieldError as error:
            raise AssertionError(f"call {number} was refused") from error
    return started
