"""Runner of one session: performs the effects of its conversation and reports their results to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVarTuple

from av import AudioFrame

from agentfield_local.audio.codecs import Decoder, Encoder
from agentfield_local.audio.pcm import WEBRTC_RATE
from agentfield_local.audio.resampler import Resampler
from agentfield_local.brain.protocol import BrainRequest, Speak
from agentfield_local.brain.scripted import paraphrase
from agentfield_local.brain.verbatim import verbatim_text
from agentfield_local.faults.behaviour import Behaviour
from agentfield_local.realtime.conversation.effects import (
    CancelWork,
    DecodeAudio,
    Effect,
    EndSession,
    QueryBrain,
    RestartVad,
    ScheduleTimer,
    SendEvent,
    SynthesizeText,
    TimerKey,
    TranscribeItem,
)
from agentfield_local.realtime.conversation.machine import ConversationMachine
from agentfield_local.realtime.session.interim_transcript import InterimTranscript
from agentfield_local.realtime.session.vad_feed import VadFeed
from agentfield_local.runtime.clock import Clock
from agentfield_local.runtime.tasks import TaskSet
from agentfield_local.speech.pool import EngineBusy, EnginePool
from agentfield_local.speech.protocols import SPEECH_RATE
from agentfield_local.speech.segmenter import SpeechEvent, SpeechPaused, SpeechStarted, SpeechStopped
from agentfield_local.webrtc.media import AudioEcho
from agentfield_local.webrtc.output_buffer import OutputAudioBuffer
from agentfield_local.wire.ids import new_id
from agentfield_local.wire.json_values import parse_json
from agentfield_local.wire.refusals import Refusal

__all__ = ["SessionRunner"]

_log = logging.getLogger(__name__)
_DELTA_MS = 200
_MAX_BUFFERED_MS = 60_000
_MAX_RECORDED_UPDATES = 200
_SERVER_ERROR = "The server had an error while processing your request. Sorry about that!"

Arguments = TypeVarTuple("Arguments")


class Leg(Protocol):
    """A connection of a session that receives its server events: a WebSocket or a data channel."""

    @property
    def name(self) -> str:
        """Name of the leg in the conversation."""

    def send(self, event: dict[str, Any]) -> None:
        """Queue an event; never waits."""

    def end(self, code: int = 1000, reason: str = "") -> None:
        """Close it after the queued events; a WebSocket with this close code and reason."""


class SessionRunner:
    """A conversation with its legs, engines and timers.

    It owns every task that it starts; `close` cancels and awaits them. Legs belong to the transport.

    Args:
        pool: The engines.
        behaviour: Behaviour of the session.
        clock: Clock of the timers.
        model: Requested model.
        output_buffer: Audio that a WebRTC caller plays; None on a WebSocket.
        transcription: Whether the session only transcribes.
        on_end: Called once when the session ends by itself.
    """

    def __init__(
        self,
        pool: EnginePool,
        behaviour: Behaviour,
        clock: Clock,
        *,
        model: str | None = None,
        output_buffer: OutputAudioBuffer | None = None,
        transcription: bool = False,
        on_end: Callable[[str], None],
    ) -> None:
        self.conversation = ConversationMachine(
            new_id=new_id,
            now=clock.now,
            voices=pool.engines.tts.voices,
            behaviour=behaviour,
            model=model,
            output_buffer=output_buffer,
            transcription=transcription,
        )
        self.session_updates: list[dict[str, Any]] = []
        self._pool = pool
        self._behaviour = behaviour
        self._clock = clock
        self._output_buffer = output_buffer
        self._on_end = on_end
        self._legs: dict[str, Leg] = {}
        self._tasks = TaskSet()
        self._work: dict[str, asyncio.Task[Any]] = {}
        self._timers: dict[TimerKey, asyncio.Task[Any]] = {}
        self._vad_feed = VadFeed(pool)
        self._interim_transcript = InterimTranscript(pool, self._tasks)
        self._decoder: Decoder | None = None
        self._caller_resampler = Resampler(WEBRTC_RATE, SPEECH_RATE)
        self._echo = AudioEcho(output_buffer) if pool.engines.echo and output_buffer is not None else None
        self._tasks.start(self._vad_feed.run(self._on_speech), "vad feed")

    def open(self) -> None:
        """Start voice activity detection and the expiry timer."""
        self._perform(self.conversation.open())

    @property
    def legs(self) -> int:
        """Number of attached legs."""
        return len(self._legs)

    def attach(self, leg: Leg) -> None:
        """Add a leg and send it the session."""
        self._legs[leg.name] = leg
        self._perform(self.conversation.attach(leg.name))

    def detach(self, leg: Leg) -> None:
        """Remove a leg."""
        self._legs.pop(leg.name, None)

    def end_legs(self, code: int = 1000, reason: str = "") -> None:
        """Close every leg after its queued events; WebSockets with this close code and reason."""
        for leg in list(self._legs.values()):
            leg.end(code, reason)

    def receive(self, leg: Leg, text: str | bytes) -> None:
        """Handle one client event."""
        try:
            self._record(text)
            self._perform(self.conversation.receive(leg.name, text))
        except Exception:  # noqa: BLE001 - the last resort: a fault of the server must not end a caller's connection
            _log.exception("a client event failed")
            refusal = Refusal(_SERVER_ERROR, code="server_error", kind="server_error")
            leg.send({"type": "error", "event_id": new_id("event"), "error": refusal.body()})

    def _record(self, text: str | bytes) -> None:
        """Record session updates, for tests of clients."""
        needle = b'"session.update"' if isinstance(text, bytes) else '"session.update"'
        if needle in text and len(self.session_updates) < _MAX_RECORDED_UPDATES:  # type: ignore[operator]
            try:
                data = parse_json(text, "The event")
            except Refusal:
                return
            if isinstance(data.get("session"), dict):
                self.session_updates.append(data["session"])

    def caller_frame(self, frame: AudioFrame) -> None:
        """Take a decoded frame of a WebRTC caller."""
        self._heard(self._caller_resampler.feed_frame(frame))

    def caller_silence(self, ms: int) -> None:
        """Take silence in place of packets that did not arrive."""
        self._heard(b"\0" * (SPEECH_RATE * 2 * ms // 1000))

    def pull(self, size: int) -> bytes:
        """Return the next bytes that a WebRTC caller plays (48 kHz s16le mono)."""
        if self._output_buffer is None:
            return b"\0" * size
        pcm, events = self._output_buffer.pull(size)
        if events:
            self._perform(self.conversation.played(events))
        return pcm

    async def close(self) -> None:
        """Stop all tasks of the session."""
        await self._tasks.close()
        # A cancelled task holds the traceback of its cancellation, and so this session with all its audio.
        self._timers.clear()
        self._work.clear()

    # effects ----------------------------------------------------------------------------------------------------

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendEvent(event, to):
                    self._send(event, to)
                case DecodeAudio(audio):
                    self._decode(audio)
                case RestartVad(turn_detection):
                    self._vad_feed.restart(turn_detection, self.conversation.buffer.heard_ms)
                case TranscribeItem(item_id, pcm, paused_ms):
                    self._tasks.start(self._transcribe(item_id, pcm, paused_ms), f"transcribe {item_id}")
                case QueryBrain(response_id, request):
                    self._start_work(response_id, self._query_brain, request)
                case SynthesizeText(response_id, item_id, text):
                    self._start_work(response_id, self._synthesize, item_id, text)
                case CancelWork(response_id):
                    self._cancel_work(response_id)
                case ScheduleTimer(seconds, timer):
                    self._schedule(seconds, timer)
                case EndSession(reason):
                    self.end_legs()
                    self._on_end(reason)

    def _send(self, event: dict[str, Any], to: str | None) -> None:
        targets = list(self._legs.values()) if to is None else [self._legs[to]] if to in self._legs else []
        for leg in targets:
            leg.send(event)

    def _decode(self, audio: bytes) -> None:
        audio_format = self.conversation.config.input["format"]
        if self._decoder is None or self._decoder.format != audio_format:
            self._decoder = Decoder(audio_format)
        self._heard(self._decoder.feed(audio))

    def _heard(self, pcm: bytes) -> None:
        if self._echo is not None:
            self._echo.feed(pcm)
            return
        self.conversation.heard(pcm)
        self._vad_feed.feed(pcm)

    def _on_speech(self, event: SpeechEvent, base_ms: int) -> None:
        match event:
            case SpeechStarted():
                self._perform(self.conversation.speech_started(base_ms + event.at_ms))
            case SpeechPaused():
                self._interim_transcript.start(base_ms + event.at_ms, event.pcm)
            case SpeechStopped():
                paused_ms = None if event.paused_ms is None else base_ms + event.paused_ms
                self._perform(self.conversation.speech_stopped(base_ms + event.at_ms, event.pcm, paused_ms=paused_ms))

    async def _transcribe(self, item_id: str, pcm: bytes, paused_ms: int | None) -> None:
        try:
            text = await self._interim_transcript.result(paused_ms)
            if text is None:
                text = await self._pool.transcribe(pcm)
        except Exception as error:  # noqa: BLE001 - an engine may raise anything; the turn continues without a transcript
            _log.warning("a turn could not be transcribed", exc_info=error)
            self._perform(self.conversation.transcribed(item_id, "", error="The turn could not be transcribed."))
        else:
            self._perform(self.conversation.transcribed(item_id, text))

    # work of a response: the brain, then one synthesis at a time --------------------------------------------------

    def _start_work(
        self,
        response_id: str,
        work: Callable[[str, *Arguments], Coroutine[Any, Any, None]],
        *arguments: *Arguments,
    ) -> None:
        task = self._tasks.start(self._guard(response_id, work, *arguments), f"response {response_id}")
        self._work[response_id] = task
        task.add_done_callback(lambda done: self._work_done(response_id, done))

    def _work_done(self, response_id: str, done: asyncio.Task[Any]) -> None:
        if self._work.get(response_id) is done:
            del self._work[response_id]

    def _cancel_work(self, response_id: str) -> None:
        # The work itself may end its response, at a token limit: it must not cancel itself in the middle of an effect.
        task = self._work.pop(response_id, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def _guard(
        self,
        response_id: str,
        work: Callable[[str, *Arguments], Coroutine[Any, Any, None]],
        *arguments: *Arguments,
    ) -> None:
        try:
            # The coroutine is created here: created by the caller, it would never be awaited if the task is cancelled
            # before its first step.
            await work(response_id, *arguments)
        except EngineBusy as error:
            self._perform(self.conversation.response_failed(response_id, f"The server is overloaded: {error}."))
        except Exception as error:  # noqa: BLE001 - an engine may raise anything; the response fails, the session continues
            _log.warning("a response failed", exc_info=error)
            self._perform(self.conversation.response_failed(response_id, _SERVER_ERROR))

    async def _query_brain(self, response_id: str, request: BrainRequest) -> None:
        verbatim = verbatim_text(request.instructions) if self._behaviour.paraphrase_says else None
        steps = await self._pool.respond(request) if verbatim is None else (Speak(paraphrase(verbatim)),)
        self._perform(self.conversation.brain_answered(response_id, steps))

    async def _synthesize(self, response_id: str, item_id: str, text: str) -> None:
        on_call = self._output_buffer is not None
        audio_format = None if on_call else self.conversation.format_of(response_id)
        encoder = Encoder(self._pool.engines.tts.rate, audio_format)
        async for clause in self._pool.speak(text):
            await self._emit_audio(response_id, item_id, encoder, encoder.feed(clause), clause=True)
            if self._work.get(response_id) is not asyncio.current_task():
                return  # the response has ended meanwhile
        await self._emit_audio(response_id, item_id, encoder, encoder.flush(), clause=False)
        self._perform(self.conversation.item_synthesized(response_id, item_id))

    async def _emit_audio(
        self, response_id: str, item_id: str, encoder: Encoder, audio: bytes, *, clause: bool
    ) -> None:
        step = encoder.bytes_per_ms * _DELTA_MS
        for offset in range(0, len(audio), step):
            piece = audio[offset : offset + step]
            ms = len(piece) / encoder.bytes_per_ms
            first = clause and offset == 0
            self._perform(self.conversation.audio_synthesized(response_id, item_id, piece, ms, clause=first))
            await self._pace(ms)

    async def _pace(self, ms: float) -> None:
        """Limit synthesis to the generation speed of the behaviour and to a minute of buffered playback."""
        if self._behaviour.generation_speed is not None:
            await asyncio.sleep(ms / 1000 / self._behaviour.generation_speed)
        if self._output_buffer is not None and self._output_buffer.buffered_ms > _MAX_BUFFERED_MS:
            await asyncio.sleep((self._output_buffer.buffered_ms - _MAX_BUFFERED_MS) / 1000)

    # timers -------------------------------------------------------------------------------------------------------

    def _schedule(self, seconds: float, timer: TimerKey) -> None:
        previous = self._timers.pop(timer, None)
        if previous is not None:
            previous.cancel()
        self._timers[timer] = self._tasks.start(self._wait(seconds, timer), f"timer {timer[0]}")

    async def _wait(self, seconds: float, timer: TimerKey) -> None:
        await self._clock.sleep(seconds)
        if self._timers.get(timer) is asyncio.current_task():
            del self._timers[timer]
        self._perform(self.conversation.timer_fired(timer))
