"""No acknowledged work is lost while control plane and node are killed again and again under load."""

from __future__ import annotations

import random

import pytest

from agentfield.wire.rest import DecisionRequest, WebhookRequest
from support.faults.disk import power_cut, preloaded
from support.faults.installation import Installation, opened
from support.faults.load import KILLS, SETTLED, Load, checked, receiving, worker
from support.waiting import until_async

SEED = 20_261
SUSPENDED = 3
MOST_CUTS = 10
"""Power cuts to try at most until one loses a write: at a cut everything may be synced."""
NODE = 3 if KILLS < 10 else 5
"""Kills of the control plane to one of the node."""


async def suspended(installation: Installation, load: Load) -> list[str]:
    """Start executions that request an approval; return the ids of the approvals."""
    for number in range(SUSPENDED):
        done = await installation.client.execute_async("work.asks", {"number": number})
        load.acknowledged[f"asks-{number}"] = done.id
    asked = await until_async(
        lambda: installation.client.list_approvals("pending"), lambda found: len(found) == SUSPENDED
    )
    return [approval.id for approval in asked]


@pytest.mark.timeout(300 + 15 * KILLS)
async def test_kills_at_random_moments_lose_nothing(tmp_path):
    """With kills under load every invariant holds, and approvals and webhook deliveries survive."""
    chance = random.Random(SEED)
    installation = Installation(tmp_path)
    allowed = {"AGENTFIELD_WEBHOOK_ALLOW": '["127.0.0.0/8"]'}
    installation.plane = installation.program("plane", "-m", "agentfield_server", env={**installation.env, **allowed})
    async with receiving() as (url, receipts), opened(installation):
        await installation.start_plane()
        agent = worker(installation)
        await installation.start_agent(agent)
        hook = await installation.client.add_webhook(
            WebhookRequest(url=url, events=("execution.ended", "approval.decided"))
        )
        load = Load(installation.url)
        undecided, approved, rejected = await suspended(installation, load)
        async with load.submitting():
            for kill in range(1, KILLS + 1):
                await load.more(chance.randint(1, 30))
                await installation.plane.kill()
                await installation.start_plane()
                if kill % NODE == 0:
                    await load.more(chance.randint(1, 10))
                    await agent.kill()
                    await installation.start_agent(agent)
        await installation.client.decide(approved, DecisionRequest(decision="approved"))
        await installation.plane.kill()  # the acknowledged decision must survive
        await installation.start_plane()
        await installation.client.decide(rejected, DecisionRequest(decision="rejected"))
        await until_async(
            lambda: installation.client.deliveries(hook.id, "pending"), lambda left: not left, seconds=SETTLED
        )
        counts = await checked(
            installation, load, f"{KILLS + 1} kills of the control plane, {KILLS // NODE} of the node", receipts
        )
        assert (await installation.client.get_approval(undecided)).status == "pending"
        outputs = {
            row.output
            for row in [
                await installation.client.get_execution(load.acknowledged[f"asks-{n}"]) for n in range(SUSPENDED)
            ]
        }
        assert outputs == {None, "approved", "rejected"}
        assert counts.states["waiting"] == 1
        assert counts.states["succeeded"] > counts.acknowledged // 2


@pytest.mark.timeout(300 + 15 * KILLS)
async def test_a_power_cut_on_a_slow_disk_loses_no_acknowledged_work(tmp_path):
    """Any part of the unsynced writes is lost when the control plane is killed; acknowledged work is never lost."""
    chance = random.Random(SEED)
    installation = Installation(tmp_path)
    disk = preloaded(tmp_path, DISK_SLEEP_MS="10")
    installation.plane = installation.program("plane", "-m", "agentfield_server", env={**installation.env, **disk})
    async with opened(installation):
        await installation.start_plane()
        await installation.start_agent(worker(installation))
        load = Load(installation.url)
        cuts, written, lost = 0, 0, 0
        async with load.submitting():
            while cuts < max(2, KILLS // 2) or (not lost and cuts < MOST_CUTS):
                cuts += 1
                await load.more(chance.randint(1, 30))
                await installation.plane.kill()
                cut = power_cut(installation.home / "agentfield.db", chance)
                written, lost = written + cut[0], lost + cut[1]
                await installation.start_plane()
        what = f"{cuts} power cuts on a slow disk, {written} unsynced writes, {lost} of them lost"
        await checked(installation, load, what)
        assert lost
