"""The phone bridge example as its README runs it: its agent, a recorded caller, a control plane and the local provider."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from agentfield_cli.call.recordings import read_recording
from agentfield_cli.demo.speech import SpeechServer
from support.paths import SPEECH_FIXTURES
from support.processes.installation import CANARY, EXAMPLES, Installation, provider_settings, run_installation
from support.processes.live_call import of_kind, tree
from support.waiting import SECONDS
from support.word_error_rate import word_error_rate

BRIDGE = EXAMPLES / "phone_bridge"
ASKED = "where is my order number four two seven"


async def call(it: Installation, recording: Path, save: Path, *flags: str) -> tuple[str, str]:
    """Run the bridge with a recording; return its standard output and its error output."""
    command = [sys.executable, str(BRIDGE / "bridge.py"), str(recording), "--save", str(save), *flags]
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"AGENTFIELD_HOME": str(it.home), "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode(), err.decode()


def printed_by(out: str, who: str) -> str:
    """Return the text that the bridge printed for one side."""
    return " ".join(line.removeprefix(f"{who}:") for line in out.splitlines() if line.startswith(f"{who}:"))


@pytest.mark.speech
@pytest.mark.realtime
async def test_a_recording_is_answered_over_the_bridge(tmp_path: Path, speech: SpeechServer) -> None:
    """The recorded caller is transcribed and answered aloud; its keys and its hang-up are recorded."""
    agent = BRIDGE / "agent.py"
    assert "python examples/phone_bridge/bridge.py caller.wav --save answer.wav" in (BRIDGE / "README.md").read_text()
    with run_installation(tmp_path / "installation", agent, env=provider_settings(speech.url)) as it:
        recording = SPEECH_FIXTURES / "synthetic" / "01.wav"
        out, err = await call(it, recording, tmp_path / "answer.wav", "--keys", "1#", "--hold", "12")
        async with it.client() as client:
            (session,) = await client.list_sessions()
            dag = await client.workflow(session.id)
            events = [event async for event in client.session_events(session.id)]
        written = it.everything()
    assert err == ""
    assert word_error_rate([(ASKED, printed_by(out, "caller"))]) <= 0.15, out
    answer = printed_by(out, "agent ")
    assert word_error_rate([(f"You said: {ASKED}.", answer)]) <= 0.15, out
    heard = await speech.transcribe(read_recording(tmp_path / "answer.wav"))
    assert word_error_rate([(answer, heard)]) <= 0.15, heard
    assert [event["body"]["digit"] for event in of_kind(events, "dtmf")] == ["1", "#"]
    assert "the call is over: caller_hangup" in out
    assert f"af session workflows {session.id}" in out
    assert (session.state, session.end_reason, session.turns) == ("ended", "caller_hangup", 1)
    target = "front-desk.phone"
    assert tree(dag) == [("session", target, "succeeded", None), ("turn", target, "succeeded", "session 1")]
    assert [name for name, data in written.items() if CANARY.encode() in data] == []
