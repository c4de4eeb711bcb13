"""Nothing that was acknowledged is lost: control plane and node are killed again and again while work is handed to them."""

from __future__ import annotations

import random

import pytest

from agentfield.wire.rest import DecisionRequest, WebhookRequest
from disk_kit import power_cut, preloaded
from faults_kit import House, eventually, opened
from load_kit import KILLS, SETTLED, Load, checked, receiving, worker

SEED = 20_261
PARKED = 3
MOST_CUTS = 10
"""A cut may come when everything is synced: so many are made until one has taken something."""
NODE = 3 if KILLS < 10 else 5
"""Kills of the control plane to one of the node."""


async def parked(house: House, load: Load) -> list[str]:
    """Let executions ask a person, and return the approvals."""
    for number in range(PARKED):
        done = await house.client.execute_async("work.asks", {"number": number})
        load.acknowledged[f"asks-{number}"] = done.id
    asked = await eventually(lambda: house.client.list_approvals("pending"), lambda found: len(found) == PARKED)
    return [approval.id for approval in asked]


@pytest.mark.timeout(120 + 15 * KILLS)
async def test_kills_at_random_moments_lose_nothing(tmp_path):
    """Control plane and node are killed under load: every invariant holds, approvals and webhooks outlive it all."""
    chance = random.Random(SEED)
    house = House(tmp_path)
    allowed = {"AGENTFIELD_WEBHOOK_ALLOW": '["127.0.0.0/8"]'}
    house.plane = house.program("plane", "-m", "agentfield_server", env={**house.env, **allowed})
    async with receiving() as (url, receipts), opened(house):
        await house.start_plane()
        agent = worker(house)
        await house.start_agent(agent)
        hook = await house.client.add_webhook(WebhookRequest(url=url, events=("execution.ended", "approval.decided")))
        load = Load(house.url)
        undecided, approved, rejected = await parked(house, load)
        async with load.going_on():
            for kill in range(1, KILLS + 1):
                await load.more(chance.randint(1, 30))
                await house.plane.kill()
                await house.start_plane()
                if kill % NODE == 0:
                    await load.more(chance.randint(1, 10))
                    await agent.kill()
                    await house.start_agent(agent)
        await house.client.decide(approved, DecisionRequest(decision="approved"))
        await house.plane.kill()  # what was decided is decided
        await house.start_plane()
        await house.client.decide(rejected, DecisionRequest(decision="rejected"))
        await eventually(lambda: house.client.deliveries(hook.id, "pending"), lambda left: not left, seconds=SETTLED)
        counts = await checked(
            house, load, f"{KILLS + 1} kills of the control plane, {KILLS // NODE} of the node", receipts
        )
        assert (await house.client.get_approval(undecided)).status == "pending"
        outputs = {
            row.output
            for row in [await house.client.get_execution(load.acknowledged[f"asks-{n}"]) for n in range(PARKED)]
        }
        assert outputs == {None, "approved", "rejected"}
        assert counts.states["waiting"] == 1
        assert counts.states["succeeded"] > counts.acknowledged // 2


@pytest.mark.timeout(120 + 15 * KILLS)
async def test_a_power_cut_on_a_slow_disk_loses_nothing(tmp_path):
    """Of what was not synced when the control plane died any part is gone: what was acknowledged is there all the same."""
    chance = random.Random(SEED)
    house = House(tmp_path)
    disk = preloaded(tmp_path, DISK_SLEEP_MS="10")
    house.plane = house.program("plane", "-m", "agentfield_server", env={**house.env, **disk})
    async with opened(house):
        await house.start_plane()
        await house.start_agent(worker(house))
        load = Load(house.url)
        cuts, written, lost = 0, 0, 0
        async with load.going_on():
            while cuts < max(2, KILLS // 2) or (not lost and cuts < MOST_CUTS):
                cuts += 1
                await load.more(chance.randint(1, 30))
                await house.plane.kill()
                cut = power_cut(house.home / "agentfield.db", chance)
                written, lost = written + cut[0], lost + cut[1]
                await house.start_plane()
        what = f"{cuts} power cuts on a slow disk, {written} unsynced writes, {lost} of them lost"
        await checked(house, load, what)
        assert lost
