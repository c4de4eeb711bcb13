"""The voice of a scripted call: silence of the right length, that may stand still, break off, or be spoken over."""

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
from agentfield.testing.answers import Answer

__all__ = ["Voice", "VoiceScript"]

_PAUSE_WAIT = 10.0
_STOP_WAIT = 1.0
_SETTLE = 0.3
"""Seconds by which a bridge may be behind with audio that it was given."""
_STEP = 0.02
_PIECE_MS = 200
_SILENCE = {"pcm16": b"\x00", "pcmu": b"\xff", "pcma": b"\xd5"}


class VoiceScript(Protocol):
    """What a voice asks of its script."""

    def name(self, what: str) -> str:
        """Return a name that no other call has."""

    def length(self, text: str) -> int:
        """Return how long a text sounds, milliseconds."""

    def spoiled(self, text: str) -> tuple[int, str] | None:
        """Return up to where a text is spoken before it breaks off, and the code of that."""

    def disagree(self, how: str) -> None:
        """Note that script and session do not go together."""

    def verify(self) -> None:
        """Raise what was noted."""


@dataclass(slots=True)
class _Speech:
    """What is being said."""

    reply: str
    command: str | None
    text: str
    """The words so far."""
    ms: int
    """How long they sound."""
    whole: str
    answer: Answer
    began: float
    generating: bool = False
    stands_still: bool = False
    timer: asyncio.TimerHandle | None = None


