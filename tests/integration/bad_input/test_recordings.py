"""Arbitrary recordings with mutated headers at both borders: each is answered or refused by type, and a neighbour's call goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.errors import AgentFieldError
from agentfield.plugins import Registry
from agentfield.wire.rest import StartRequest, StartResponse
from agentfield_local.brain import load_brain
from agentfield_local.server import LocalServer
from agentfield_local.speech.protocols import SpeechEngines
from agentfield_local.speech.synthetic import EnergyVad, FixedStt, ToneTts
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings
from support.audio import tone, wav
from support.paths import RECORDING_FIXTURES
from support.recordings import recording

FILES = sorted(path.name for path in RECORDING_FIXTURES.iterdir() if path.suffix not in (".md", ".flac"))
FORMATS = [("wav", "adpcm_ms"), ("webm", "libopus"), ("matroska", "pcm_f32le"), ("3gp", "aac"), ("mp3", "libmp3lame")]
CODES = {"unsupported_audio", "invalid_audio", "empty_turn", "turn_too_long", "audio_too_costly"}


class _JoeTts(ToneTts):
    @property
    def voices(self) -> tuple[str, ...]:
        return ("joe",)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Return a recording with a few bytes overwritten, most of them in its header, and perhaps cut off."""
    which: Any = draw(st.sampled_from([*FILES[:8], *FORMATS]))
    data = bytearray(
        (RECORDING_FIXTURES / which).read_bytes() if isinstance(which, str) else recording(*which, seconds=0.3)
    )
    for place, value in draw(st.lists(st.tuples(st.floats(0, 0.1), st.binary(min_size=1, max_size=4)), max_size=8)):
        at = int(place * len(data))
        data[at : at + len(value)] = value
    return bytes(data[: int(draw(st.sampled_from([1.0, 1.0, 0.5, 0.1])) * len(data))])


class Borders:
    """A control plane with a local server, two sessions, and a client of each."""

    def __init__(self, client: ControlPlaneClient, local_url: str, http: aiohttp.ClientSession) -> None:
        self.client = client
        self._local_url = local_url
        self._http = http

    async def start(self) -> StartResponse:
        """Start a session of recorded turns."""
        return await self.client.start_session(StartRequest(target="kiosk.turns"))

    async def post(self, session: StartResponse, data: bytes, media_type: str) -> str:
        """Post a turn; return how it ended, or the code of its refusal."""
        try:
            events = [event async for event in self.client.turn(session.session_id, data, media_type)]
        except AgentFieldError as error:
            refused = error
        else:
            return "answered" if any(event["type"] == "speech.ended" for event in events) else "discarded"
        assert refused.status in (413, 415, 422), refused
        assert refused.hint
        return refused.code

    async def transcribe(self, data: bytes) -> int:
        """Post a recording to the local server; return the status."""
        form = aiohttp.FormData({"model": "whisper-1"})
        form.add_field("file", data, filename="a.bin")
        async with self._http.post(f"{self._local_url}/v1/audio/transcriptions", data=form) as answer:
            body = await answer.json()
            assert ("text" in body) if answer.status == 200 else body["error"]["code"], body
            return answer.status


@asynccontextmanager
async def borders(folder: Path) -> AsyncIterator[Borders]:
    """Run both servers and an agent that repeats what it hears."""
    app = Agent("kiosk", registry=Registry.of([]))

    @app.session("turns", provider="local", transport="audio_turns")
    async def turns(session: Any) -> None:
        turn = await session.input()
        await session.say(f"You said {turn.text}.")

    engines = SpeechEngines(name="synthetic", vad=EnergyVad, stt=FixedStt(["tea"] * 1000), tts=_JoeTts())
    async with AsyncExitStack() as stack:
        local = await stack.enter_async_context(LocalServer(engines, load_brain("obedient")))
        environ = {"AGENTFIELD_LOCAL_URL": local.base_url}
        plane = await stack.enter_async_context(control_plane(Settings(home=folder, port=0), environ=environ))
        app._url, app._api_key = plane.url, None
        await stack.enter_async_context(app)
        client = await stack.enter_async_context(ControlPlaneClient(plane.url))
        http = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
        yield Borders(client, local.base_url.removesuffix("/v1"), http)


@pytest.mark.fuzz
def test_mutated_recordings_end_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No recording causes a 5xx, ends its session, or disturbs a neighbour; both servers accept the same ones."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        here = runner.run(stack.enter_async_context(borders(tmp_path)))
        try:
            one, neighbour = runner.run(here.start()), runner.run(here.start())

            async def send(data: bytes, media_type: str) -> None:
                outcome = await here.post(one, data, media_type)
                assert outcome in {"answered", "discarded", *CODES}
                status = await here.transcribe(data)
                assert status in (200, 400)
                if outcome in ("answered", "discarded"):
                    assert status == 200
                assert await here.post(neighbour, wav(tone(150)), "audio/wav") == "answered"

            @settings(max_examples=40, deadline=None)
            @given(data=mutated(), media_type=st.sampled_from(["audio/wav", "audio/webm;codecs=pcm", "audio/mpga", ""]))
            def run(data: bytes, media_type: str) -> None:
                runner.run(send(data, media_type))

            run()
            assert runner.run(here.post(one, wav(tone(150)), "audio/wav")) == "answered"
            for session in (one, neighbour):
                assert runner.run(here.client.get_session(session.session_id)).state == "live"
        finally:
            runner.run(stack.aclose())
