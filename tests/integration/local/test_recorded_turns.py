"""Recorded turns over HTTP with the pair `local/audio_turns`: a turn is transcribed and answered, twice."""

from __future__ import annotations

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


class _JoeTts(ToneTts):
    @property
    def voices(self) -> tuple[str, ...]:
        return ("joe",)


async def test_recorded_turns_with_the_local_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`local/audio_turns` transcribes a recorded turn and speaks the handler's words, twice in one session."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    engines = SpeechEngines(name="synthetic", vad=EnergyVad, stt=FixedStt(["tea", "coffee"]), tts=_JoeTts())
    app = Agent("kiosk", registry=Registry.of([]))

    @app.session("counter", provider="local", transport="audio_turns")
    async def counter(session: Any) -> None:
        turn = await session.input()
        await session.say(f"You said {turn.text}.")

    async with LocalServer(engines, load_brain("obedient")) as server:
        environ = {"AGENTFIELD_LOCAL_URL": server.base_url}
        async with control_plane(Settings(home=tmp_path, port=0), environ=environ) as plane:
            app._url, app._api_key = plane.url, None
            async with app, ControlPlaneClient(plane.url) as client:
                session = await client.start_session(StartRequest(target="kiosk.counter"))
                for word in ("tea", "coffee"):
                    recording = wav(tone(500))
                    answer = [event async for event in client.turn(session.session_id, recording, "audio/wav")]
                    (speech,) = [event["body"] for event in answer if event["type"] == "speech.ended"]
                    assert speech["asked"] == f"You said {word}."
                    assert speech["failed"] is None
                    assert len(audio_of(answer)) > 24_000
                    assert message_types(answer)[-1] == "execution.ended"
