"""Recorded turns over HTTP with the pair `local/audio_turns`: a turn is transcribed and answered, noise is not."""

from __future__ import annotations

import array
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.plugins import Registry
from agentfield.wire.rest import StartRequest
from agentfield_local.brain import load_brain
from agentfield_local.server import LocalServer
from agentfield_local.speech.protocols import SpeechEngines
from agentfield_local.speech.synthetic import EnergyVad, FixedStt, ToneTts
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings
from support.audio import tone, wav
from support.providers.scripted_turns import audio_of, message_types

NOISE = array.array("h", (random.Random(at).randint(-60, 60) for at in range(24_000))).tobytes()


class _JoeTts(ToneTts):
    @property
    def voices(self) -> tuple[str, ...]:
        return ("joe",)


@pytest.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ControlPlaneClient]:
    """Run a local server that hears "tea", then "coffee", and a kiosk: a handler's counter, and a model's."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    engines = SpeechEngines(name="synthetic", vad=EnergyVad, stt=FixedStt(["tea", "coffee"]), tts=_JoeTts())
    app = Agent("kiosk", registry=Registry.of([]))

    @app.session("counter", provider="local", transport="audio_turns")
    async def counter(session: Any) -> None:
        turn = await session.input()
        await session.say(f"You said {turn.text}.")

    @app.session("model", provider="local", transport="audio_turns", floor="model")
    async def model(session: Any) -> None:
        """Leave the conversation to the model."""

    async with LocalServer(engines, load_brain("obedient")) as server:
        environ = {"AGENTFIELD_LOCAL_URL": server.base_url}
        async with control_plane(Settings(home=tmp_path, port=0), environ=environ) as plane:
            app._url, app._api_key = plane.url, None
            async with app, ControlPlaneClient(plane.url) as client:
                yield client


async def test_recorded_turns_with_the_local_pair(client: ControlPlaneClient) -> None:
    """`local/audio_turns` transcribes a recorded turn and speaks the handler's words, twice in one session."""
    session = await client.start_session(StartRequest(target="kiosk.counter"))
    for word in ("tea", "coffee"):
        answer = [event async for event in client.turn(session.session_id, wav(tone(500)), "audio/wav")]
        (speech,) = [event["body"] for event in answer if event["type"] == "speech.ended"]
        assert speech["asked"] == f"You said {word}."
        assert speech["failed"] is None
        assert len(audio_of(answer)) > 24_000
        assert message_types(answer)[-1] == "execution.ended"


async def test_the_model_does_not_answer_noise(client: ControlPlaneClient) -> None:
    """On the model's floor a recording without words is discarded and nothing is said; the next turn is answered."""
    session = await client.start_session(StartRequest(target="kiosk.model"))
    for _ in range(3):
        answer = [event async for event in client.turn(session.session_id, wav(NOISE), "audio/wav")]
        assert [event["body"]["why"] for event in answer if event["type"] == "turn.discarded"] == ["empty"]
        assert audio_of(answer) == b""
    answer = [event async for event in client.turn(session.session_id, wav(tone(500)), "audio/wav")]
    (speech,) = [event["body"] for event in answer if event["type"] == "speech.ended" and event["body"]["generated"]]
    assert speech["generated"] == "You said: coffee."  # the transcript was the first of the two texts
    assert len(audio_of(answer)) > 24_000


async def test_a_typed_text_after_noise_is_answered(client: ControlPlaneClient) -> None:
    """Only the answer to the noise itself is left out."""
    session = await client.start_session(StartRequest(target="kiosk.model"))
    async for _ in client.turn(session.session_id, wav(NOISE), "audio/wav"):
        pass
    events = client.session_events(session.session_id, audio=True)
    await anext(events)  # from here on it listens
    await client.send_input(session.session_id, "hello")
    async for event in events:
        if event["type"] == "speech.ended" and event["body"]["generated"]:
            assert event["body"]["generated"] == "You said: hello."
            return
    raise AssertionError
