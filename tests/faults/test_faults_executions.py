"""Work that is handed in while no agent is there."""

from __future__ import annotations

from faults_kit import House, opened


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
