"""The caller's turns: what is heard, when it becomes an item, and when its words are known and told. Sans-I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from agentfield_local.realtime.effects import Later, Listen, Transcribe
from agentfield_local.realtime.input_buffer import InputBuffer
from agentfield_local.realtime.items import Item
from agentfield_local.realtime.session_config import SessionConfig
from agentfield_local.realtime.stage import Stage
from agentfield_local.refusals import Refusal

__all__ = ["Turns", "how_turns_are_found"]

_MIN_COMMIT_MS = 100
_KEPT_SILENCE_MS = 60_000


class Turns:
    """Hears one caller.

    Args:
        stage: Items and the way out.
        config: The session.
    """

    def __init__(self, stage: Stage, config: SessionConfig) -> None:
        self.buffer = InputBuffer()
        self.speaking: str | None = None
        self._stage = stage
        self._config = config
        self._transcribing: dict[str, tuple[Item, bool]] = {}
        self._late_texts: dict[str, tuple[str, float]] = {}
        self._held: list[str] = []
        self._failures = stage.behaviour.fail_transcripts
        self._late_refusals: dict[str, tuple[str, Refusal, str | None]] = {}

    def heard(self, pcm: bytes) -> None:
        """Take audio (16 kHz s16le mono); of long silence only the end is kept while turns are detected."""
        self.buffer.append(pcm)
        if self.speaking is None and self._config.turn_detection is not None:
            self.buffer.drop_until(self.buffer.heard_ms - _KEPT_SILENCE_MS)

    def listen_afresh(self) -> None:
        """Forget a turn that has begun and detect from here on."""
        self.speaking = None
        self._stage.do(Listen(self._config.turn_detection))

    def clear(self) -> None:
        """Forget what was heard and not committed."""
        self.buffer.take()
        self.listen_afresh()
        self._stage.emit("input_audio_buffer.cleared")

    def started(self, at_ms: int) -> bool:
        """Speech began; return whether that is news."""
        if self._config.turn_detection is None or self.speaking is not None:
            return False
        self.speaking = self._stage.items.reserve()
        self._stage.emit("input_audio_buffer.speech_started", item_id=self.speaking, audio_start_ms=at_ms)
        return True

    def stopped(self, at_ms: int, pcm: bytes, paused_ms: int | None) -> str | None:
        """Speech ended, after a pause that may have been told of: commit it; return the item, None if there is none."""
        item_id, self.speaking = self.speaking, None
        if self._config.turn_detection is None or item_id is None:
            return None
        self._stage.emit("input_audio_buffer.speech_stopped", item_id=item_id, audio_end_ms=at_ms)
        self.buffer.drop_until(at_ms)
        self.commit(item_id, pcm, paused_ms)
        return item_id

    def commit_by_hand(self, leg: str, event_id: str | None) -> None:
        """Commit what was heard because a client says so.

        Raises:
            Refusal: `input_audio_buffer_commit_empty`; it may also come later, as the switches say.
        """
        held = self.buffer.held_ms
        if held >= _MIN_COMMIT_MS:
            self.commit(self.speaking or self._stage.items.reserve(), self.buffer.take())
            self.listen_afresh()
            return
        refusal = Refusal(
            "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, "
            f"but buffer only has {held:.2f}ms of audio.",
            code="input_audio_buffer_commit_empty",
        )
        delay = self._stage.behaviour.commit_error_delay_ms
        if not delay:
            raise refusal
        key = self._stage.new_id("late")
        self._late_refusals[key] = (leg, refusal, event_id)
        self._stage.do(Later(delay / 1000, ("commit_error", key)))

    def refuse_late(self, key: str) -> None:
        """Send the refusal of a commit that was put off."""
        self._stage.refuse(*self._late_refusals.pop(key))

    def timed_out(self) -> None:
        """The caller said nothing for long: commit the silence."""
        item_id, heard = self._stage.items.reserve(), self.buffer.heard_ms
        start = heard - round(self.buffer.held_ms)
        self._stage.emit(
            "input_audio_buffer.timeout_triggered", item_id=item_id, audio_start_ms=start, audio_end_ms=heard
        )
        self.commit(item_id, self.buffer.take())

    def commit(self, item_id: str, pcm: bytes, paused_ms: int | None = None) -> None:
        """Make an item of audio and ask for its words."""
        stage = self._stage
        item = Item(item_id, "message", role="user", text=None, audio=bytearray(pcm), audio_rate=16_000)
        item.audio_ms = len(pcm) // 32
        item.content = [{"type": "input_audio", "transcript": None}]
        previous = stage.items.insert(item)
        committed_first = stage.behaviour.order.committed == "before_item"
        if committed_first:
            stage.emit("input_audio_buffer.committed", item_id=item_id, previous_item_id=previous)
        stage.emit("conversation.item.added", item=item.view(), previous_item_id=previous)
        stage.emit("conversation.item.done", item=item.view(), previous_item_id=previous)
        if not committed_first:
            stage.emit("input_audio_buffer.committed", item_id=item_id, previous_item_id=previous)
        self.find_words(item, pcm, paused_ms)

    def find_words(self, item: Item, pcm: bytes, paused_ms: int | None = None) -> None:
        """Ask for the words of an item of the caller (16 kHz s16le mono)."""
        item.text = None
        self._transcribing[item.id] = (item, self._config.input["transcription"] is not None)
        self._stage.do(Transcribe(item.id, pcm, paused_ms))

    def waits_for(self, items: Iterable[Item]) -> bool:
        """Whether the words of any of these are still to come."""
        return any(item.id in self._transcribing for item in items)

    def transcribed(self, item_id: str, text: str, error: str | None, *, hold: bool) -> None:
        """The words are known, or could not be found; tell those who asked for transcripts, at once or on release."""
        item, wanted = self._transcribing.pop(item_id)
        item.text = text
        if not wanted:
            return
        if self._failures > 0:
            self._failures -= 1
            error = "The turn could not be transcribed."
        if error is not None:
            problem = {"type": "transcription_error", "code": "audio_unintelligible", "message": error}
            kind = "conversation.item.input_audio_transcription.failed"
            self._stage.emit(kind, item_id=item_id, content_index=0, error=problem)
            return
        self._late_texts[item_id] = (text, item.audio_ms / 1000)
        delay = self._stage.behaviour.late_transcript_ms
        if hold:
            self._held.append(item_id)
        elif delay:
            self._stage.do(Later(delay / 1000, ("transcript", item_id)))
        else:
            self.send_transcript(item_id)

    def release(self) -> None:
        """Tell the words that were held back."""
        held, self._held = self._held, []
        for item_id in held:
            self.send_transcript(item_id)

    def send_transcript(self, item_id: str) -> None:
        """Tell the words of a turn."""
        text, seconds = self._late_texts.pop(item_id)
        place = {"item_id": item_id, "content_index": 0}
        item = self._stage.items.get(item_id)
        if item is not None:
            item.content[0]["transcript"] = text
        for piece in _pieces(text, self._stage.behaviour.transcript_deltas):
            self._stage.emit("conversation.item.input_audio_transcription.delta", delta=piece, **place)
        usage = {"type": "duration", "seconds": seconds}
        kind = "conversation.item.input_audio_transcription.completed"
        self._stage.emit(kind, transcript=text, usage=usage, **place)


def _pieces(text: str, how: str) -> list[str]:
    """Cut a transcript into its deltas; joined they are the text."""
    match how:
        case "none":
            return []
        case "words":
            return re.findall(r"\S+\s*", text)
        case _:
            return [text] if text else []


def how_turns_are_found(detection: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the settings that matter to listening; what a turn leads to may change while the caller speaks."""
    if detection is None:
        return None
    consequences = ("create_response", "interrupt_response", "idle_timeout_ms")
    return {name: value for name, value in detection.items() if name not in consequences}
