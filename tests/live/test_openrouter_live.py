"""One short conversation with OpenRouter itself; costs money, runs only where it is switched on.

Switch: ``AGENTFIELD_LIVE_OPENROUTER=1`` and ``OPENROUTER_API_KEY``; a model other than the default by
``AGENTFIELD_LIVE_OPENROUTER_MODEL``.
"""

from __future__ import annotations

import logging
import os
import wave
from pathlib import Path

import pytest
from pydantic import SecretStr

from agentfield.adapterkit.http import http_session
from agentfield.adapterkit.provider import Provider
from agentfield.realtime.commands import AppendAudio, CommitTurn, Reply, Say
from agentfield.realtime.events import (
    ProviderFault,
    ReplyAudio,
    ReplyEnded,
    SessionUpdated,
    ToolRequested,
    TurnTranscript,
)
from agentfield_openrouter.turns import FORMAT, TurnsAdapter
from openrouter_kit import Talk, config

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

SPEECH = Path(__file__).parent.parent / "speech_fixtures" / "goforward.wav"
PATIENCE = 90.0


def recorded() -> bytes:
    """Return a few spoken words at 24 kHz; every sample of 16 kHz becomes one and a half."""
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
    """Words of the caller, an answer with sound and cost, words read out, a call of a tool; who answers is told."""
    key = SecretStr(os.environ["OPENROUTER_API_KEY"])
    model = os.environ.get("AGENTFIELD_LIVE_OPENROUTER_MODEL", "openai/gpt-audio-mini")
    provider = Provider("OpenRouter", "https://openrouter.ai/api/v1", key, "OPENROUTER_API_KEY")
    conf = config(model=model, tools=["desk.find_order"], options={"max_output_tokens": 400})
    async with http_session() as http:
        adapter = TurnsAdapter(provider, http, logging.getLogger("live"), lambda: 0.0)
        talk = Talk(await adapter.open(conf, FORMAT), patience=PATIENCE)
        try:
            await talk.send(AppendAudio(data=recorded()), CommitTurn(item="item_1"))
            heard = await talk.until(TurnTranscript)
            assert heard.failed is None
            assert "forward" in heard.text.lower()
            await talk.send(Reply(id="spk_1", instructions="Answer in one short sentence.", tools=()))
            ended = await talk.until(ReplyEnded)
            assert (ended.status, ended.audio) == ("completed", True)
            assert ended.text
            assert ended.usage.cost > 0
            assert talk.of(SessionUpdated)[0].model.startswith(model)
            await talk.send(Say(id="spk_2", text="Your order is on its way."))
            said = await talk.until(ReplyEnded, 2)
            assert "order" in said.text
            await talk.send(Reply(id="spk_3", instructions="Look up order 7 with the tool now."))
            assert (await talk.until(ReplyEnded, 3)).tools == len(talk.of(ToolRequested)) > 0
            assert talk.of(ProviderFault) == []
            assert len(b"".join(event.data for event in talk.of(ReplyAudio))) > 24_000
        finally:
            await talk.close()
