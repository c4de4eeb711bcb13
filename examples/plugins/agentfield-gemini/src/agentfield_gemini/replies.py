"""The model's replies, from the messages of its turns.

A reply is what the model says up to a tool call, or to the end of its turn. `generationComplete` ends it: `turnComplete`
follows only when the server assumes that the caller has heard it. An interrupted turn has no `generationComplete`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.events import (
    Event,
    Interrupted,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    ReplyTranscript,
    Usage,
    UsageReported,
)

__all__ = ["OUTPUT", "Replies"]

OUTPUT = AudioFormat("pcm16", 24_000)
"""Format of the model's audio."""
_MAX_TEXT = 100_000
_MAX_WAITING = 64


class _Phase(Enum):
    IDLE = auto()
    """No turn of the model; content begins one."""
    SPEAKING = auto()
    OVER = auto()
    """The generation is over, or was cancelled here; content up to the end of the model's turn belongs to it, and is dropped."""


@dataclass(slots=True)
class _Reply:
    id: str
    command: str | None
    text: str = ""
    size: int = 0


class Replies:
    """Tracks the model's reply.

    Args:
        prefix: Makes the ids unique across sessions.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._count = 0
        self._phase = _Phase.IDLE
        self._reply: _Reply | None = None
        self._last: str | None = None
        self._audible = False
        self._interrupted = False
        self._disturbed = False
        self._waiting: deque[str] = deque(maxlen=_MAX_WAITING)

    @property
    def idle(self) -> bool:
        """Whether content that arrives now begins a reply."""
        return self._phase is _Phase.IDLE

    @property
    def speaking(self) -> bool:
        """Whether a reply is being generated."""
        return self._phase is _Phase.SPEAKING

    @property
    def listens(self) -> bool:
        """Whether content that arrives now belongs to a reply."""
        return self._phase is not _Phase.OVER

    @property
    def interrupted(self) -> bool:
        """Whether the model's turn was interrupted, and nothing was said since."""
        return self._interrupted

    @property
    def requested(self) -> bool:
        """Whether a command waits for its reply: its message interrupts whatever the model says before it."""
        return bool(self._waiting)

    def expect(self, command: str) -> None:
        """Remember a command that was sent: the next reply is its."""
        self._waiting.append(command)

    def audio(self, data: bytes) -> list[Event]:
        """Return the events of a piece of audio."""
        if self._phase is _Phase.OVER or not data:
            return []
        events = self._open()
        if self._reply is not None:
            self._reply.size += len(data)
            events.append(ReplyAudio(reply=self._reply.id, data=data))
        return events

    def words(self, text: str) -> list[Event]:
        """Return the events of a piece of the transcript."""
        if self._phase is _Phase.OVER or not text:
            return []
        events = self._open()
        if self._reply is not None and len(self._reply.text) < _MAX_TEXT:
            self._reply.text += text
            events.append(ReplyTranscript(reply=self._reply.id, text=text))
        return events

    def call(self) -> tuple[str, list[Event]]:
        """Return the reply of a tool call, with the events of its start; `end` ends it."""
        if self._phase is _Phase.OVER:  # what was said is over, but the model still calls
            self._phase = _Phase.IDLE
        events = self._open()
        return self._last or "", events

    def end(self, usage: Usage | None = None, *, tools: int = 0) -> list[Event]:
        """Return the events of a generation that is complete."""
        if self._phase is _Phase.SPEAKING:
            # after the results of its calls the model goes on in the same turn of the protocol
            self._phase = _Phase.IDLE if tools else _Phase.OVER
        return self._close("completed", None, usage, tools)

    def disturb(self) -> None:
        """Remember that a message was sent that interrupts what the model says, and asks for no reply."""
        self._disturbed = self._audible

    @property
    def interruptible(self) -> bool:
        """Whether an interruption that the server reports now is the caller's."""
        return self._audible and not self._waiting and not self._disturbed

    def interrupt(self, usage: Usage | None = None) -> list[Event]:
        """Return the events of an interruption by the server, also of a reply that is generated and may still be heard."""
        by_caller, self._disturbed = self.interruptible, False
        self._phase, self._audible, self._interrupted = _Phase.IDLE, False, True
        if not by_caller or self._last is None:
            return self._close("cancelled", "asked", usage)
        return [Interrupted(reply=self._last, method="provider"), *self._close("cancelled", "interrupted", usage)]

    def unanswered(self) -> str | None:
        """Return the command that gets no reply, since the model said nothing."""
        return self._waiting.popleft() if self._waiting else None

    def turn_over(self, usage: Usage | None = None, fault: str | None = None) -> list[Event]:
        """Return the events of the end of the model's turn; `fault` is why it ended early."""
        self._phase, self._audible, self._interrupted, self._disturbed = _Phase.IDLE, False, False, False
        return self._close("failed" if fault else "completed", fault, usage)

    def cancel(self, reply: str) -> list[Event]:
        """Return the events of a reply that is cancelled here: no message cancels it, its rest is dropped."""
        if self._reply is None or self._reply.id != reply:
            return []
        self._phase, self._audible = _Phase.OVER, False
        return self._close("cancelled", "asked", None)

    def usage(self, usage: Usage) -> list[Event]:
        """Return the event of a usage that came with no end of a reply."""
        return [UsageReported(kind="reply", reply=self._last, usage=usage)]

    def _open(self) -> list[Event]:
        if self._reply is not None:
            return []
        self._count += 1
        command = self._waiting.popleft() if self._waiting else None
        self._reply = _Reply(f"reply_{self._prefix}_{self._count}", command)
        self._last = self._reply.id
        self._phase, self._audible, self._interrupted = _Phase.SPEAKING, True, False
        return [ReplyStarted(reply=self._reply.id, command=command)]

    def _close(
        self, status: Literal["completed", "cancelled", "failed"], why: str | None, usage: Usage | None, tools: int = 0
    ) -> list[Event]:
        reply, self._reply = self._reply, None
        if reply is None:
            return [] if usage is None else self.usage(usage)
        text = reply.text.strip() or None
        events: list[Event] = [] if text is None else [ReplyTranscript(reply=reply.id, text=text, final=True)]
        events.append(
            ReplyEnded(
                reply=reply.id,
                command=reply.command,
                status=status,
                why=why,
                text=text,
                audio=reply.size > 0,
                audio_ms=int(OUTPUT.ms(reply.size)),
                tools=tools,
                usage=usage,
            )
        )
        return events
