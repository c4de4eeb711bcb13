"""Processes are killed between two calls: the next call works without any intervention."""

from __future__ import annotations

from agentfield.wire.rest import StartRequest
from support.faults.installation import Installation, opened
from support.faults.live_call import calling
from support.providers.engines import local_provider


async def test_agent_killed_between_two_calls(tmp_path):
    """An agent that was killed and restarted takes the next call; the record of the first is unchanged."""
    async with (
        local_provider("one", "two") as local,
        opened(Installation(tmp_path, local_url=local.url)) as installation,
    ):
        await installation.start_plane()
        agent = installation.agent()
        await installation.start_agent(agent)
        async with calling(installation) as first:
            await first.turn("one")
            assert (await first.answered("one, attempt 1, resumed False"))["body"]["heard_ms"] > 0
            assert (await first.hang_up()).end_reason == "caller_hangup"
        before = await installation.client.workflow(first.session_id)

        await agent.kill()
        await installation.start_agent(agent)

        async with calling(installation) as second:
            await second.turn("two")
            assert (await second.answered("two, attempt 1, resumed False"))["body"]["heard_ms"] > 0
            assert (await second.hang_up()).end_reason == "caller_hangup"
        assert await installation.client.workflow(first.session_id) == before
        for run_id in (first.run_id, second.run_id):
            assert set(installation.stored().statuses(run_id).values()) == {"succeeded"}
            installation.stored().check_over(run_id)
        assert [(call.state, call.end_reason) for call in local.calls] == [("ended", "hangup")] * 2


async def test_control_plane_killed_between_two_calls(tmp_path):
    """A restarted control plane has the record of the first call, relinks its agent, and takes the next call."""
    async with (
        local_provider("one", "two") as local,
        opened(Installation(tmp_path, local_url=local.url)) as installation,
    ):
        await installation.start_plane()
        agent = installation.agent()
        node = await installation.start_agent(agent)
        async with calling(installation) as first:
            await first.turn("one")
            await first.answered("one, attempt 1")
            ended = await first.hang_up()
        tree, log = await installation.client.workflow(first.session_id), installation.stored().check_over(first.run_id)
        waiting = await installation.client.start_session(StartRequest(target="steps.talk", caller="late"))

        await installation.plane.kill()
        await installation.start_plane()

        async with calling(installation) as second:  # at once: the agent need not have found the new control plane
            await second.turn("two")
            assert (await second.answered("two, attempt 1, resumed False"))["body"]["heard_ms"] > 0
            assert (await second.hang_up()).end_reason == "caller_hangup"
        again = await installation.linked(agent)
        assert (again.instance_id, again.did) == (node.instance_id, node.did)
        assert await installation.client.get_session(first.session_id) == ended
        assert ended.end_reason == "caller_hangup"
        assert await installation.client.workflow(first.session_id) == tree
        assert installation.stored().check_over(first.run_id)[: len(log)] == log
        assert (await installation.client.get_session(waiting.session_id)).state == "created"
        assert set(installation.stored().statuses(second.run_id).values()) == {"succeeded"}
        installation.stored().check_over(second.run_id)
