"""Processes are killed during a call: the call continues to a spoken answer, or is hung up with a reason."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from support.faults.installation import Installation, opened
from support.faults.live_call import calling
from support.providers.engines import local_provider
from support.waiting import until_async


async def test_agent_killed_while_its_handler_runs(tmp_path):
    """A handler that was lost with its agent runs again on the next instance and gets its open turn again."""
    async with (
        local_provider("one", "two") as local,
        opened(Installation(tmp_path, local_url=local.url)) as installation,
    ):
        await installation.start_plane()
        agent = installation.agent()
        before = await installation.start_agent(agent)
        installation.gate.touch()
        async with calling(installation) as call:
            await call.turn("one")
            lost = await call.record.until("execution.started", node_id="steps", instance_id=before.instance_id)

            await agent.kill()
            installation.gate.unlink()
            after = await installation.start_agent(agent)

            said = await call.answered("one, attempt 2, resumed True")
            assert said["body"]["heard_ms"] > 0
            await call.record.until("handler.started", resumed=True)
            assert after.instance_id != before.instance_id
            assert len(call.record.all("turn.committed")) == 1
            await call.turn("two")
            await call.answered("two, attempt 1, resumed False")
            await call.record.until("execution.ended", kind="call", status="failed")
            assert (await call.hang_up()).end_reason == "caller_hangup"
        statuses = installation.stored().statuses(call.run_id)
        assert statuses.pop(lost["execution_id"]) == "failed"
        assert set(statuses.values()) == {"succeeded"}
        [ended] = [e for e in call.record.all("execution.ended") if e["execution_id"] == lost["execution_id"]]
        assert ended["body"]["problem"]["code"] == "node_lost"
        installation.stored().check_over(call.run_id)
        assert [(c.state, c.end_reason) for c in local.calls] == [("ended", "hangup")]


async def test_agent_killed_in_a_call_and_not_started_again(tmp_path):
    """A call whose agent does not link again ends with the reason node_lost and is hung up at the provider."""
    async with local_provider("one") as local, opened(Installation(tmp_path, local_url=local.url)) as installation:
        await installation.start_plane()
        agent = installation.agent()
        await installation.start_agent(agent)
        installation.gate.touch()
        async with calling(installation) as call:
            await call.turn("one")
            await call.record.until("execution.started", node_id="steps")

            await agent.kill()

            ended = await call.record.until("session.state", state="ended")
            assert ended["body"]["reason"] == "node_lost"
            view = await installation.ended(call.session_id)
            assert (view.end_reason, bool(view.end_detail)) == ("node_lost", True)
        [at_provider] = local.calls
        assert (at_provider.state, at_provider.end_reason) == ("ended", "hangup")
        final = {"failed", "cancelled"}
        await until_async(lambda: _statuses(installation, call.run_id), lambda found: set(found) <= final)
        installation.stored().check_over(call.run_id)


async def test_agent_stopped_in_a_call_and_started_again(tmp_path):
    """An agent that is stopped in a call exits cleanly; the next instance resumes the call."""
    async with (
        local_provider("one", "two") as local,
        opened(Installation(tmp_path, local_url=local.url)) as installation,
    ):
        await installation.start_plane()
        agent = installation.agent()
        await installation.start_agent(agent)
        async with calling(installation) as call:
            await call.turn("one")
            await call.answered("one, attempt 1, resumed False")
            await call.record.until("handler.started", epoch=2)

            assert await agent.stop() == 0
            await installation.start_agent(agent)

            await call.record.until("handler.started", resumed=True)
            await call.turn("two")
            assert (await call.answered("two, attempt 1, resumed True"))["body"]["heard_ms"] > 0
            assert (await call.hang_up()).end_reason == "caller_hangup"
        assert set(installation.stored().statuses(call.run_id).values()) == {"succeeded"}
        installation.stored().check_over(call.run_id)
        assert len(local.calls) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_control_plane_ended_while_the_agent_speaks(tmp_path, number):
    """The caller hears the agent without a control plane; the restarted control plane resumes the call and answers it."""
    async with (
        local_provider("story", "two") as local,
        opened(Installation(tmp_path, local_url=local.url)) as installation,
    ):
        await installation.start_plane()
        agent = installation.agent()
        node = await installation.start_agent(agent)
        async with calling(installation) as call:
            end = await call.turn("story")
            await call.begins("story, attempt 1")
            await call.call.wait_for_voice(end)

            code = await installation.plane.end(number)
            assert code == (0 if number is signal.SIGTERM else -number)
            [at_provider] = local.calls
            await until_async(lambda: _legs(local), lambda legs: legs == 1)
            await asyncio.wait_for(call.call.wait_for_voice(time.monotonic()), 60)
            assert at_provider.state == "live"

            await installation.start_plane()
            assert (await installation.linked(agent)).instance_id == node.instance_id
            await call.record.until("handler.started", resumed=True)
            await call.answered("story, attempt 2, resumed True")
            await call.turn("two")
            assert (await call.answered("two, attempt 1, resumed False"))["body"]["heard_ms"] > 0
            assert installation.stored().call_id(call.session_id) == at_provider.id
            assert (at_provider.state, at_provider.hangups) == ("live", 0)
            assert (await call.hang_up()).end_reason == "caller_hangup"
        assert len(local.calls) == 1
        assert (at_provider.state, at_provider.end_reason) == ("ended", "hangup")
        assert set(installation.stored().statuses(call.run_id).values()) == {"succeeded"}
        log = installation.stored().check_over(call.run_id)
        assert call.record.events == log[: len(call.record.events)]
        told = [(event["body"]["asked"], event["body"]["failed"]) for event in call.record.all("speech.ended")]
        assert [failed for _, failed in told] == ["control_plane_restart", None, None]
        assert [asked for asked, _ in told] == [event["body"]["asked"] for event in call.record.all("speech.started")]


async def test_control_plane_killed_while_a_call_of_the_handler_runs(tmp_path):
    """Work that ran when the control plane was killed finishes and counts once; the turn is asked again."""
    async with (
        local_provider("one", "two") as local,
        opened(Installation(tmp_path, local_url=local.url)) as installation,
    ):
        await installation.start_plane()
        agent = installation.agent()
        await installation.start_agent(agent)
        installation.gate.touch()
        async with calling(installation) as call:
            await call.turn("one")
            running = await call.record.until("execution.started", node_id="steps")

            await installation.plane.kill()
            await installation.start_plane()
            await call.record.until("handler.started", resumed=True)
            installation.gate.unlink()

            assert (await call.answered("one, attempt 2, resumed True"))["body"]["heard_ms"] > 0
            await call.turn("two")
            await call.answered("two, attempt 1, resumed False")
            assert (await call.hang_up()).end_reason == "caller_hangup"
        assert installation.stored().statuses(call.run_id)[running["execution_id"]] == "succeeded"
        assert len(call.record.all("turn.committed")) == 2
        log = installation.stored().check_over(call.run_id)
        assert call.record.events == log[: len(call.record.events)]
        assert len(local.calls) == 1


async def _statuses(installation: Installation, run_id: str) -> list[str]:
    return list(installation.stored().statuses(run_id).values())


async def _legs(local) -> int:
    return local.calls[0].legs
