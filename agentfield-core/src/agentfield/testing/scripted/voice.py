"""The agent's voice in a scripted call: silence of the right duration, which can pause, break off or be interrupted.

Where the control plane carries the audio, a pause is made by not generating more of it, and the bridge knows what was
heard. On direct media the voice plays in real time itself, and reports the playout.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.events import (
    Event,
    Interrupted,
    PlayoutCleared,
    PlayoutStarted,
    PlayoutStopped,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    ReplyTranscript,
)
from agentfield.testing.scripted.answers import ScriptedAnswer

__all__ = ["ScriptedVoice", "VoiceScript"]

_PAUSE_TIMEOUT = 10.0
_STOP_TIMEOUT = 1.0
_BRIDGE_DELAY = 0.3
"""Seconds by which a bridge may lag behind the audio that it was given."""
_STEP = 0.02
_PIECE_MS = 200
_SILENCE = {"pcm16": b"\x00", "pcmu": b"\xff", "pcma": b"\xd5"}


class VoiceScript(Protocol):
    """What a voice needs from its script (`ScriptedProvider`)."""

    @property
    def reword(self) -> Callable[[str], str]:
        """Maps the text of a `say` to the text that is spoken."""

    def new_id(self, prefix: str) -> str:
        """Return an id that no other call has."""

    def duration_ms(self, text: str) -> int:
        """Return the duration of a text when spoken, in milliseconds."""

    def take_break_off(self, text: str) -> tuple[int, str] | None:
        """Return the length at which a speech breaks off and its error code, None when it does not."""

    def report_mismatch(self, message: str) -> None:
        """Record that script and session do not match."""

    def verify(self) -> None:
        """Raise the recorded mismatches."""


@dataclass(slots=True)
class _Speech:
    """The current speech."""

    reply: str
    command: str | None
    text: str
    """The text generated so far."""
    ms: int
    """Its duration."""
    whole: str
    answer: ScriptedAnswer
    began: float
    generating: bool = False
    paused: bool = False
    timer: asyncio.TimerHandle | None = None


class ScriptedVoice:
    """Speaks one text at a time.

    Args:
        script: Decides what becomes of a speech.
        audio: The format, None where the media does not pass through the control plane: then playout is reported as well.
        emit: Takes events.
        use_tools: Uses the tools of an answer, in a reply.
        on_spoken: Takes the text of a finished speech.
        pauses: Texts after which the first speech pauses.
    """

    def __init__(
        self,
        script: VoiceScript,
        audio: AudioFormat | None,
        *,
        emit: Callable[[Event], None],
        use_tools: Callable[[str, ScriptedAnswer], None],
        on_spoken: Callable[[str], None],
        pauses: Sequence[str] = (),
    ) -> None:
        self._script = script
        self._audio = audio
        self._emit = emit
        self._use_tools = use_tools
        self._on_spoken = on_spoken
        self._speech: _Speech | None = None
        self._pauses = deque(pauses)
        self._paused = asyncio.Event()
        self._silent = asyncio.Event()

    @property
    def reply(self) -> str | None:
        """The reply of the current speech."""
        return self._speech.reply if self._speech is not None else None

    def speak(self, text: str, command: str | None, answer: ScriptedAnswer) -> None:
        """Speak a text, or only use the tools of an answer without text."""
        self.cancel_timer()
        self._speech = None
        reply = self._script.new_id("reply")
        self._emit(ReplyStarted(reply=reply, command=command))
        if not text:
            self._end(_Speech(reply, command, "", 0, "", answer, 0.0))
            return
        break_off = self._script.take_break_off(text)
        pause = None if break_off else self._pause_in(text)
        length = break_off[0] if break_off else pause
        # carried audio pauses because no more of it is generated; played audio is generated whole
        cut_short = break_off is not None or (pause is not None and self._audio is not None)
        total_ms = self._script.duration_ms(text)
        ms = total_ms if length is None else -(-total_ms * length // len(text))  # rounded up
        generated = text[:length] if cut_short else text
        speech = _Speech(reply, command, generated, ms, text, answer, asyncio.get_running_loop().time())
        speech.paused, speech.generating = pause is not None, cut_short
        self._speech = speech
        self._silent.clear()
        if self._audio is None:
            self._emit(PlayoutStarted(reply=reply))
        self._generate(speech, 0, ms if cut_short else total_ms)
        if break_off is not None:
            self._fail(speech, break_off[1])
            return
        if not cut_short:
            self._end(speech)
        self._start_playing(speech)

    def stop(self, reply: str, *, why: str) -> None:
        """Stop the current speech and report how much of it was heard."""
        speech = self._speech
        if speech is None or speech.reply != reply:
            return
        elapsed_ms = int((asyncio.get_running_loop().time() - speech.began) * 1000)
        heard_ms = speech.ms if speech.paused else min(speech.ms, elapsed_ms)
        self.cancel_timer()
        self._finish(speech)
        if speech.generating:
            ended = ReplyEnded(reply=reply, command=speech.command, status="cancelled", why=why, text=speech.text)
            self._emit(ended.model_copy(update={"audio": True, "audio_ms": speech.ms}))
        if self._audio is None:
            self._emit(Interrupted(reply=reply, heard_ms=heard_ms, method="provider"))
            self._emit(PlayoutCleared(reply=reply))

    def cancel_timer(self) -> None:
        """Cancel the timer of the current speech."""
        if self._speech is not None and self._speech.timer is not None:
            self._speech.timer.cancel()

    # --- pauses

    def pause_after(self, text: str) -> None:
        """Pause the next speech that contains `text` once the caller has heard that text, until it is stopped or resumed."""
        self._pauses.append(text)

    @property
    def pending_pauses(self) -> list[str]:
        """Texts of the pauses that no speech has reached."""
        return list(self._pauses)[1:] if self._paused.is_set() else list(self._pauses)

    async def wait_paused(self) -> None:
        """Wait until the speech with the next pause has paused; return at once when there is no pause.

        Raises:
            AssertionError: The speech never reached its pause.
        """
        if not self._pauses:
            return
        text = self._pauses[0]
        try:
            async with asyncio.timeout(_PAUSE_TIMEOUT):
                await self._paused.wait()
        except TimeoutError:
            self._script.report_mismatch(f"nothing was said that holds {text!r}, after which the caller was to speak")
            self._script.verify()
        self._paused.clear()
        self._pauses.popleft()

    async def wait_stopped(self) -> None:
        """Wait up to 1 s until a paused speech is stopped; not every session stops it."""
        if self._speech is not None and self._speech.paused:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_TIMEOUT):
                    await self._silent.wait()

    async def resume(self) -> None:
        """Resume the paused speech; it runs to its end.

        Raises:
            AssertionError: No speech is paused.
        """
        await self.wait_paused()
        speech = self._speech
        if speech is None or not speech.paused:
            self._script.report_mismatch("no speech is paused that could be resumed")
            self._script.verify()
            return
        speech.paused = False
        heard_ms, total_ms = speech.ms, self._script.duration_ms(speech.whole)
        speech.ms, speech.text = total_ms, speech.whole
        if self._audio is None:
            loop = asyncio.get_running_loop()
            speech.began = loop.time() - heard_ms / 1000
            speech.timer = loop.call_later((total_ms - heard_ms) / 1000, self._playout_ended, speech)
        else:
            speech.generating = False
            self._generate(speech, heard_ms, total_ms)
            self._end(speech)
            self._finish(speech)

    # --- inside

    def _pause_in(self, text: str) -> int | None:
        """Return the length at which a text pauses, None when it does not."""
        if not self._pauses or self._paused.is_set() or self._pauses[0] not in text:
            return None
        return text.index(self._pauses[0]) + len(self._pauses[0])

    def _generate(self, speech: _Speech, start: int, end: int) -> None:
        """Emit the transcript, and the audio between two positions in milliseconds."""
        self._emit(ReplyTranscript(reply=speech.reply, text=speech.text, final=not speech.generating))
        if self._audio is None:
            return
        silence = _SILENCE.get(self._audio.codec, b"\x00")
        for at in range(start, end, _PIECE_MS):
            self._emit(ReplyAudio(reply=speech.reply, data=silence * self._audio.size(min(_PIECE_MS, end - at))))

    def _end(self, speech: _Speech) -> None:
        """End the generation, with the tool uses of the answer."""
        answer, text = speech.answer, speech.whole
        self._use_tools(speech.reply, answer)
        ended = ReplyEnded(reply=speech.reply, command=speech.command, tools=len(answer.uses), usage=answer.usage)
        if text:
            spoken = {"text": text, "audio": True, "audio_ms": self._script.duration_ms(text)}
            ended = ended.model_copy(update=spoken)
        self._emit(ended)

    def _fail(self, speech: _Speech, code: str) -> None:
        self._finish(speech)
        ended = ReplyEnded(reply=speech.reply, command=speech.command, status="failed", why=code, text=speech.text)
        self._emit(ended.model_copy(update={"audio": True}))

    def _start_playing(self, speech: _Speech) -> None:
        loop = asyncio.get_running_loop()
        if speech.paused:
            self._wait_for_pause(speech, speech.ms / 1000 + (_BRIDGE_DELAY if self._audio is not None else 0.0))
        elif self._audio is None:
            speech.timer = loop.call_later(speech.ms / 1000, self._playout_ended, speech)
        else:
            self._finish(speech)  # the bridge plays it and knows when it was heard

    def _wait_for_pause(self, speech: _Speech, seconds: float) -> None:
        """Set the pause after `seconds`, counted in small steps: a stall of this process must not count as heard audio."""
        if seconds <= 0:
            self._paused.set()
            return
        loop = asyncio.get_running_loop()
        speech.timer = loop.call_later(min(seconds, _STEP), self._wait_for_pause, speech, seconds - _STEP)

    def _playout_ended(self, speech: _Speech) -> None:
        self._emit(PlayoutStopped(reply=speech.reply, method="provider"))
        self._finish(speech)

    def _finish(self, speech: _Speech) -> None:
        self._on_spoken(speech.text)
        self._speech = None
        self._silent.set()
