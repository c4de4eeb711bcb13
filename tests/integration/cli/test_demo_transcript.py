"""Word error rates of calls to the demo's agent, over all clean recordings."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from agentfield.client import ControlPlaneClient
from agentfield_cli.demo.speech import SpeechServer
from support.processes.installation import Installation, run_installation, speech_server
from support.processes.live_call import Answer, calling
from support.processes.recordings import Transcript, clip, transcripts
from support.word_error_rate import word_error_rate

pytestmark = [pytest.mark.speech, pytest.mark.realtime, pytest.mark.long, pytest.mark.timeout(900)]

AGENT = Path(str(resources.files("agentfield_cli"))) / "demo" / "agent.py"
LEAST = 0.15
CALLERS = 4
"""Calls at a time, so that the whole takes a minute."""


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpeechServer]:
    """The offline speech server."""
    with speech_server(tmp_path_factory.mktemp("speech")) as server:
        yield server


@pytest.fixture(scope="module")
def installation(speech: SpeechServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A control plane with the demo's agent."""
    with run_installation(
        tmp_path_factory.mktemp("installation") / "it", AGENT, env={"AGENTFIELD_LOCAL_URL": speech.url}
    ) as it:
        yield it


async def conversation(client: ControlPlaneClient, said: list[Transcript]) -> list[tuple[Transcript, Answer]]:
    """Make one call with many turns; each recording is spoken once the previous answer was heard."""
    async with calling(client, "voice-support.voice") as live:
        answers = [(each, await live.say(clip(each.file))) for each in said]
        assert live.recorded("session.ended") == []
        return answers


async def test_callers_and_replies_are_understood(
    installation: Installation, speech: SpeechServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over all clean human and synthetic clips, the word error rates of callers and of heard replies are at most 15 %."""
    human, synthetic = transcripts("human"), transcripts("synthetic")
    assert (len(human), len(synthetic)) == (7, 10)
    clips = sorted([*human, *synthetic], key=lambda each: len(each.words))
    async with installation.client() as client:
        calls = await asyncio.gather(*(conversation(client, clips[start::CALLERS]) for start in range(CALLERS)))
    answers = [pair for call in calls for pair in call]
    callers = [(each.words, answer.caller) for each, answer in answers]
    replies = [
        (
            " ".join(said["generated"] for said in answer.speeches if not said["stale"]),
            await speech.transcribe(answer.audio),
        )
        for _, answer in answers
    ]
    with capsys.disabled():
        rates = f"callers {word_error_rate(callers):.1%}, replies {word_error_rate(replies):.1%}"
        sys.stdout.write(f"\nword error rate: {rates}\n")
    assert word_error_rate(callers) <= LEAST, callers
    assert word_error_rate(replies) <= LEAST, replies
