"""One answer: a completion from its request to its end, told as events and written into the history."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from agentfield.errors import AgentFieldError
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.events import (
    ProviderFault,
    RateLimit,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    ReplyTranscript,
    SessionUpdated,
    ToolRequested,
)
from agentfield_openrouter.chat import Requests
from agentfield_openrouter.chunks import Called, Completion, Echo, Piece, Sound, ToolCall, Words
from agentfield_openrouter.faults import Fault
from agentfield_openrouter.history import Answered, History
from agentfield_openrouter.http import Completions, Stream
from agentfield_openrouter.outbox import Outbox
from agentfield_openrouter.refusals import Refused, Unreachable

__all__ = ["Answer", "Asked", "Conversation", "Upstream", "fault_in"]

_SOON = 2.0
"""Seconds that a provider may ask us to wait before the same command is sent again."""
_MAX_SECONDS = 600
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}

Status = Literal["completed", "cancelled", "failed", "incomplete"]


@dataclass(frozen=True, slots=True)
class Asked:
    """An answer that is wanted; `say` is text to read out, `item` the newest turn that it answers."""

    reply: str
    command: str
    say: str | None = None
    instructions: str | None = None
    tools: tuple[str, ...] | None = None
    item: str | None = None


@dataclass(slots=True)
class Upstream:
    """Who answers this session; nobody else may."""

    pinned: bool
    model: str | None = None
    name: str | None = None

    def change(self, echo: Echo) -> Fault | None:
        """Take note of who answers; a change within a session is a fault that names both."""
        for what, was, now in (("model", self.model, echo.model), ("upstream provider", self.name, echo.upstream)):
            if self.pinned and was is not None and now is not None and was != now:
                hint = " (options={'upstream': [...]} of the session keeps it)" if what != "model" else ""
                return Fault(
                    "rerouted", f"The {what} changed from {was!r} to {now!r} within the session{hint}.", fatal=True
                )
        self.model, self.name = self.model or echo.model, self.name or echo.upstream
        return None


@dataclass(slots=True)
class Conversation:
    """What the answers of a session share."""

    requests: Requests
    completions: Completions
    history: History
    upstream: Upstream
    audio: AudioFormat
    logger: logging.Logger
    """Where to report; no words of anybody are."""
    out: Outbox = field(default_factory=Outbox)
    calls: set[str] = field(default_factory=set)
    """Ids of tool calls that the session has had."""


class Answer:
    """One answer.

    Args:
        asked: What is wanted.
        conversation: What it is part of.
    """

    def __init__(self, asked: Asked, conversation: Conversation) -> None:
        self.reply = asked.reply
        self.over = False
        self.generation: str | None = None
        """The provider's id of it."""
        self._asked = asked
        self._in = conversation
        self._out = conversation.out
        self._requests = conversation.requests
        self._history = conversation.history
        self._completion = Completion(secrets=conversation.completions.provider.secrets)
        self._started = False
        self._tools: int | None = None
        self._broke_off = False

    @property
    def cost_unknown(self) -> bool:
        """Whether it broke off before the provider told what it cost."""
        return self._broke_off and self._completion.usage is None

    async def run(self) -> None:
        """Carry it from its request to its end; every end but cancellation is told."""
        try:
            body = await asyncio.to_thread(self._requests.encode, self._body())
            async with self._in.completions.stream(body, self._requests.headers()) as stream:
                await self._read(stream)
        except AgentFieldError as error:
            self._fail(fault_in(error), error.message)

    def stop(self) -> None:
        """Tell that it was cancelled; the caller of this cancels `run`."""
        self._end("cancelled", "asked")

    # --- inside

    def _body(self) -> dict[str, Any]:
        if self._asked.say is not None:
            return self._requests.say(self._asked.say)
        return self._requests.reply(
            self._history.messages(),
            instructions=self._asked.instructions,
            tools=self._asked.tools,
            has_calls=self._history.has_calls,
        )

    async def _read(self, stream: Stream) -> None:
        self.generation = stream.generation
        self._start()
        async with aclosing(stream.payloads()) as payloads:
            async for payload in payloads:
                await self._out.room()
                self._tell(self._completion.feed(payload))
                self.generation = self.generation or self._completion.generation
                if self._completion.fault is not None or self._completion.done or self.over:
                    break
        self._finish()

    def _finish(self) -> None:
        if self.over:
            return
        completion = self._completion
        if completion.cut_off:
            completion.fault = Fault("cut_off", "the stream ended in the middle of the answer", retry=True)
        self._tell(completion.close())
        if completion.fault is not None:
            message = f"{self._in.completions.provider.title} failed while it answered ({completion.fault.code})"
            self._fail(completion.fault, f"{message}: {completion.fault.message}")
            return
        why = _INCOMPLETE.get(completion.finish or "")
        self._end("incomplete" if why else "completed", why)

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._out.put(ReplyStarted(reply=self.reply, command=self._asked.command))

    def _tell(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            match piece:
                case Echo():
                    self._echo(piece)
                case Words() if not self.over:
                    self._out.put(ReplyTranscript(reply=self.reply, text=piece.text))
                case Sound() if not self.over and self._requests.speaks:
                    self._sound(piece.data)
                case Called() if not self.over:
                    self._called(piece.calls)

    def _echo(self, echo: Echo) -> None:
        first = self._in.upstream.model is None
        fault = self._in.upstream.change(echo)
        if fault is not None:
            self._fail(fault, fault.message)
        elif first and echo.model is not None:
            self._out.put(SessionUpdated(model=echo.model))

    def _sound(self, data: bytes) -> None:
        self._out.put(ReplyAudio(reply=self.reply, data=data))
        if self._ms > _MAX_SECONDS * 1000:
            self._end("incomplete", "too_long")

    def _called(self, calls: tuple[ToolCall, ...]) -> None:
        unique = tuple(ToolCall(self._unused(call.id), call.name, call.arguments) for call in calls)
        self._answered(unique)
        for call in unique:
            target = self._requests.names.target(call.name)
            self._out.put(
                ToolRequested(call_id=call.id, name=target, arguments=call.arguments or "{}", reply=self.reply)
            )

    def _unused(self, call_id: str) -> str:
        """Return an id that no other call of the session has: some models count from nought in every answer."""
        wanted, name, number = call_id or f"call_{self.reply}", call_id or f"call_{self.reply}", 1
        while name in self._in.calls:
            number += 1
            name = f"{wanted}_{number}"
        self._in.calls.add(name)
        return name

    def _answered(self, calls: tuple[ToolCall, ...] = ()) -> None:
        """Write into the history what was said; once, `calls` come with the words before them."""
        if self._tools is not None:
            return
        self._tools = len(calls)
        if self._completion.text or calls:
            said = Answered(self._completion.text, self._ms, calls)
            self._history.add_reply(self.reply, said)

    def _fail(self, fault: Fault, message: str) -> None:
        """Tell what went wrong; a command that was refused before anything began may be sent again."""
        if self.over:
            return
        self._in.logger.warning("answer failed: %s", fault.code)
        if fault.status == 429:
            self._out.put(RateLimit(name="requests", remaining=0, reset_seconds=fault.retry_after))
        refused = not self._started and not fault.fatal
        if not refused:
            self._start()
            self._end("failed", fault.code)
        self.over = True
        self._out.put(
            ProviderFault(
                code=fault.code,
                message=message,
                fatal=fault.fatal,
                retry=refused and fault.retry and (fault.retry_after or 0) <= _SOON,
                command=self._asked.command if refused else None,
            )
        )

    def _end(self, status: Status, why: str | None = None) -> None:
        if self.over:
            return
        self.over, self._broke_off = True, status != "completed"
        self._start()
        self._answered()
        completion = self._completion
        if completion.text:
            self._out.put(ReplyTranscript(reply=self.reply, text=completion.text, final=True))
        self._out.put(
            ReplyEnded(
                reply=self.reply,
                command=self._asked.command,
                status=status,
                why=why,
                text=completion.text or None,
                audio=self._ms > 0,
                audio_ms=self._ms if self._requests.speaks else None,
                tools=self._tools or 0,
                usage=completion.usage,
            )
        )

    @property
    def _ms(self) -> int:
        return round(self._in.audio.ms(self._completion.size)) if self._requests.speaks else 0


def fault_in(error: AgentFieldError) -> Fault:
    """Return what an error means for the call."""
    if isinstance(error, Refused | Unreachable):
        return error.fault
    return Fault(error.code, error.message, fatal=error.code == "key_missing")
