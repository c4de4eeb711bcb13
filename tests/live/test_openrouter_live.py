"""One short conversation with OpenRouter; costs money and runs only if enabled.

Switch: ``AGENTFIELD_LIVE_OPENROUTER=1`` and ``OPENROUTER_API_KEY``; a model other than the default by
``AGENTFIELD_LIVE_OPENROUTER_MODEL``.
"""

from __future__ import annotations

import logging
import os
import wave

import pytest
from pydantic import SecretStr

from agentfield.adapterkit.endpoint import ProviderEndpoint
from agentfield.adapterkit.http import http_session
from agentfield.realtime.commands import AppendAudioCommand, CommitTurnCommand, ReplyCommand, SayCommand
from agentfield.realtime.events import (
    ProviderFault,
    ReplyAudio,
    ReplyEnded,
    SessionUpdated,
    ToolRequested,
    TurnTranscript,
)
from agentfield_openrouter.adapter import FORMAT, AudioTurnsAdapter
from support.paths import SPEECH_FIXTURES
from support.providers.openrouter import SessionDriver, config

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

SPEECH = SPEECH_FIXTURES / "goforward.wav"
PATIENCE = 90.0


def recorded() -> bytes:
    """Return a few spoken words at 24 kHz, upsampled from 16 kHz by one and a half."""
    with wave.open(str(SPEECH)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        data = file.readframes(file.getnframes())
    samples = [int.from_bytes(data[at : at + 2], "little", signed=True) for at in range(0, len(data) - 1, 2)]
    out = bytearray()
    for at in range(len(samples) * 3 // 2 - 2):
        place, rest = divmod(at * 2, 3)
        value = samples[place] + (samples[place + 1] - samples[place]) * rest // 3
        out += value.to_bytes(2, "little", signed=True)
    return bytes(out)


async def test_a_spoken_turn_a_say_and_a_tool() -> None:
    """A transcript, a reply with audio and cost, a say, and a tool call; the serving model is reported."""
    key = SecretStr(os.environ["OPENROUTER_API_KEY"])
    model = os.environ.get("AGENTFIELD_LIVE_OPENROUTER_MODEL", "openai/gpt-audio-mini")
    provider = ProviderEndpoint("OpenRouter", "https://openrouter.ai/api/v1", key, "OPENROUTER_API_KEY")
    conf = config(model=model, tools=["shop.find_order"], options={"max_output_tokens": 400})
    async with http_session() as http:
        adapter = AudioTurnsAdapter(provider, http, logging.getLogger("live"), lambda: 0.0)
        driver = SessionDriver(await adapter.open(conf, FORMAT), patience=PATIENCE)
        try:
            await driver.send(AppendAudioCommand(data=recorded()), CommitTurnCommand(item="item_1"))
            heard = await driver.until(TurnTranscript)
            assert heard.failed is None
            assert "forward" in heard.text.lower()
            await driver.send(ReplyCommand(id="spk_1", instructions="Answer in one short sentence.", tools=()))
            ended = await driver.until(ReplyEnded)
            assert (ended.status, ended.audio) == ("completed", True)
            assert ended.text
            assert ended.usage.cost > 0
            assert driver.of(SessionUpdated)[0].model.startswith(model)
            await driver.send(SayCommand(id="spk_2", text="Your order is on its way."))
            said = await driver.until(ReplyEnded, 2)
            assert "order" in said.text
            await driver.send(ReplyCommand(id="spk_3", instructions="Look up order 7 with the tool now."))
            assert (await driver.until(ReplyEnded, 3)).tools == len(driver.of(ToolRequested)) > 0
            assert driver.of(ProviderFault) == []
            assert len(b"".join(event.data for event in driver.of(ReplyAudio))) > 24_000
        finally:
            await driver.close()
