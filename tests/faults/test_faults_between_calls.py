"""Processes that die between two calls: nobody does anything, and the next call works."""

from __future__ import annotations

from agentfield.wire.rest import StartRequest
from faults_kit import House, opened, phone, provider


async def test_agent_killed_between_two_calls(tmp_path):
    """An agent that was killed and started again takes the next call; the first one stays as it was recorded."""
    async with provider("one", "two") as local, opened(House(tmp_path, local_url=local.url)) as house:
        await house.start_plane()
        agent = house.agent()
        await house.start_agent(agent)
        async with phone(house) as first:
            await first.turn("one")
            assert (await first.answered("one, attempt 1, resumed False"))["body"]["heard_ms"] > 0
            assert (await first.hang_up()).end_reason == "caller_hangup"
        before = await house.client.workflow(first.session_id)

        await agent.kill()
        await house.start_agent(agent)

        async with phone(house) as second:
            await second.turn("two")
            assert (await second.answered("two, attempt 1, resumed False"))["body"]["heard_ms"] > 0
            assert (await second.hang_up()).end_reason == "caller_hangup"
        assert await house.client.workflow(first.session_id) == before
        for run_id in (first.run_id, second.run_id):
            assert set(house.books().statuses(run_id).values()) == {"succeeded"}
            house.books().check_over(run_id)
        assert [(call.state, call.end_reason) for call in local.calls] == [("ended", "hangup")] * 2


async def test_control_plane_killed_between_two_calls(tmp_path):
    """A control plane that was killed and started again has the first call, and its agent, and takes the next call."""
    async with provider("one", "two") as local, opened(House(tmp_path, local_url=local.url)) as house:
        await house.start_plane()
        agent = house.agent()
        node = await house.start_agent(agent)
        async with phone(house) as first:
            await first.turn("one")
            await first.answered("one, attempt 1")
            ended = await first.hang_up()
        tree, log = await house.client.workflow(first.session_id), house.books().check_over(first.run_id)
        waiting = await house.client.start_session(StartRequest(target="steps.talk", caller="late"))

        await house.plane.kill()
        await house.start_plane()

        async with phone(house) as second:  # at once: the agent need not have found the new control plane
            await second.turn("two")
            assert (await second.answered("two, attempt 1, resumed False"))["body"]["heard_ms"] > 0
            assert (await second.hang_up()).end_reason == "caller_hangup"
        again = await house.linked(agent)
        assert (again.instance_id, again.did) == (node.instance_id, node.did)
        assert await house.client.get_session(first.session_id) == ended
        assert ended.end_reason == "caller_hangup"
        assert await house.client.workflow(first.session_id) == tree
        assert house.books().check_over(first.run_id)[: len(log)] == log
        assert (await house.client.get_session(waiting.session_id)).state == "created"
        assert set(house.books().statuses(second.run_id).values()) == {"succeeded"}
        house.books().check_over(second.run_id)
