"""Whoever calls the demo's agent is understood, and hears what it says: counted over all clean recordings."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from agentfield.client import ControlPlaneClient
from agentfield_cli.demo.speech import SpeechServer
from call_kit import Answer, House, Transcript, calling, clip, house, speech_server, transcripts
from wer import word_error_rate

pytestmark = [pytest.mark.speech, pytest.mark.timeout(300)]

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
def installation(speech: SpeechServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A control plane with the demo's agent."""
    with house(tmp_path_factory.mktemp("house") / "it", AGENT, env={"AGENTFIELD_LOCAL_URL": speech.url}) as it:
        yield it


async def conversation(client: ControlPlaneClient, said: list[Transcript]) -> list[tuple[Transcript, Answer]]:
    """Make one call with many turns: each recording is spoken once the answer to the one before was heard."""
    async with calling(client, "voice-support.voice") as live:
        return [(each, await live.say(clip(each.file))) for each in said]


async def test_callers_are_understood_and_hear_what_was_said(
    installation: House, speech: SpeechServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over all clean human and synthetic clips the words of callers, and of replies as heard, are within 15 % errors."""
    human, synthetic = transcripts("human"), transcripts("synthetic")
    assert (len(human), len(synthetic)) == (7, 10)
    clips = sorted([*human, *synthetic], key=lambda each: len(each.words))
    async with installation.client() as client:
        calls = await asyncio.gather(*(conversation(client, clips[start::CALLERS]) for start in range(CALLERS)))
    answers = [pair for call in calls for pair in call]
    callers = [(each.words, answer.caller) for each, answer in answers]
    replies = [
        (" ".join(said["generated"] for said in answer.speeches if not said["stale"]), await speech.words(answer.audio))
        for _, answer in answers
    ]
    with capsys.disabled():
        rates = f"callers {word_error_rate(callers):.1%}, replies {word_error_rate(replies):.1%}"
        sys.stdout.write(f"\nword error rate: {rates}\n")
    assert word_error_rate(callers) <= LEAST, callers
    assert word_error_rate(replies) <= LEAST, replies
