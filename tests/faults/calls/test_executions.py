"""Executions that are started while no agent is linked."""

from __future__ import annotations

from support.faults.installation import Installation, opened


async def test_work_waits_for_the_agent_after_a_restart(tmp_path):
    """A restarted control plane queues work for an agent that has not relinked yet; its target is not unknown."""
    async with opened(Installation(tmp_path)) as installation:
        await installation.start_plane()
        agent = installation.agent()
        before = await installation.start_agent(agent)
        await agent.kill()
        await installation.plane.kill()
        await installation.start_plane()

        [away] = await installation.client.nodes()
        assert (away.node_id, away.instance_id, away.connected) == ("steps", before.instance_id, False)
        handed_in = await installation.client.execute_async("steps.double", {"number": 21})
        assert handed_in.status == "queued"

        await installation.start_agent(agent)
        done = await installation.client.wait_execution(handed_in.id, timeout=30)
        assert (done.status, done.output, done.attempt) == ("succeeded", 42, 1)
        installation.stored().check_over(done.run_id)
