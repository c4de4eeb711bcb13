"""The provider or the caller is killed."""

from __future__ import annotations

import json
import os
import signal

import psutil
import pytest

from agentfield_cli.call.recordings import read_recording
from support.faults.installation import DICTATION, Installation, opened
from support.faults.live_call import calling
from support.paths import ROOT
from support.processes.programs import AF, free_port
from support.providers.engines import local_provider
from support.waiting import until_async
from support.word_error_rate import normalise

SPOKEN = ROOT / "tests" / "fixtures" / "speech" / "synthetic" / "01.wav"


@pytest.mark.speech
@pytest.mark.realtime
async def test_the_restarted_control_plane_adopts_the_speech_server(tmp_path):
    """A restarted control plane reuses the running speech server; the next call is understood and answered."""
    async with opened(Installation(tmp_path)) as installation:
        await installation.start_plane()
        agent = installation.agent(DICTATION)
        await installation.start_agent(agent)
        words = read_recording(SPOKEN)
        async with calling(installation, "voice-dictation.dictate") as first:
            await first.call.speak(words)
            noted = (await first.answered("I noted: "))["body"]["asked"]
            await first.hang_up()
        server = _server(installation)

        await installation.plane.kill()
        await agent.kill()
        await installation.start_plane()
        await installation.start_agent(agent)

        async with calling(installation, "voice-dictation.dictate") as second:
            await second.call.speak(words)
            # the recogniser writes the order number in digits or in words
            assert normalise((await second.answered("I noted: "))["body"]["asked"]) == normalise(noted)
            await second.hang_up()
        assert _server(installation) == server
        for call in (first, second):
            assert set(installation.stored().statuses(call.run_id).values()) == {"succeeded"}
            installation.stored().check_over(call.run_id)
        _end(server)


@pytest.mark.speech
@pytest.mark.realtime
async def test_control_plane_and_provider_killed_in_a_call(tmp_path):
    """The restarted control plane ends the call with a reason, since its provider is lost too; a new call works."""
    async with opened(Installation(tmp_path)) as installation:
        await installation.start_plane()
        agent = installation.agent(DICTATION)
        await installation.start_agent(agent)
        async with calling(installation, "voice-dictation.dictate") as call:
            server = _server(installation)
            await installation.plane.kill()
            os.kill(server, signal.SIGKILL)
            await installation.start_plane()
            ended = await call.record.until("session.state", state="ended")
        assert ended["body"]["reason"] == "control_plane_restart"
        view = await installation.ended(call.session_id)
        assert (view.end_reason, bool(view.end_detail)) == ("control_plane_restart", True)
        installation.stored().check_over(call.run_id)

        await installation.linked(agent)
        async with calling(installation, "voice-dictation.dictate") as second:
            await second.call.speak(read_recording(SPOKEN))
            await second.answered("I noted: ")
            assert (await second.hang_up()).end_reason == "caller_hangup"
        assert _server(installation) != server
        _end(_server(installation))


async def test_provider_stopped_while_no_control_plane_runs(tmp_path):
    """The restarted control plane ends a call whose provider is unreachable, with a reason."""
    async with local_provider("one") as local, opened(Installation(tmp_path, local_url=local.url)) as installation:
        await installation.start_plane()
        await installation.start_agent(installation.agent())
        async with calling(installation) as call:
            await installation.plane.kill()
            await local.stop()
            await installation.start_plane()
            ended = await call.record.until("session.state", state="ended")
        assert ended["body"]["reason"] == "control_plane_restart"
        view = await installation.ended(call.session_id)
        assert (view.end_reason, bool(view.end_detail)) == ("control_plane_restart", True)
        installation.stored().check_over(call.run_id)


async def test_provider_killed_in_a_call(tmp_path):
    """A call whose provider is killed ends with provider_error; the next call works once the provider is back."""
    port = free_port()
    async with opened(Installation(tmp_path, openai_url=f"http://127.0.0.1:{port}/v1")) as installation:
        server = installation.provider(port)
        await installation.start_provider(server)
        await installation.start_plane()
        await installation.start_agent(installation.agent(env={"STEPS_PROVIDER": "openai"}))
        async with calling(installation) as call:
            await call.turn("hello")
            await call.answered("hello, attempt 1")

            await server.kill()

            ended = await call.record.until("session.state", state="ended")
            assert (ended["body"]["reason"], bool(ended["body"]["detail"])) == ("provider_error", True)
        installation.stored().check_over(call.run_id)

        await installation.start_provider(server)
        async with calling(installation) as second:
            await second.turn("hello")
            await second.answered("hello, attempt 1")
            assert (await second.hang_up()).end_reason == "caller_hangup"
        installation.stored().check_over(second.run_id)


async def test_caller_killed_in_a_call(tmp_path):
    """The call of a killed caller is hung up at the provider and ends with the reason caller_hangup."""
    async with local_provider("story") as local, opened(Installation(tmp_path, local_url=local.url)) as installation:
        await installation.start_plane()
        await installation.start_agent(installation.agent())
        command = ("session", "call", "steps.talk", "--audio", str(SPOKEN), "--url", installation.url)
        caller = installation.program("caller", AF, *command, env=installation.env)
        await caller.start()

        async def speaks() -> str | None:
            caller.check()
            views = [view for view in await installation.client.list_sessions() if view.state == "live" and view.turns]
            return views[0].id if views else None

        session_id = await until_async(speaks)
        assert session_id is not None
        [at_provider] = local.calls
        assert at_provider.state == "live"

        await caller.kill()

        view = await installation.ended(session_id)
        assert view.end_reason == "caller_hangup"
        assert at_provider.hangups == 1
        assert (at_provider.state, at_provider.end_reason) == ("ended", "hangup")
        installation.stored().check_over(view.run_id)


def _server(installation: Installation) -> int:
    """Return the process of the speech server that the control plane started."""
    return int(json.loads((installation.home / "adapters" / "local" / "server.json").read_text())["pid"])


def _end(pid: int) -> None:
    """Terminate a speech server that would stay for a minute."""
    process = psutil.Process(pid)
    process.terminate()
    process.wait(20)
