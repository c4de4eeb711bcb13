"""Nothing that was acknowledged is lost: a control plane that is killed again and again while work is handed to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from agentfield.client import ControlPlaneClient
from agentfield.errors import ControlPlaneUnavailable
from faults_kit import FINAL, House, opened

KILLS = 10
SENDERS = 8
SEED = 20_261


@dataclass(slots=True)
class Load:
    """Work that is handed in without pause; what was not acknowledged is handed in again under its key."""

    url: str
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Execution ids by idempotency key."""
    sent_again: int = 0
    over: bool = False
    serves: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared while there is no control plane."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, sender: int) -> None:
        """Hand work in until `over`; every piece until it is acknowledged."""
        async with ControlPlaneClient(self.url) as client:
            number = 0
            while not self.over:
                key = f"{sender}-{number}"
                while (execution_id := await self._once(client, key, number)) is None:
                    self.sent_again += 1
                    await self.serves.wait()
                self.acknowledged[key] = execution_id
                self._news.set()
                number += 1

    async def _once(self, client: ControlPlaneClient, key: str, number: int) -> str | None:
        try:
            return (await client.execute_async("steps.double", {"number": number}, idempotency_key=key)).id
        except ControlPlaneUnavailable:
            return None

    async def until(self, enough: Callable[[int], bool]) -> None:
        """Wait until so many pieces were acknowledged."""
        async with asyncio.timeout(60):
            while not enough(len(self.acknowledged)):
                self._news.clear()
                await self._news.wait()


async def test_kills_at_random_moments_lose_nothing(tmp_path):
    """Every acknowledged execution is there after ten kills, has ended, ended once, and was counted once per key."""
    chance = random.Random(SEED)
    async with opened(House(tmp_path)) as house:
        await house.start_plane()
        await house.start_agent(house.agent())
        load = Load(house.url)
        async with asyncio.TaskGroup() as group:
            for sender in range(SENDERS):
                group.create_task(load.send(sender))
            for _ in range(KILLS):
                goal = len(load.acknowledged) + chance.randint(1, 60)
                await load.until(lambda count, goal=goal: count >= goal)
                load.serves.clear()
                await house.plane.kill()
                await house.start_plane()
                load.serves.set()
            goal = len(load.acknowledged) + SENDERS
            await load.until(lambda count: count >= goal)
            load.over = True
        ids = set(load.acknowledged.values())
        ended = [await house.client.wait_execution(name, timeout=30) for name in sorted(ids)]
        kept = house.books().executions("steps.double")
        endings = house.books().endings()
        lost = ids - kept.keys()
        twice = [name for name in ids if endings[name] != 1]
        print(  # noqa: T201 -- the counts are what one wants to see
            f"\nkills {KILLS}, acknowledged {len(ids)}, handed in again {load.sent_again}, "
            f"lost {len(lost)}, completed twice {len(twice)}"
        )
        assert not lost
        assert not twice
        assert len(ids) == len(load.acknowledged)
        assert kept.keys() == ids
        assert {view.status for view in ended} <= FINAL
        assert {view.status for view in ended} == {"succeeded"}
        for view in ended:
            assert view.output == 2 * view.input["number"]
            house.books().check_over(view.run_id)


async def test_work_waits_for_the_agent_after_a_restart(tmp_path):
    """What is handed to a new control plane before the agent has found it waits for the agent, and is not unknown."""
    async with opened(House(tmp_path)) as house:
        await house.start_plane()
        agent = house.agent()
        before = await house.start_agent(agent)
        await agent.kill()
        await house.plane.kill()
        await house.start_plane()

        [away] = await house.client.nodes()
        assert (away.node_id, away.instance_id, away.connected) == ("steps", before.instance_id, False)
        handed_in = await house.client.execute_async("steps.double", {"number": 21})
        assert handed_in.status == "queued"

        await house.start_agent(agent)
        done = await house.client.wait_execution(handed_in.id, timeout=30)
        assert (done.status, done.output, done.attempt) == ("succeeded", 42, 1)
        house.books().check_over(done.run_id)