class Voice:
    """Speaks one thing at a time.

    Args:
        script: What is to become of speeches.
        audio: The format, None where the media does not pass through the control plane: then playback is told as well.
        tell: Takes events.
        use: Uses the tools of an answer, in a reply.
        said: Takes the words of a speech that is over.
        pauses: Words after which the first speech is to stand still.
    """

    def __init__(
        self,
        script: VoiceScript,
        audio: AudioFormat | None,
        *,
        tell: Callable[[Event], None],
        use: Callable[[str, Answer], None],
        said: Callable[[str], None],
        pauses: Sequence[str] = (),
    ) -> None:
        self._script = script
        self._audio = audio
        self._tell = tell
        self._use = use
        self._on_said = said
        self._speech: _Speech | None = None
        self._pauses = deque(pauses)
        self._standing = asyncio.Event()
        self._silent = asyncio.Event()

    @property
    def reply(self) -> str | None:
        """The reply that is being spoken."""
        return self._speech.reply if self._speech is not None else None

    def speak(self, text: str, command: str | None, answer: Answer) -> None:
        """Speak a text, or only use the tools of an answer without words."""
        self.be_quiet()
        self._speech = None
        reply = self._script.name("reply")
        self._tell(ReplyStarted(reply=reply, command=command))
        if not text:
            self._end(_Speech(reply, command, "", 0, "", answer, 0.0))
            return
        spoilt = self._script.spoiled(text)
        pause = None if spoilt else self._paused(text)
        got_to = spoilt[0] if spoilt else pause
        # where the control plane carries the audio, speech stands still because no more of it is generated
        cut_short = spoilt is not None or (pause is not None and self._audio is not None)
        ms = self._script.length(text)
        up_to = ms if got_to is None else -(-ms * got_to // len(text))
        words = text[:got_to] if cut_short else text
        speech = _Speech(reply, command, words, up_to, text, answer, asyncio.get_running_loop().time())
        speech.stands_still, speech.generating = pause is not None, cut_short
        self._speech = speech
        self._silent.clear()
        if self._audio is None:
            self._tell(PlayoutStarted(reply=reply))
        self._generate(speech, 0, up_to if cut_short else ms)
        if spoilt is not None:
            self._fail(speech, spoilt[1])
            return
        if not cut_short:
            self._end(speech)
        self._time(speech)

    def stop(self, reply: str, *, why: str) -> None:
        """Stop what is being said, and tell how much of it was heard."""
        speech = self._speech
        if speech is None or speech.reply != reply:
            return
        passed = int((asyncio.get_running_loop().time() - speech.began) * 1000)
        heard = speech.ms if speech.stands_still else min(speech.ms, passed)
        self.be_quiet()
        self._said(speech)
        if speech.generating:
            ended = ReplyEnded(reply=reply, command=speech.command, status="cancelled", why=why, text=speech.text)
            self._tell(ended.model_copy(update={"audio": True, "audio_ms": speech.ms}))
        if self._audio is None:
            self._tell(Interrupted(reply=reply, heard_ms=heard, method="provider"))
            self._tell(PlayoutCleared(reply=reply))

    def be_quiet(self) -> None:
        """Let no more time pass in what is being said."""
        if self._speech is not None and self._speech.timer is not None:
            self._speech.timer.cancel()

    # --- standing still

    def pause(self, after: str) -> None:
        """Let the next speech that holds these words stand still once the caller has heard them, until somebody stops it."""
        self._pauses.append(after)

    @property
    def waiting(self) -> list[str]:
        """Words after which speech is to stand still, and that were not said so far."""
        return list(self._pauses)[1:] if self._standing.is_set() else list(self._pauses)

    async def still(self) -> None:
        """Wait until the speech stands still that is to; when none is, return at once.

        Raises:
            AssertionError: It never came to that.
        """
        if not self._pauses:
            return
        waiting = self._pauses[0]
        try:
            async with asyncio.timeout(_PAUSE_WAIT):
                await self._standing.wait()
        except TimeoutError:
            self._script.disagree(f"nothing was said that holds {waiting!r}, after which the caller was to speak")
            self._script.verify()
        self._standing.clear()
        self._pauses.popleft()

    async def stopped(self) -> None:
        """Wait until a speech that stands still was stopped, for a moment: it may be that nothing stops it."""
        if self._speech is not None and self._speech.stands_still:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_WAIT):
                    await self._silent.wait()

    async def go_on(self) -> None:
        """Let the speech that stands still go on to its end.

        Raises:
            AssertionError: There is none.
        """
        await self.still()
        speech = self._speech
        if speech is None or not speech.stands_still:
            self._script.disagree("nothing stands still that could go on")
            self._script.verify()
            return
        speech.stands_still = False
        heard, whole = speech.ms, self._script.length(speech.whole)
        speech.ms, speech.text = whole, speech.whole
        if self._audio is None:
            loop = asyncio.get_running_loop()
            speech.began = loop.time() - heard / 1000
            speech.timer = loop.call_later((whole - heard) / 1000, self._heard, speech)
        else:
            speech.generating = False
            self._generate(speech, heard, whole)
            self._end(speech)
            self._said(speech)

    # --- inside

    def _paused(self, text: str) -> int | None:
        """Return up to where a text is spoken before it stands still."""
        if not self._pauses or self._standing.is_set() or self._pauses[0] not in text:
            return None
        return text.index(self._pauses[0]) + len(self._pauses[0])

    def _generate(self, speech: _Speech, start: int, end: int) -> None:
        """Let the words come, and the audio from one millisecond to another."""
        self._tell(ReplyTranscript(reply=speech.reply, text=speech.text, final=not speech.generating))
        if self._audio is None:
            return
        silence = _SILENCE.get(self._audio.codec, b"\x00")
        for at in range(start, end, _PIECE_MS):
            self._tell(ReplyAudio(reply=speech.reply, data=silence * self._audio.size(min(_PIECE_MS, end - at))))

    def _end(self, speech: _Speech) -> None:
        """Let the generation end, with the tools that the answer uses."""
        answer, text = speech.answer, speech.whole
        self._use(speech.reply, answer)
        ended = ReplyEnded(reply=speech.reply, command=speech.command, tools=len(answer.uses), usage=answer.usage)
        if text:
            told = {"text": text, "audio": True, "audio_ms": self._script.length(text)}
            ended = ended.model_copy(update=told)
        self._tell(ended)

    def _fail(self, speech: _Speech, code: str) -> None:
        self._said(speech)
        ended = ReplyEnded(reply=speech.reply, command=speech.command, status="failed", why=code, text=speech.text)
        self._tell(ended.model_copy(update={"audio": True}))

    def _time(self, speech: _Speech) -> None:
        """Let time pass while it is heard."""
        loop = asyncio.get_running_loop()
        if speech.stands_still:
            self._stand(speech, speech.ms / 1000 + (_SETTLE if self._audio is not None else 0.0))
        elif self._audio is None:
            speech.timer = loop.call_later(speech.ms / 1000, self._heard, speech)
        else:
            self._said(speech)  # the bridge plays it, and knows when it was heard

    def _stand(self, speech: _Speech, later: float) -> None:
        """Stand still after so many seconds, in small steps: a stall of this process is not taken for audio that was heard."""
        if later <= 0:
            self._standing.set()
            return
        loop = asyncio.get_running_loop()
        speech.timer = loop.call_later(min(later, _STEP), self._stand, speech, later - _STEP)

    def _heard(self, speech: _Speech) -> None:
        self._tell(PlayoutStopped(reply=speech.reply, method="provider"))
        self._said(speech)

    def _said(self, speech: _Speech) -> None:
        self._on_said(speech.text)
        self._speech = None
        self._silent.set()
