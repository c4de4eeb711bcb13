"""What the tests of the local server share: sounds, a WebRTC caller, strict checks of server events, a false clock."""

from __future__ import annotations

import asyncio
import base64
import fractions
import heapq
import itertools
import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame, AudioResampler
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from agentfield_local.behaviour import Behaviour
from agentfield_local.brain.protocol import BrainRequest, Step
from agentfield_local.realtime.client_audio import audio_length_ms
from agentfield_local.realtime.conversation import Conversation
from agentfield_local.realtime.effects import Effect, End, Hear, Later, Listen, Send, Think, Transcribe, Voice
from agentfield_local.webrtc.playout import Playout

__all__ = ["Caller", "Desk", "FalseClock", "b64", "check_event", "silence", "tone", "until"]

_EVENTS: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
_NEVER_NULL = {"transcript", "audio", "text", "output_index", "content_index", "obfuscation"}


def tone(ms: int, rate: int, hertz: int = 300) -> bytes:
    """A loud tone, s16le mono."""
    at = np.arange(rate * ms // 1000) / rate
    return bytes((8000 * np.sin(2 * np.pi * hertz * at)).astype("<i2").tobytes())


def silence(ms: int, rate: int) -> bytes:
    """Nothing, s16le mono."""
    return b"\0" * (rate * ms // 1000 * 2)


def b64(audio: bytes) -> str:
    """Audio as the protocol sends it."""
    return base64.b64encode(audio).decode()


def check_event(event: dict[str, Any]) -> None:
    """Fail unless an event fits the official client's type for it, strictly, and stock parsers that refuse nulls."""
    assert _EVENTS.validate_python(event, strict=True).type == event["type"]
    if event["type"].startswith("response.content_part."):
        assert not [name for name in _NEVER_NULL if name in event["part"] and event["part"][name] is None]
    for name in _NEVER_NULL & event.keys():
        assert event[name] is not None


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that no event announces."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - for what no event announces
            await asyncio.sleep(0.01)


class FalseClock:
    """A clock that moves when the test says so."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        done = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._count), done))
        await done

    def advance(self, seconds: float) -> None:
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)


class _Microphone(MediaStreamTrack):
    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.buffer = bytearray()
        self._begun: float | None = None
        self._samples = 0

    async def recv(self) -> AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        if self._begun is None:
            self._begun = time.monotonic()
        await asyncio.sleep(max(0.0, self._begun + self._samples / 48_000 - time.monotonic()))
        piece = bytes(self.buffer[:1920]).ljust(1920, b"\0")
        del self.buffer[:1920]
        stereo = np.repeat(np.frombuffer(piece, "<i2"), 2).reshape(1, -1)
        frame = AudioFrame.from_ndarray(stereo, format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, self._samples, fractions.Fraction(1, 48_000)
        self._samples += 960
        return frame


class Caller:
    """A WebRTC caller: speaks what it is given, records what it hears, keeps the events of its data channel."""

    def __init__(self) -> None:
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.microphone = _Microphone()
        self.events: list[dict[str, Any]] = []
        self.heard = bytearray()
        self.closed = asyncio.Event()
        self._news = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        self.connection.addTrack(self.microphone)
        self.channel = self.connection.createDataChannel("oai-events")
        self.channel.on("message", self._on_message)
        self.channel.on("close", self.closed.set)
        self.connection.on("track", self._on_track)

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return str(self.connection.localDescription.sdp)

    async def accept(self, answer: str) -> None:
        await self.connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    def speak(self, pcm48k: bytes) -> None:
        self.microphone.buffer += pcm48k

    def send(self, event: dict[str, Any]) -> None:
        self.channel.send(json.dumps(event))

    async def wait(self, kind: str, *, count: int = 1, seconds: float = 20.0) -> dict[str, Any]:
        """Return the latest event of this type once there are so many."""
        found = await self.until(lambda: [e for e in self.events if e["type"] == kind], count, seconds)
        return found[count - 1]

    async def until(
        self, look: Callable[[], list[dict[str, Any]]], count: int = 1, seconds: float = 20.0
    ) -> list[dict[str, Any]]:
        async with asyncio.timeout(seconds):
            while len(found := look()) < count:
                self._news.clear()
                await self._news.wait()
        return found

    async def hears_sound(self, seconds: float = 20.0) -> None:
        """Wait until something louder than noise was heard."""
        async with asyncio.timeout(seconds):
            while not self.heard or np.abs(np.frombuffer(bytes(self.heard), "<i2")).max() < 1000:
                self._news.clear()
                await self._news.wait()

    async def close(self) -> None:
        await self.connection.close()
        if self._listening is not None:
            await self._listening

    def _on_message(self, message: str) -> None:
        self.events.append(json.loads(message))
        self._news.set()

    def _on_track(self, track: MediaStreamTrack) -> None:
        self._listening = asyncio.create_task(self._listen(track))

    async def _listen(self, track: MediaStreamTrack) -> None:
        resampler = AudioResampler(format="s16", layout="mono", rate=16_000)
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(frame, AudioFrame)
            for out in resampler.resample(frame):
                self.heard += out.to_ndarray().tobytes()
            self._news.set()


_TURN = tone(300, 16_000)


class Desk:
    """Drives a conversation by hand: what it asks for waits until the test lets it happen."""

    def __init__(
        self, behaviour: Behaviour | None = None, *, webrtc: bool = False, transcription: bool = False
    ) -> None:
        count = itertools.count()
        self.time = 1_800_000_000.0
        self.playout = Playout() if webrtc else None
        self.machine = Conversation(
            new_id=lambda prefix: f"{prefix}_{next(count)}",
            now=lambda: self.time,
            voices=("joe",),
            behaviour=behaviour or Behaviour(),
            model="gpt-realtime",
            playout=self.playout,
            transcription=transcription,
        )
        self.swallow = 0
        self.sent: list[dict[str, Any]] = []
        self.to: list[str | None] = []
        self.transcribe: deque[Transcribe] = deque()
        self.think: deque[Think] = deque()
        self.voice: deque[Voice] = deque()
        self.later: list[Later] = []
        self.listen: list[Listen] = []
        self.ended = False
        self.take(self.machine.open())
        self.take(self.machine.attach("one"))

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(event, to):
                    check_event(event)
                    self.sent.append(event)
                    self.to.append(to)
                case Hear(audio):
                    self.machine.heard(self._decoded(audio))
                case Transcribe():
                    self.transcribe.append(effect)
                case Think():
                    self.think.append(effect)
                case Voice():
                    self.voice.append(effect)
                case Later():
                    self.later.append(effect)
                case Listen():
                    self.listen.append(effect)
                case End():
                    self.ended = True

    def _decoded(self, audio: bytes) -> bytes:
        """What a decoder makes of audio on the wire, as silence; it may keep some of it inside."""
        if not self.swallow:
            return audio
        ms = audio_length_ms(audio, self.machine.config.input["format"])
        return b"\0" * (round(ms * 32) - self.swallow)

    def send(self, kind: str, **fields: Any) -> list[str]:
        """Send a client event and return the types of what came of it."""
        before = len(self.sent)
        self.take(self.machine.receive("one", json.dumps({"type": kind, **fields})))
        return [event["type"] for event in self.sent[before:]]

    def error(self) -> dict[str, Any]:
        assert self.sent[-1]["type"] == "error"
        return dict(self.sent[-1]["error"])

    def turn(self, text: str = "hello") -> str:
        """A whole turn of the caller by voice activity, its words known at once."""
        self.take(self.machine.speech_started(100))
        self.take(self.machine.speech_stopped(900, _TURN))
        wanted = self.transcribe.popleft()
        self.take(self.machine.transcribed(wanted.item_id, text))
        return wanted.item_id

    def plan(self, *steps: Step) -> BrainRequest:
        wanted = self.think.popleft()
        self.take(self.machine.planned(wanted.response_id, steps))
        return wanted.request

    def speak(self, ms: int = 400, *, done: bool = True) -> Voice:
        wanted = self.voice.popleft()
        audio = tone(ms, 48_000 if self.playout is not None else 24_000)
        self.take(self.machine.voiced(wanted.response_id, wanted.item_id, audio, ms, clause=True))
        if done:
            self.take(self.machine.voice_done(wanted.response_id, wanted.item_id))
        return wanted

    def play(self, ms: int) -> None:
        assert self.playout is not None
        for _ in range(ms // 20):
            _, events = self.playout.pull(1920)
            self.take(self.machine.played(events))

    def types(self) -> list[str]:
        return [event["type"] for event in self.sent]

    def last(self, kind: str) -> dict[str, Any]:
        return next(event for event in reversed(self.sent) if event["type"] == kind)
