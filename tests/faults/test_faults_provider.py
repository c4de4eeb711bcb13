"""The provider, or the caller, is the one that dies."""

from __future__ import annotations

import json
import os
import signal

import psutil
import pytest

from agentfield_cli.audio import read_recording
from faults_kit import AF, DICTATION, ROOT, House, eventually, free_port, opened, phone, provider

SPOKEN = ROOT / "tests" / "speech_fixtures" / "synthetic" / "01.wav"


@pytest.mark.speech
async def test_the_restarted_control_plane_adopts_the_speech_server(tmp_path):
    """A control plane that was killed finds its speech server again; the next call is understood and answered."""
    async with opened(House(tmp_path)) as house:
        await house.start_plane()
        agent = house.agent(DICTATION)
        await house.start_agent(agent)
        words = read_recording(SPOKEN)
        async with phone(house, "voice-dictation.dictate") as first:
            await first.call.speak(words)
            noted = (await first.answered("I noted: "))["body"]["asked"]
            await first.hang_up()
        server = _server(house)

        await house.plane.kill()
        await agent.kill()
        await house.start_plane()
        await house.start_agent(agent)

        async with phone(house, "voice-dictation.dictate") as second:
            await second.call.speak(words)
            assert (await second.answered("I noted: "))["body"]["asked"] == noted
            await second.hang_up()
        assert _server(house) == server
        for call in (first, second):
            assert set(house.books().statuses(call.run_id).values()) == {"succeeded"}
            house.books().check_over(call.run_id)
        _end(server)


@pytest.mark.speech
async def test_control_plane_and_provider_killed_in_a_call(tmp_path):
    """A call that died with its provider is ended with a reason by the next control plane, and a new one can be made."""
    async with opened(House(tmp_path)) as house:
        await house.start_plane()
        agent = house.agent(DICTATION)
        await house.start_agent(agent)
        async with phone(house, "voice-dictation.dictate") as call:
            server = _server(house)
            await house.plane.kill()
            os.kill(server, signal.SIGKILL)
            await house.start_plane()
            ended = await call.story.until("session.state", state="ended")
        assert ended["body"]["reason"] == "control_plane_restart"
        view = await house.ended(call.session_id)
        assert (view.end_reason, bool(view.end_detail)) == ("control_plane_restart", True)
        house.books().check_over(call.run_id)

        await house.linked(agent)
        async with phone(house, "voice-dictation.dictate") as second:
            await second.call.speak(read_recording(SPOKEN))
            await second.answered("I noted: ")
            assert (await second.hang_up()).end_reason == "caller_hangup"
        assert _server(house) != server
        _end(_server(house))


async def test_provider_gone_while_there_is_no_control_plane(tmp_path):
    """A call whose provider cannot be reached any more is ended with a reason by the next control plane."""
    async with provider("one") as local, opened(House(tmp_path, local_url=local.url)) as house:
        await house.start_plane()
        await house.start_agent(house.agent())
        async with phone(house) as call:
            await house.plane.kill()
            await local.stop()
            await house.start_plane()
            ended = await call.story.until("session.state", state="ended")
        assert ended["body"]["reason"] == "control_plane_restart"
        view = await house.ended(call.session_id)
        assert (view.end_reason, bool(view.end_detail)) == ("control_plane_restart", True)
        house.books().check_over(call.run_id)


async def test_provider_killed_in_a_call(tmp_path):
    """A call whose provider dies ends with the reason provider_error; the next call works once the provider is back."""
    port = free_port()
    async with opened(House(tmp_path, openai_url=f"http://127.0.0.1:{port}/v1")) as house:
        server = house.provider(port)
        await house.start_provider(server)
        await house.start_plane()
        await house.start_agent(house.agent(env={"STEPS_PROVIDER": "openai"}))
        async with phone(house) as call:
            await call.turn("hello")
            await call.answered("hello, attempt 1")

            await server.kill()

            ended = await call.story.until("session.state", state="ended")
            assert (ended["body"]["reason"], bool(ended["body"]["detail"])) == ("provider_error", True)
        house.books().check_over(call.run_id)

        await house.start_provider(server)
        async with phone(house) as second:
            await second.turn("hello")
            await second.answered("hello, attempt 1")
            assert (await second.hang_up()).end_reason == "caller_hangup"
        house.books().check_over(second.run_id)


async def test_caller_killed_in_a_call(tmp_path):
    """A caller that is killed leaves nothing behind: the call is hung up at the provider with the reason caller_hangup."""
    async with provider("story") as local, opened(House(tmp_path, local_url=local.url)) as house:
        await house.start_plane()
        await house.start_agent(house.agent())
        command = ("session", "call", "steps.talk", "--audio", str(SPOKEN), "--url", house.url)
        caller = house.program("caller", AF, *command, env=house.env)
        await caller.start()

        async def speaks() -> str | None:
            caller.check()
            views = [view for view in await house.client.list_sessions() if view.state == "live" and view.turns]
            return views[0].id if views else None

        session_id = await eventually(speaks)
        assert session_id is not None
        [at_provider] = local.calls
        assert at_provider.state == "live"

        await caller.kill()

        view = await house.ended(session_id)
        assert view.end_reason == "caller_hangup"
        assert at_provider.hangups == 1
        assert (at_provider.state, at_provider.end_reason) == ("ended", "hangup")
        house.books().check_over(view.run_id)


def _server(house: House) -> int:
    """Return the process of the speech server that the control plane started."""
    return int(json.loads((house.home / "adapters" / "local" / "server.json").read_text())["pid"])


def _end(pid: int) -> None:
    """End a speech server that would stay for a minute."""
    process = psutil.Process(pid)
    process.terminate()
    process.wait(20)
