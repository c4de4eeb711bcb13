"""Test support for the local server: a fake clock, a WebRTC caller, a conversation driver, strict event checks."""

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

from agentfield_local.brain.protocol import BrainRequest, Step
from agentfield_local.faults.behaviour import Behaviour
from agentfield_local.realtime.conversation.client_audio import audio_length_ms
from agentfield_local.realtime.conversation.effects import (
    DecodeAudio,
    Effect,
    EndSession,
    QueryBrain,
    RestartVad,
    ScheduleTimer,
    SendEvent,
    SynthesizeText,
    TranscribeItem,
)
from agentfield_local.realtime.conversation.machine import ConversationMachine
from agentfield_local.webrtc.output_buffer import OutputAudioBuffer
from support.audio import tone
from support.waiting import SECONDS

__all__ = ["Caller", "ConversationDriver", "FakeClock", "b64", "check_event"]

_EVENTS: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
_NEVER_NULL = {"transcript", "audio", "text", "output_index", "content_index", "obfuscation"}


def b64(audio: bytes) -> str:
    """Return audio as the protocol sends it."""
    return base64.b64encode(audio).decode()


def check_event(event: dict[str, Any]) -> None:
    """Check an event against the strict type of the official client, and against stock parsers that reject nulls."""
    assert _EVENTS.validate_python(event, strict=True).type == event["type"]
    if event["type"].startswith("response.content_part."):
        assert not [name for name in _NEVER_NULL if name in event["part"] and event["part"][name] is None]
    for name in _NEVER_NULL & event.keys():
        assert event[name] is not None


class FakeClock:
    """A clock that the test advances."""

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
        self._started_at: float | None = None
        self._samples = 0

    async def recv(self) -> AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        if self._started_at is None:
            self._started_at = time.monotonic()
        await asyncio.sleep(max(0.0, self._started_at + self._samples / 48_000 - time.monotonic()))
        piece = bytes(self.buffer[:1920]).ljust(1920, b"\0")
        del self.buffer[:1920]
        stereo = np.repeat(np.frombuffer(piece, "<i2"), 2).reshape(1, -1)
        frame = AudioFrame.from_ndarray(stereo, format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, self._samples, fractions.Fraction(1, 48_000)
        self._samples += 960
        return frame


class Caller:
    """A WebRTC caller: sends given audio, and records the audio and the events that it receives."""

    def __init__(self) -> None:
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.microphone = _Microphone()
        self.events: list[dict[str, Any]] = []
        self.heard = bytearray()
        self.closed = asyncio.Event()
        self._changed = asyncio.Event()
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

    async def wait(self, kind: str, *, count: int = 1, seconds: float = SECONDS) -> dict[str, Any]:
        """Return the `count`-th event of this type once it has arrived."""
        found = await self.until(lambda: [e for e in self.events if e["type"] == kind], count, seconds)
        return found[count - 1]

    async def until(
        self, look: Callable[[], list[dict[str, Any]]], count: int = 1, seconds: float = SECONDS
    ) -> list[dict[str, Any]]:
        async with asyncio.timeout(seconds):
            while len(found := look()) < count:
                self._changed.clear()
                await self._changed.wait()
        return found

    async def hears_sound(self, seconds: float = SECONDS) -> None:
        """Wait until audio louder than noise has arrived."""
        async with asyncio.timeout(seconds):
            while not self.heard or np.abs(np.frombuffer(bytes(self.heard), "<i2")).max() < 1000:
                self._changed.clear()
                await self._changed.wait()

    async def close(self) -> None:
        await self.connection.close()
        if self._listening is not None:
            await self._listening

    def _on_message(self, message: str) -> None:
        self.events.append(json.loads(message))
        self._changed.set()

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
            self._changed.set()


_TURN = tone(300, 16_000)


class ConversationDriver:
    """Drives a conversation step by step: its effects are queued until the test performs them."""

    def __init__(
        self, behaviour: Behaviour | None = None, *, webrtc: bool = False, transcription: bool = False
    ) -> None:
        count = itertools.count()
        self.time = 1_800_000_000.0
        self.output_buffer = OutputAudioBuffer() if webrtc else None
        self.machine = ConversationMachine(
            new_id=lambda prefix: f"{prefix}_{next(count)}",
            now=lambda: self.time,
            voices=("joe",),
            behaviour=behaviour or Behaviour(),
            model="gpt-realtime",
            output_buffer=self.output_buffer,
            transcription=transcription,
        )
        self.resampler_bytes = 0
        self.sent: list[dict[str, Any]] = []
        self.to: list[str | None] = []
        self.transcriptions: deque[TranscribeItem] = deque()
        self.brain_queries: deque[QueryBrain] = deque()
        self.syntheses: deque[SynthesizeText] = deque()
        self.timers: list[ScheduleTimer] = []
        self.vad_restarts: list[RestartVad] = []
        self.ended = False
        self.take(self.machine.open())
        self.take(self.machine.attach("one"))

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendEvent(event, to):
                    check_event(event)
                    self.sent.append(event)
                    self.to.append(to)
                case DecodeAudio(audio):
                    self.machine.heard(self._decoded(audio))
                case TranscribeItem():
                    self.transcriptions.append(effect)
                case QueryBrain():
                    self.brain_queries.append(effect)
                case SynthesizeText():
                    self.syntheses.append(effect)
                case ScheduleTimer():
                    self.timers.append(effect)
                case RestartVad():
                    self.vad_restarts.append(effect)
                case EndSession():
                    self.ended = True

    def _decoded(self, audio: bytes) -> bytes:
        """Return decoded silence of the length of the wire audio, less the bytes inside the resampler."""
        if not self.resampler_bytes:
            return audio
        ms = audio_length_ms(audio, self.machine.config.input["format"])
        return b"\0" * (round(ms * 32) - self.resampler_bytes)

    def send(self, kind: str, **fields: Any) -> list[str]:
        """Send a client event and return the types of the events that follow."""
        before = len(self.sent)
        self.take(self.machine.receive("one", json.dumps({"type": kind, **fields})))
        return [event["type"] for event in self.sent[before:]]

    def error(self) -> dict[str, Any]:
        assert self.sent[-1]["type"] == "error"
        return dict(self.sent[-1]["error"])

    def turn(self, text: str = "hello") -> str:
        """Run a whole turn by voice activity, transcribed at once."""
        self.take(self.machine.speech_started(100))
        self.take(self.machine.speech_stopped(900, _TURN))
        job = self.transcriptions.popleft()
        self.take(self.machine.transcribed(job.item_id, text))
        return job.item_id

    def plan(self, *steps: Step) -> BrainRequest:
        job = self.brain_queries.popleft()
        self.take(self.machine.brain_answered(job.response_id, steps))
        return job.request

    def speak(self, ms: int = 400, *, done: bool = True) -> SynthesizeText:
        job = self.syntheses.popleft()
        audio = tone(ms, 48_000 if self.output_buffer is not None else 24_000)
        self.take(self.machine.audio_synthesized(job.response_id, job.item_id, audio, ms, clause=True))
        if done:
            self.take(self.machine.item_synthesized(job.response_id, job.item_id))
        return job

    def play(self, ms: int) -> None:
        assert self.output_buffer is not None
        for _ in range(ms // 20):
            _, events = self.output_buffer.pull(1920)
            self.take(self.machine.played(events))

    def types(self) -> list[str]:
        return [event["type"] for event in self.sent]

    def last(self, kind: str) -> dict[str, Any]:
        return next(event for event in reversed(self.sent) if event["type"] == kind)
