"""Interim transcripts: how often a turn is transcribed, and that no words are lost or delayed."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiortc import RTCPeerConnection
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtp import RtpPacket

from agentfield_local.brain import ObedientBrain
from agentfield_local.faults.behaviour import Behaviour
from agentfield_local.realtime.session.interim_transcript import InterimTranscript
from agentfield_local.realtime.session.runner import SessionRunner
from agentfield_local.runtime.clock import WallClock
from agentfield_local.runtime.tasks import TaskSet
from agentfield_local.speech.pool import EnginePool
from agentfield_local.speech.protocols import SpeechEngines
from agentfield_local.speech.synthetic import EnergyVad, ToneTts
from agentfield_local.webrtc.jitter_buffer import set_jitter_prefetch
from support.audio import silence, tone
from support.providers.local_server import b64
from support.waiting import until

DONE = "conversation.item.input_audio_transcription.completed"
UPDATE = (
    '{"type":"session.update","session":{"type":"realtime","audio":{"input":{"transcription":{"model":"whisper-1"}}}}}'
)


class LengthStt:
    """Speech-to-text whose transcript is the length of the audio in ms; it waits for the gate, and may fail first."""

    def __init__(self, failures: int = 0) -> None:
        self.heard: list[int] = []
        self.failures = failures
        self.gate = threading.Event()
        self.gate.set()

    def transcribe(self, pcm: bytes) -> str:
        self.heard.append(len(pcm) // 32)
        assert self.gate.wait(20)
        if len(self.heard) <= self.failures:
            raise ValueError("broken")
        return str(len(pcm) // 32)


class TranscriptLeg:
    """A leg that records the transcripts."""

    name = "leg"

    def __init__(self) -> None:
        self.transcripts: list[str] = []
        self.turns = 0

    def send(self, event: dict[str, Any]) -> None:
        self.turns += event["type"] == "input_audio_buffer.committed"
        if event["type"] == DONE:
            self.transcripts.append(event["transcript"])

    def end(self, code: int = 1000, reason: str = "") -> None:
        """Nothing to close."""


@asynccontextmanager
async def transcribing(
    stt: LengthStt, *, early: bool = True
) -> AsyncIterator[tuple[TranscriptLeg, Callable[[bytes], None]]]:
    """Yield a leg of a session and a function that speaks to it (24 kHz)."""
    pool = EnginePool(SpeechEngines("length", EnergyVad, stt, ToneTts(), early=early), ObedientBrain())
    session = SessionRunner(pool, Behaviour(), WallClock(), on_end=lambda _: None)
    leg = TranscriptLeg()
    try:
        session.open()
        session.attach(leg)
        session.receive(leg, UPDATE)
        yield (
            leg,
            lambda pcm: session.receive(leg, f'{{"type":"input_audio_buffer.append","audio":"{b64(pcm)}"}}'),
        )
    finally:
        stt.gate.set()
        await session.close()
        await pool.close()


def near(found: list[int], expected: list[int]) -> bool:
    """Whether the lengths match within a few chunks (resampling and detection)."""
    return len(found) == len(expected) and all(abs(a - b) <= 60 for a, b in zip(found, expected, strict=True))


async def test_a_turn_is_transcribed_once_and_before_its_end() -> None:
    """The transcript is that of the audio up to the pause; the whole turn is not transcribed again."""
    stt = LengthStt()
    async with transcribing(stt) as (leg, speak):
        speak(tone(400, 24_000) + silence(300, 24_000))
        await until(lambda: len(stt.heard) == 1)
        assert leg.transcripts == []
        speak(silence(400, 24_000))
        await until(lambda: bool(leg.transcripts))
        assert leg.transcripts == [str(stt.heard[0])]
        assert near(stt.heard, [600])


async def test_an_interim_transcript_is_dropped_when_speech_continues() -> None:
    """If speech continues, the whole turn is transcribed; only one transcription of a caller runs at a time."""
    stt = LengthStt()
    async with transcribing(stt) as (leg, speak):
        stt.gate.clear()
        speak(tone(400, 24_000) + silence(300, 24_000))
        await until(lambda: len(stt.heard) == 1)
        speak(tone(400, 24_000) + silence(300, 24_000) + tone(400, 24_000) + silence(700, 24_000))
        await until(lambda: leg.turns == 1)
        stt.gate.set()
        await until(lambda: bool(leg.transcripts))
        assert near([int(leg.transcripts[0])], [2300])
        assert near(stt.heard, [600, 2300])


async def test_a_later_pause_has_its_own_interim_transcript() -> None:
    """After a pause inside the turn, the next pause is transcribed early too."""
    stt = LengthStt()
    async with transcribing(stt) as (leg, speak):
        speak(tone(400, 24_000) + silence(300, 24_000))
        await until(lambda: len(stt.heard) == 1)
        speak(tone(400, 24_000) + silence(300, 24_000))
        await until(lambda: len(stt.heard) == 2)
        speak(silence(400, 24_000))
        await until(lambda: bool(leg.transcripts))
        assert near(stt.heard, [600, 1300])
        assert leg.transcripts == [str(stt.heard[1])]


async def test_a_failed_interim_transcript_is_replaced_by_the_whole_turn() -> None:
    """If the engine fails on the interim transcript, it transcribes the whole turn."""
    stt = LengthStt(failures=1)
    async with transcribing(stt) as (leg, speak):
        speak(tone(400, 24_000) + silence(900, 24_000))
        await until(lambda: bool(leg.transcripts))
        assert near(stt.heard, [600, 900])
        assert leg.transcripts == [str(stt.heard[1])]


async def test_scripted_engines_get_whole_turns_only() -> None:
    """An engine without support for interim transcripts is asked once per turn."""
    stt = LengthStt()
    async with transcribing(stt, early=False) as (leg, speak):
        speak(tone(400, 24_000) + silence(300, 24_000) + tone(400, 24_000) + silence(700, 24_000))
        await until(lambda: bool(leg.transcripts))
        assert near(stt.heard, [1600])


async def test_a_busy_engine_makes_no_interim_transcript() -> None:
    """While the engine has other work, no interim transcript starts."""
    stt = LengthStt()
    pool = EnginePool(SpeechEngines("length", EnergyVad, stt, ToneTts()), ObedientBrain())
    tasks = TaskSet()
    interim = InterimTranscript(pool, tasks)
    try:
        stt.gate.clear()
        work = tasks.start(pool.transcribe(silence(1000, 16_000)), "another caller")
        await until(lambda: len(stt.heard) == 1)
        interim.start(600, tone(600, 16_000))
        assert await interim.result(600) is None
        assert await interim.result(None) is None
        stt.gate.set()
        assert await work == "1000"
        interim.start(700, tone(700, 16_000))
        assert await interim.result(600) is None
        assert await interim.result(700) == "700"
        assert await interim.result(700) is None
    finally:
        stt.gate.set()
        await tasks.close()
        await pool.close()


async def test_the_jitter_buffer_passes_packets_on_at_once_and_in_order() -> None:
    """A frame is passed on when the next packet arrives; a late packet is still put in order."""
    connection = RTCPeerConnection()
    try:
        receiver = connection.addTransceiver("audio").receiver
        set_jitter_prefetch(receiver, 1)
        buffer: JitterBuffer = receiver._RTCRtpReceiver__jitter_buffer  # type: ignore[attr-defined]
        heard = []
        for number in (0, 1, 2, 4, 3, 5, 6):
            packet = RtpPacket(sequence_number=number, timestamp=number * 960)
            packet._data = bytes([number])  # type: ignore[attr-defined]
            _, frame = buffer.add(packet)
            heard.append(None if frame is None else frame.data[0])
        assert heard == [None, 0, 1, None, 2, 3, 4]
    finally:
        await connection.close()
