"""One running session: performs what the conversation asks for, and tells it what came of it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVarTuple

from av import AudioFrame

from agentfield_local.behaviour import Behaviour
from agentfield_local.brain.protocol import BrainRequest, Say
from agentfield_local.brain.scripted import paraphrase
from agentfield_local.brain.verbatim import verbatim_text
from agentfield_local.clock import Clock
from agentfield_local.engines_pool import Busy, EnginesPool
from agentfield_local.ids import new_id
from agentfield_local.media import Decoder, Encoder, Resampler
from agentfield_local.realtime.conversation import Conversation
from agentfield_local.realtime.early import EarlyWords
from agentfield_local.realtime.ears import Ears
from agentfield_local.realtime.effects import (
    Abandon,
    Due,
    Effect,
    End,
    Hear,
    Later,
    Listen,
    Send,
    Think,
    Transcribe,
    Voice,
)
from agentfield_local.realtime.legs import Leg
from agentfield_local.speech.protocols import SPEECH_RATE
from agentfield_local.speech.segmenter import SpeechEvent, SpeechPaused, SpeechStarted, SpeechStopped
from agentfield_local.tasks import Tasks
from agentfield_local.webrtc.echo import Echo
from agentfield_local.webrtc.playout import Playout

__all__ = ["LiveSession"]

_log = logging.getLogger(__name__)
_DELTA_MS = 200
_MAX_LEAD_MS = 60_000
_MAX_RECORDED = 200

Arguments = TypeVarTuple("Arguments")


class LiveSession:
    """A conversation with its legs, its ears and its voice.

    Args:
        pool: The engines.
        behaviour: The switches.
        clock: For what is due later.
        model: Model that was asked for.
        playout: What a WebRTC caller hears; None on a WebSocket.
        transcription: Whether the session only transcribes.
        on_end: Called once when the session ends by itself.
    """

    def __init__(
        self,
        pool: EnginesPool,
        behaviour: Behaviour,
        clock: Clock,
        *,
        model: str | None = None,
        playout: Playout | None = None,
        transcription: bool = False,
        on_end: Callable[[str], None],
    ) -> None:
        self.conversation = Conversation(
            new_id=new_id,
            now=clock.now,
            voices=pool.engines.tts.voices,
            behaviour=behaviour,
            model=model,
            playout=playout,
            transcription=transcription,
        )
        self.session_updates: list[dict[str, Any]] = []
        self._pool = pool
        self._behaviour = behaviour
        self._clock = clock
        self._playout = playout
        self._on_end = on_end
        self._legs: dict[str, Leg] = {}
        self._tasks = Tasks()
        self._work: dict[str, asyncio.Task[Any]] = {}
        self._timers: dict[Due, asyncio.Task[Any]] = {}
        self._ears = Ears(pool, self._on_speech)
        self._early = EarlyWords(pool, self._tasks)
        self._decoder: Decoder | None = None
        self._caller = Resampler(48_000, SPEECH_RATE)
        self._echo = Echo(playout) if pool.engines.echo and playout is not None else None
        self._tasks.start(self._ears.run(), "ears")

    def open(self) -> None:
        """Begin listening and the session's clock."""
        self._perform(self.conversation.open())

    @property
    def legs(self) -> int:
        """How many legs are attached."""
        return len(self._legs)

    def attach(self, leg: Leg) -> None:
        """Add a leg and tell it what the session is."""
        self._legs[leg.name] = leg
        self._perform(self.conversation.attach(leg.name))

    def detach(self, leg: Leg) -> None:
        """Forget a leg."""
        self._legs.pop(leg.name, None)

    def end_legs(self, code: int = 1000, reason: str = "") -> None:
        """Close every leg after what is queued for it, a WebSocket with this close code and reason."""
        for leg in list(self._legs.values()):
            leg.end(code, reason)

    def receive(self, leg: Leg, text: str | bytes) -> None:
        """Handle one client event."""
        self._record(text)
        self._perform(self.conversation.receive(leg.name, text))

    def _record(self, text: str | bytes) -> None:
        """Keep the session updates that clients sent, for whoever tests a client."""
        needle = b'"session.update"' if isinstance(text, bytes) else '"session.update"'
        if needle in text and len(self.session_updates) < _MAX_RECORDED:  # type: ignore[operator]
            try:
                data = json.loads(text)
            except ValueError:
                return
            if isinstance(data, dict) and isinstance(data.get("session"), dict):
                self.session_updates.append(data["session"])

    def caller_frame(self, frame: AudioFrame) -> None:
        """Take a decoded frame of a WebRTC caller."""
        self._heard(self._caller.feed_frame(frame))

    def caller_silence(self, ms: int) -> None:
        """The caller's packets stopped: time passes in silence."""
        self._heard(b"\0" * (SPEECH_RATE * 2 * ms // 1000))

    def pull(self, size: int) -> bytes:
        """Return what a WebRTC caller hears now (48 kHz s16le mono)."""
        if self._playout is None:
            return b"\0" * size
        pcm, events = self._playout.pull(size)
        if events:
            self._perform(self.conversation.played(events))
        return pcm

    async def close(self) -> None:
        """Stop everything this session runs."""
        await self._tasks.close()

    # effects ----------------------------------------------------------------------------------------------------

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(event, to):
                    self._send(event, to)
                case Hear(audio):
                    self._appended(audio)
                case Listen(turn_detection):
                    self._ears.listen(turn_detection, self.conversation.buffer.heard_ms)
                case Transcribe(item_id, pcm, paused_ms):
                    self._tasks.start(self._transcribe(item_id, pcm, paused_ms), f"transcribe {item_id}")
                case Think(response_id, request):
                    self._start_work(response_id, self._think, request)
                case Voice(response_id, item_id, text):
                    self._start_work(response_id, self._voice, item_id, text)
                case Abandon(response_id):
                    self._abandon(response_id)
                case Later(seconds, what):
                    self._later(seconds, what)
                case End(reason):
                    self.end_legs()
                    self._on_end(reason)

    def _send(self, event: dict[str, Any], to: str | None) -> None:
        targets = list(self._legs.values()) if to is None else [self._legs[to]] if to in self._legs else []
        for leg in targets:
            leg.send(event)

    def _appended(self, audio: bytes) -> None:
        wanted = self.conversation.config.input["format"]
        if self._decoder is None or self._decoder.format != wanted:
            self._decoder = Decoder(wanted)
        self._heard(self._decoder.feed(audio))

    def _heard(self, pcm: bytes) -> None:
        if self._echo is not None:
            self._echo.heard(pcm)
            return
        self.conversation.heard(pcm)
        self._ears.feed(pcm)

    def _on_speech(self, event: SpeechEvent, base_ms: int) -> None:
        match event:
            case SpeechStarted():
                self._perform(self.conversation.speech_started(base_ms + event.at_ms))
            case SpeechPaused():
                self._early.begin(base_ms + event.at_ms, event.pcm)
            case SpeechStopped():
                paused_ms = None if event.paused_ms is None else base_ms + event.paused_ms
                self._perform(self.conversation.speech_stopped(base_ms + event.at_ms, event.pcm, paused_ms=paused_ms))

    async def _transcribe(self, item_id: str, pcm: bytes, paused_ms: int | None) -> None:
        try:
            text = await self._early.words(paused_ms)
            if text is None:
                text = await self._pool.transcribe(pcm)
        except Exception as error:  # noqa: BLE001 - an engine may raise anything; the turn goes on without its words
            _log.warning("a turn could not be transcribed", exc_info=error)
            self._perform(self.conversation.transcribed(item_id, "", error="The turn could not be transcribed."))
        else:
            self._perform(self.conversation.transcribed(item_id, text))

    # a response's work: thinking, then speaking, one thing at a time -----------------------------------------------

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

    def _abandon(self, response_id: str) -> None:
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
            # made here: what is abandoned before its first step would leave behind a coroutine that nobody awaits
            await work(response_id, *arguments)
        except Busy as error:
            self._perform(self.conversation.failed(response_id, f"The server is overloaded: {error}."))
        except Exception as error:  # noqa: BLE001 - an engine may raise anything; the response fails, the session goes on
            _log.warning("a response failed", exc_info=error)
            message = "The server had an error while processing your request. Sorry about that!"
            self._perform(self.conversation.failed(response_id, message))

    async def _think(self, response_id: str, request: BrainRequest) -> None:
        said = verbatim_text(request.instructions) if self._behaviour.paraphrase_says else None
        steps = await self._pool.respond(request) if said is None else (Say(paraphrase(said)),)
        self._perform(self.conversation.planned(response_id, steps))

    async def _voice(self, response_id: str, item_id: str, text: str) -> None:
        on_call = self._playout is not None
        audio_format = None if on_call else self.conversation.format_of(response_id)
        encoder = Encoder(self._pool.engines.tts.rate, audio_format)
        async for clause in self._pool.speak(text):
            await self._emit_audio(response_id, item_id, encoder, encoder.feed(clause), clause=True)
            if self._work.get(response_id) is not asyncio.current_task():
                return
        await self._emit_audio(response_id, item_id, encoder, encoder.flush(), clause=False)
        self._perform(self.conversation.voice_done(response_id, item_id))

    async def _emit_audio(
        self, response_id: str, item_id: str, encoder: Encoder, audio: bytes, *, clause: bool
    ) -> None:
        step = encoder.bytes_per_ms * _DELTA_MS
        for offset in range(0, len(audio), step):
            piece = audio[offset : offset + step]
            ms = len(piece) / encoder.bytes_per_ms
            first = clause and offset == 0
            self._perform(self.conversation.voiced(response_id, item_id, piece, ms, clause=first))
            await self._pace(ms)

    async def _pace(self, ms: float) -> None:
        """Do not outrun the switch of the generation speed, nor a minute of playback."""
        if self._behaviour.generation_speed is not None:
            await asyncio.sleep(ms / 1000 / self._behaviour.generation_speed)
        if self._playout is not None and self._playout.buffered_ms > _MAX_LEAD_MS:
            await asyncio.sleep((self._playout.buffered_ms - _MAX_LEAD_MS) / 1000)

    # what is due later --------------------------------------------------------------------------------------------

    def _later(self, seconds: float, what: Due) -> None:
        before = self._timers.pop(what, None)
        if before is not None:
            before.cancel()
        self._timers[what] = self._tasks.start(self._wait(seconds, what), f"due {what[0]}")

    async def _wait(self, seconds: float, what: Due) -> None:
        await self._clock.sleep(seconds)
        if self._timers.get(what) is asyncio.current_task():
            del self._timers[what]
        self._perform(self.conversation.due(what))
