"""Turns of the caller: from speech events and commits to items, and from items to transcripts. Sans-I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from agentfield_local.realtime.configuration.session_config import SessionConfig
from agentfield_local.realtime.conversation.audio_input.input_buffer import InputAudioBuffer
from agentfield_local.realtime.conversation.context import ConversationContext
from agentfield_local.realtime.conversation.effects import RestartVad, ScheduleTimer, TranscribeItem
from agentfield_local.realtime.conversation.items import Item
from agentfield_local.wire.refusals import Refusal

__all__ = ["InputTurns", "vad_settings"]

_MIN_COMMIT_MS = 100
_MAX_SILENCE_MS = 60_000


class InputTurns:
    """Turns of one caller.

    Args:
        context: Items, behaviour and effects.
        config: Configuration of the session.

    Attributes:
        buffer: Audio that no item contains yet.
        speaking: Id that the item of the current turn will have; None while the caller is silent.
    """

    def __init__(self, context: ConversationContext, config: SessionConfig) -> None:
        self.buffer = InputAudioBuffer()
        self.speaking: str | None = None
        self._context = context
        self._config = config
        self._transcribing: dict[str, tuple[Item, bool]] = {}
        self._unsent_transcripts: dict[str, tuple[str, float]] = {}
        self._withheld: list[str] = []
        self._failures = context.behaviour.fail_transcripts
        self._delayed_refusals: dict[str, tuple[str, Refusal, str | None]] = {}

    def heard(self, pcm: bytes) -> None:
        """Append audio (16 kHz s16le mono); with turn detection, keep only the end of a long silence."""
        self.buffer.append(pcm)
        if self.speaking is None and self._config.turn_detection is not None:
            self.buffer.drop_until(self.buffer.heard_ms - _MAX_SILENCE_MS)

    def restart_vad(self) -> None:
        """Drop the current turn and restart voice activity detection."""
        self.speaking = None
        self._context.add_effect(RestartVad(self._config.turn_detection))

    def clear(self) -> None:
        """Drop the audio that was not committed."""
        self.buffer.take()
        self.restart_vad()
        self._context.emit("input_audio_buffer.cleared")

    def started(self, at_ms: int) -> bool:
        """Begin a turn; return False if none can begin now."""
        if self._config.turn_detection is None or self.speaking is not None:
            return False
        self.speaking = self._context.items.reserve()
        self._context.emit("input_audio_buffer.speech_started", item_id=self.speaking, audio_start_ms=at_ms)
        return True

    def stopped(self, at_ms: int, pcm: bytes, paused_ms: int | None) -> str | None:
        """End and commit the current turn; return the id of its item, None if there is no turn.

        Args:
            at_ms: End of the speech.
            pcm: Audio of the turn.
            paused_ms: Position of the pause that ended it; None if there was none.
        """
        item_id, self.speaking = self.speaking, None
        if self._config.turn_detection is None or item_id is None:
            return None
        self._context.emit("input_audio_buffer.speech_stopped", item_id=item_id, audio_end_ms=at_ms)
        self.buffer.drop_until(at_ms)
        self.commit(item_id, pcm, paused_ms)
        return item_id

    def client_commit(self, leg: str, event_id: str | None) -> None:
        """Commit the buffer at the request of a client.

        Raises:
            Refusal: `input_audio_buffer_commit_empty`; the behaviour may delay it, then nothing is raised.
        """
        buffered_ms = self.buffer.buffered_ms
        if buffered_ms >= _MIN_COMMIT_MS:
            self.commit(self.speaking or self._context.items.reserve(), self.buffer.take())
            self.restart_vad()
            return
        refusal = Refusal(
            "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, "
            f"but buffer only has {buffered_ms:.2f}ms of audio.",
            code="input_audio_buffer_commit_empty",
        )
        delay = self._context.behaviour.commit_error_delay_ms
        if not delay:
            raise refusal
        key = self._context.new_id("late")
        self._delayed_refusals[key] = (leg, refusal, event_id)
        self._context.add_effect(ScheduleTimer(delay / 1000, ("commit_error", key)))

    def send_delayed_refusal(self, key: str) -> None:
        """Send a delayed refusal of a commit."""
        self._context.emit_refusal(*self._delayed_refusals.pop(key))

    def idle_timeout(self) -> None:
        """Commit the silence of a caller who has said nothing for long."""
        item_id, heard = self._context.items.reserve(), self.buffer.heard_ms
        start = heard - round(self.buffer.buffered_ms)
        self._context.emit(
            "input_audio_buffer.timeout_triggered", item_id=item_id, audio_start_ms=start, audio_end_ms=heard
        )
        self.commit(item_id, self.buffer.take())

    def commit(self, item_id: str, pcm: bytes, paused_ms: int | None = None) -> None:
        """Create an item of audio and request its transcript."""
        context = self._context
        item = Item(item_id, "message", role="user", text=None, audio=bytearray(pcm), audio_rate=16_000)
        item.audio_ms = len(pcm) // 32
        item.content = [{"type": "input_audio", "transcript": None}]
        previous = context.items.insert(item)
        committed_first = context.behaviour.order.committed == "before_item"
        if committed_first:
            context.emit("input_audio_buffer.committed", item_id=item_id, previous_item_id=previous)
        context.emit("conversation.item.added", item=item.view(), previous_item_id=previous)
        context.emit("conversation.item.done", item=item.view(), previous_item_id=previous)
        if not committed_first:
            context.emit("input_audio_buffer.committed", item_id=item_id, previous_item_id=previous)
        self.request_transcript(item, pcm, paused_ms)

    def request_transcript(self, item: Item, pcm: bytes, paused_ms: int | None = None) -> None:
        """Request the transcript of an item of the caller (16 kHz s16le mono)."""
        item.text = None
        self._transcribing[item.id] = (item, self._config.input["transcription"] is not None)
        self._context.add_effect(TranscribeItem(item.id, pcm, paused_ms))

    def waits_for(self, items: Iterable[Item]) -> bool:
        """Whether a transcript of any of these is pending."""
        return any(item.id in self._transcribing for item in items)

    def transcribed(self, item_id: str, text: str, error: str | None, *, hold: bool) -> None:
        """Store a transcript or its failure; send it if the session asked for transcripts.

        Args:
            item_id: The item.
            text: Its words.
            error: Why it failed; None on success.
            hold: Withhold the transcript until `release`.
        """
        item, requested = self._transcribing.pop(item_id)
        item.text = text
        if not requested:
            return
        if self._failures > 0:
            self._failures -= 1
            error = "The turn could not be transcribed."
        if error is not None:
            problem = {"type": "transcription_error", "code": "audio_unintelligible", "message": error}
            kind = "conversation.item.input_audio_transcription.failed"
            self._context.emit(kind, item_id=item_id, content_index=0, error=problem)
            return
        self._unsent_transcripts[item_id] = (text, item.audio_ms / 1000)
        delay = self._context.behaviour.late_transcript_ms
        if hold:
            self._withheld.append(item_id)
        elif delay:
            self._context.add_effect(ScheduleTimer(delay / 1000, ("transcript", item_id)))
        else:
            self.send_transcript(item_id)

    def release(self) -> None:
        """Send the withheld transcripts."""
        withheld, self._withheld = self._withheld, []
        for item_id in withheld:
            self.send_transcript(item_id)

    def send_transcript(self, item_id: str) -> None:
        """Send the transcript of a turn."""
        text, seconds = self._unsent_transcripts.pop(item_id)
        place = {"item_id": item_id, "content_index": 0}
        item = self._context.items.get(item_id)
        if item is not None:
            item.content[0]["transcript"] = text
        for piece in _transcript_deltas(text, self._context.behaviour.transcript_deltas):
            self._context.emit("conversation.item.input_audio_transcription.delta", delta=piece, **place)
        usage = {"type": "duration", "seconds": seconds}
        kind = "conversation.item.input_audio_transcription.completed"
        self._context.emit(kind, transcript=text, usage=usage, **place)


def _transcript_deltas(text: str, mode: str) -> list[str]:
    """Split a transcript into deltas; joined, they are the text."""
    match mode:
        case "none":
            return []
        case "words":
            return re.findall(r"\S+\s*", text)
        case _:
            return [text] if text else []


def vad_settings(detection: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the settings that affect detection; the others may change in the middle of a turn without a restart."""
    if detection is None:
        return None
    unrelated = ("create_response", "interrupt_response", "idle_timeout_ms")
    return {name: value for name, value in detection.items() if name not in unrelated}
