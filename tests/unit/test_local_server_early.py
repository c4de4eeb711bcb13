"""Words ahead of time: what a turn costs speech-to-text, and that nobody's words are lost or kept waiting by it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiortc import RTCPeerConnection
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtp import RtpPacket

from agentfield_local.behaviour import Behaviour
from agentfield_local.brain import ObedientBrain
from agentfield_local.clock import WallClock
from agentfield_local.engines_pool import EnginesPool
from agentfield_local.realtime.early import EarlyWords
from agentfield_local.realtime.live import LiveSession
from agentfield_local.speech.energy import EnergyVad, ToneTts
from agentfield_local.speech.protocols import SpeechEngines
from agentfield_local.tasks import Tasks
from agentfield_local.webrtc.jitter import receive_promptly
from local_server_kit import b64, silence, tone, until

DONE = "conversation.item.input_audio_transcription.completed"
UPDATE = (
    '{"type":"session.update","session":{"type":"realtime","audio":{"input":{"transcription":{"model":"whisper-1"}}}}}'
)


class Ruler:
    """Speech-to-text whose words are the milliseconds that it heard; waits at the gate, and may break first."""

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


class Ear:
    """A leg that keeps the transcripts."""

    name = "ear"

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
async def hearing(stt: Ruler, *, early: bool = True) -> AsyncIterator[tuple[Ear, Callable[[bytes], None]]]:
    """Yield a leg of a session and how to speak to it (24 kHz)."""
    pool = EnginesPool(SpeechEngines("ruler", EnergyVad, stt, ToneTts(), early=early), ObedientBrain())
    session = LiveSession(pool, Behaviour(), WallClock(), on_end=lambda _: None)
    ear = Ear()
    try:
        session.open()
        session.attach(ear)
        session.receive(ear, UPDATE)
        yield (
            ear,
            lambda pcm: session.receive(ear, f'{{"type":"input_audio_buffer.append","audio":"{b64(pcm)}"}}'),
        )
    finally:
        stt.gate.set()
        await session.close()
        await pool.close()


def near(found: list[int], wanted: list[int]) -> bool:
    """Whether lengths are the wanted ones within a few chunks (resampling and detection)."""
    return len(found) == len(wanted) and all(abs(a - b) <= 60 for a, b in zip(found, wanted, strict=True))


async def test_a_turn_is_transcribed_once_and_before_its_end() -> None:
    """The words are those of the audio until the pause; the whole turn is not transcribed again."""
    stt = Ruler()
    async with hearing(stt) as (ear, say):
        say(tone(400, 24_000) + silence(300, 24_000))
        await until(lambda: len(stt.heard) == 1)
        assert ear.transcripts == []
        say(silence(400, 24_000))
        await until(lambda: bool(ear.transcripts))
        assert ear.transcripts == [str(stt.heard[0])]
        assert near(stt.heard, [600])


async def test_a_caller_who_goes_on_is_heard_to_the_end() -> None:
    """Early words are dropped when speech goes on; there is one job at a time, and the whole turn is transcribed."""
    stt = Ruler()
    async with hearing(stt) as (ear, say):
        stt.gate.clear()
        say(tone(400, 24_000) + silence(300, 24_000))
        await until(lambda: len(stt.heard) == 1)
        say(tone(400, 24_000) + silence(300, 24_000) + tone(400, 24_000) + silence(700, 24_000))
        await until(lambda: ear.turns == 1)
        stt.gate.set()
        await until(lambda: bool(ear.transcripts))
        assert near([int(ear.transcripts[0])], [2300])
        assert near(stt.heard, [600, 2300])


async def test_a_later_pause_has_its_own_words() -> None:
    """After a pause that was none, the next one is transcribed early too."""
    stt = Ruler()
    async with hearing(stt) as (ear, say):
        say(tone(400, 24_000) + silence(300, 24_000))
        await until(lambda: len(stt.heard) == 1)
        say(tone(400, 24_000) + silence(300, 24_000))
        await until(lambda: len(stt.heard) == 2)
        say(silence(400, 24_000))
        await until(lambda: bool(ear.transcripts))
        assert near(stt.heard, [600, 1300])
        assert ear.transcripts == [str(stt.heard[1])]


async def test_early_words_that_fail_cost_nothing() -> None:
    """An engine that breaks on the guess is asked for the whole turn."""
    stt = Ruler(failures=1)
    async with hearing(stt) as (ear, say):
        say(tone(400, 24_000) + silence(900, 24_000))
        await until(lambda: bool(ear.transcripts))
        assert near(stt.heard, [600, 900])
        assert ear.transcripts == [str(stt.heard[1])]


async def test_scripted_words_are_not_used_up_by_a_pause() -> None:
    """Engines that do not like guesses are asked for whole turns only."""
    stt = Ruler()
    async with hearing(stt, early=False) as (ear, say):
        say(tone(400, 24_000) + silence(300, 24_000) + tone(400, 24_000) + silence(700, 24_000))
        await until(lambda: bool(ear.transcripts))
        assert near(stt.heard, [1600])


async def test_nobody_waits_for_a_guess() -> None:
    """While the engine has work no guess is begun; the turn then gets its words the ordinary way."""
    stt = Ruler()
    pool = EnginesPool(SpeechEngines("ruler", EnergyVad, stt, ToneTts()), ObedientBrain())
    tasks = Tasks()
    early = EarlyWords(pool, tasks)
    try:
        stt.gate.clear()
        work = tasks.start(pool.transcribe(silence(1000, 16_000)), "another caller")
        await until(lambda: len(stt.heard) == 1)
        early.begin(600, tone(600, 16_000))
        assert await early.words(600) is None
        assert await early.words(None) is None
        stt.gate.set()
        assert await work == "1000"
        early.begin(700, tone(700, 16_000))
        assert await early.words(600) is None
        assert await early.words(700) == "700"
        assert await early.words(700) is None
    finally:
        stt.gate.set()
        await tasks.close()
        await pool.close()


async def test_packets_are_handed_on_at_once_and_in_order() -> None:
    """A frame is heard when the next packet is there; one that comes late is still put in its place."""
    connection = RTCPeerConnection()
    try:
        receiver = connection.addTransceiver("audio").receiver
        receive_promptly(receiver, 1)
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
