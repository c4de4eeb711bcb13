"""Processes that die in the middle of a call: it goes on to a spoken answer, or it ends with a reason and is hung up."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from faults_kit import House, eventually, opened, phone, provider


async def test_agent_killed_while_its_handler_runs(tmp_path):
    """A handler that was lost with its agent is run from the top on the next instance, and its open turn comes again."""
    async with provider("one", "two") as local, opened(House(tmp_path, local_url=local.url)) as house:
        await house.start_plane()
        agent = house.agent()
        before = await house.start_agent(agent)
        house.gate.touch()
        async with phone(house) as call:
            await call.turn("one")
            lost = await call.story.until("execution.started", node_id="steps", instance_id=before.instance_id)

            await agent.kill()
            house.gate.unlink()
            after = await house.start_agent(agent)

            said = await call.answered("one, attempt 2, resumed True")
            assert said["body"]["heard_ms"] > 0
            await call.story.until("handler.started", resumed=True)
            assert after.instance_id != before.instance_id
            assert len(call.story.all("turn.committed")) == 1
            await call.turn("two")
            await call.answered("two, attempt 1, resumed False")
            await call.story.until("execution.ended", kind="call", status="failed")
            assert (await call.hang_up()).end_reason == "caller_hangup"
        statuses = house.books().statuses(call.run_id)
        assert statuses.pop(lost["execution_id"]) == "failed"
        assert set(statuses.values()) == {"succeeded"}
        [ended] = [e for e in call.story.all("execution.ended") if e["execution_id"] == lost["execution_id"]]
        assert ended["body"]["problem"]["code"] == "node_lost"
        house.books().check_over(call.run_id)
        assert [(c.state, c.end_reason) for c in local.calls] == [("ended", "hangup")]


async def test_agent_killed_in_a_call_and_not_started_again(tmp_path):
    """A call whose agent does not come back ends with the reason node_lost and is hung up at the provider."""
    async with provider("one") as local, opened(House(tmp_path, local_url=local.url)) as house:
        await house.start_plane()
        agent = house.agent()
        await house.start_agent(agent)
        house.gate.touch()
        async with phone(house) as call:
            await call.turn("one")
            await call.story.until("execution.started", node_id="steps")

            await agent.kill()

            ended = await call.story.until("session.state", state="ended")
            assert ended["body"]["reason"] == "node_lost"
            view = await house.ended(call.session_id)
            assert (view.end_reason, bool(view.end_detail)) == ("node_lost", True)
        [at_provider] = local.calls
        assert (at_provider.state, at_provider.end_reason) == ("ended", "hangup")
        final = {"failed", "cancelled"}
        await eventually(lambda: _statuses(house, call.run_id), lambda found: set(found) <= final)
        house.books().check_over(call.run_id)


async def test_agent_stopped_in_a_call_and_started_again(tmp_path):
    """An agent that was asked to stop in a call ends cleanly; the next instance takes the call over."""
    async with provider("one", "two") as local, opened(House(tmp_path, local_url=local.url)) as house:
        await house.start_plane()
        agent = house.agent()
        await house.start_agent(agent)
        async with phone(house) as call:
            await call.turn("one")
            await call.answered("one, attempt 1, resumed False")
            await call.story.until("handler.started", epoch=2)

            assert await agent.stop() == 0
            await house.start_agent(agent)

            await call.story.until("handler.started", resumed=True)
            await call.turn("two")
            assert (await call.answered("two, attempt 1, resumed True"))["body"]["heard_ms"] > 0
            assert (await call.hang_up()).end_reason == "caller_hangup"
        assert set(house.books().statuses(call.run_id).values()) == {"succeeded"}
        house.books().check_over(call.run_id)
        assert len(local.calls) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_control_plane_gone_while_the_agent_speaks(tmp_path, number):
    """The caller hears the agent while there is no control plane; the next one takes the same call up and answers it."""
    async with provider("story", "two") as local, opened(House(tmp_path, local_url=local.url)) as house:
        await house.start_plane()
        agent = house.agent()
        node = await house.start_agent(agent)
        async with phone(house) as call:
            end = await call.turn("story")
            await call.begins("story, attempt 1")
            await call.call.hear(end)

            code = await house.plane.end(number)
            assert code == (0 if number is signal.SIGTERM else -number)
            [at_provider] = local.calls
            await eventually(lambda: _legs(local), lambda legs: legs == 1)
            await asyncio.wait_for(call.call.hear(time.monotonic()), 20)
            assert at_provider.state == "live"

            await house.start_plane()
            assert (await house.linked(agent)).instance_id == node.instance_id
            await call.story.until("handler.started", resumed=True)
            await call.answered("story, attempt 2, resumed True")
            await call.turn("two")
            assert (await call.answered("two, attempt 1, resumed False"))["body"]["heard_ms"] > 0
            assert house.books().call_id(call.session_id) == at_provider.id
            assert (at_provider.state, at_provider.hangups) == ("live", 0)
            assert (await call.hang_up()).end_reason == "caller_hangup"
        assert len(local.calls) == 1
        assert (at_provider.state, at_provider.end_reason) == ("ended", "hangup")
        assert set(house.books().statuses(call.run_id).values()) == {"succeeded"}
        log = house.books().check_over(call.run_id)
        assert call.story.events == log[: len(call.story.events)]
        told = [(event["body"]["asked"], event["body"]["failed"]) for event in call.story.all("speech.ended")]
        assert [failed for _, failed in told] == ["control_plane_restart", None, None]
        assert [asked for asked, _ in told] == [event["body"]["asked"] for event in call.story.all("speech.started")]


async def test_control_plane_killed_while_a_call_of_the_handler_runs(tmp_path):
    """What an agent was doing when the control plane died is finished and counted once; the turn is asked again."""
    async with provider("one", "two") as local, opened(House(tmp_path, local_url=local.url)) as house:
        await house.start_plane()
        agent = house.agent()
        await house.start_agent(agent)
        house.gate.touch()
        async with phone(house) as call:
            await call.turn("one")
            running = await call.story.until("execution.started", node_id="steps")

            await house.plane.kill()
            await house.start_plane()
            await call.story.until("handler.started", resumed=True)
            house.gate.unlink()

            assert (await call.answered("one, attempt 2, resumed True"))["body"]["heard_ms"] > 0
            await call.turn("two")
            await call.answered("two, attempt 1, resumed False")
            assert (await call.hang_up()).end_reason == "caller_hangup"
        assert house.books().statuses(call.run_id)[running["execution_id"]] == "succeeded"
        assert len(call.story.all("turn.committed")) == 2
        log = house.books().check_over(call.run_id)
        assert call.story.events == log[: len(call.story.events)]
        assert len(local.calls) == 1


async def _statuses(house: House, run_id: str) -> list[str]:
    return list(house.books().statuses(run_id).values())


async def _legs(local) -> int:
    return local.calls[0].legs
