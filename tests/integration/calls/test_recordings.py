"""Recordings as people's software writes them, posted to and spoken in real calls, with real speech engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.plugins import Registry
from agentfield.wire.rest import StartRequest
from agentfield_cli.call.recordings import read_speech
from agentfield_local.brain import load_brain
from agentfield_local.faults.behaviour import Behaviour
from agentfield_local.server import LocalServer
from agentfield_local.speech.engines import load_engines
from agentfield_local.speech.protocols import SpeechEngines
from agentfield_local.speech.synthetic import EnergyVad, FixedStt, ToneTts
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings
from support.audio import tone_samples
from support.paths import RECORDING_FIXTURES
from support.processes.live_call import calling

WORDS = "not an ill"
"""Part of what is said in the short recordings, as the recogniser writes it."""
NOISES = ("hum.flac", "pinknoise.flac")
SPOKEN = {
    "android.aac": "audio/aac",
    "antiphase.wav": "audio/wav",
    "gsm.wav": "audio/x-wav",
    "ima.wav": "audio/wav",
    "ios.caf": "audio/x-caf",
    "meta_latin1.m4a": "audio/mp4",
    "meta_latin1.wav": "audio/wav",
    "meta_sjis.ogg": "audio/ogg;codecs=opus",
    "meta_sjis.webm": "audio/webm",
    "mp4_frag_cut.mp4": "video/mp4",
    "quiet.wav": "application/octet-stream",
}


class _JoeTts(ToneTts):
    @property
    def voices(self) -> tuple[str, ...]:
        return ("joe",)


class Heard:
    """What the handlers of `listening_agent` got."""

    def __init__(self) -> None:
        self.turns: list[tuple[str | None, str | None]] = []
        self.late: list[str] = []
        self.history: list[dict[str, Any]] = []


async def until_late(events: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield the first late transcript."""
    async for event in events:
        if event.type == "turn.transcript" and event.late:
            yield event
            return


def listening_agent(heard: Heard) -> Agent:
    """Return an agent whose handlers repeat the words, or wait for them where they are missing."""
    app = Agent("kiosk", registry=Registry.of([]))

    @app.session("turns", provider="local", transport="audio_turns")
    async def turns(session: Any) -> None:
        turn = await session.input()
        await session.say(f"You said {turn.text}.")

    @app.session("voice", provider="local", transport="websocket")
    async def voice(session: Any) -> None:
        turn = await session.input()
        heard.turns.append((turn.text, turn.text_missing))
        if turn.text is None:
            heard.late = [event.text async for event in until_late(session.events())]
        heard.turns.append((turn.text, turn.text_missing))
        heard.history = list(session.history)
        await session.say("I see.")

    return app


@asynccontextmanager
async def running(
    folder: Path, engines: SpeechEngines, heard: Heard | None = None, behaviour: Behaviour | None = None
) -> AsyncIterator[ControlPlaneClient]:
    """Run a local server, a control plane and the agent."""
    app = listening_agent(heard or Heard())
    async with LocalServer(engines, load_brain("obedient"), behaviour=behaviour) as server:
        environ = {"AGENTFIELD_LOCAL_URL": server.base_url}
        async with control_plane(Settings(home=folder, port=0), environ=environ) as plane:
            app._url, app._api_key = plane.url, None
            async with app, ControlPlaneClient(plane.url) as client:
                yield client


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))


async def test_recordings_of_other_software_are_heard_and_noise_is_not(tmp_path: Path) -> None:
    """Every odd recording becomes a turn with its words in one session; noise in between is discarded."""
    async with running(tmp_path, load_engines("default")) as client:
        session = await client.start_session(StartRequest(target="kiosk.turns"))

        async def post(name: str, media_type: str) -> list[Any]:
            data = (RECORDING_FIXTURES / name).read_bytes()
            return [event async for event in client.turn(session.session_id, data, media_type)]

        for noise in NOISES:
            (discarded,) = [e["body"] for e in await post(noise, "audio/flac") if e["type"] == "turn.discarded"]
            assert discarded["why"] == "empty", noise
        for name, media_type in SPOKEN.items():
            (committed,) = [e["body"] for e in await post(name, media_type) if e["type"] == "turn.committed"]
            wanted = "not" if name == "mp4_frag_cut.mp4" else WORDS
            assert wanted in (committed["text"] or "").lower(), (name, committed)


@pytest.mark.parametrize("name", [*SPOKEN, "nopause.ogg"])
def test_the_terminal_takes_what_the_server_takes(name: str) -> None:
    """`af session call --audio` reads the same recordings."""
    assert read_speech(RECORDING_FIXTURES / name).size > 48_000


async def test_late_words_are_delivered_and_the_turn_stays_as_it_was(tmp_path: Path) -> None:
    """A transcript that comes after the wait is an event of the log, of `events()` and of `history`."""
    heard = Heard()
    late = Behaviour(late_transcript_ms=4000)
    engines = SpeechEngines(name="synthetic", vad=EnergyVad, stt=FixedStt(["tea"]), tts=_JoeTts())
    async with running(tmp_path, engines, heard, late) as client, calling(client, "kiosk.voice") as live:
        (turn,) = (await live.say(tone_samples(0.6))).turns
        (recorded,) = [event["body"] for event in live.recorded("turn.transcript")]
        assert (turn["text"], turn["text_missing"]) == (None, "timeout")
        assert (recorded["turn_id"], recorded["late"], recorded["text"]) == (turn["turn_id"], True, heard.late[0])
        assert heard.turns == [(None, "timeout")] * 2
        assert heard.history == [{"role": "caller", "turn_id": turn["turn_id"], "text": heard.late[0]}]


@pytest.mark.long
async def test_thirty_seconds_without_a_pause_keep_their_words(tmp_path: Path) -> None:
    """The handler gets the words of a long turn: in time, or late on a slow machine."""
    heard = Heard()
    async with running(tmp_path, load_engines("default"), heard) as client, calling(client, "kiosk.voice") as live:
        await live.say(read_speech(RECORDING_FIXTURES / "nopause.ogg"))
    text = (heard.turns[0][0] or heard.late[0]).lower()
    assert "best of times" in text
    assert "winter of despair" in text
    assert heard.history[0]["text"].lower() == text
