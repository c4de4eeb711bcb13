"""One reply: runs a completion from request to end, reports it as events and adds it to the history."""

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
from agentfield_openrouter.chunks import (
    AudioDelta,
    CompletionAssembler,
    CompletionDelta,
    ServedBy,
    TextDelta,
    ToolCall,
    ToolCalls,
)
from agentfield_openrouter.error_classification import ClassifiedError
from agentfield_openrouter.event_queue import EventQueue
from agentfield_openrouter.history import ConversationHistory, ReplyEntry
from agentfield_openrouter.http_client import CompletionsClient, CompletionStream
from agentfield_openrouter.refusals import Refused, Unreachable
from agentfield_openrouter.request_builder import RequestBuilder

__all__ = ["ReplyRequest", "ReplyRun", "ServingUpstream", "SessionResources", "classify_exception"]

_MAX_REPLY_SECONDS = 600
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}

Status = Literal["completed", "cancelled", "failed", "incomplete"]


@dataclass(frozen=True, slots=True)
class ReplyRequest:
    """A requested reply; `say` is text to read aloud, `item` the newest turn that it answers.

    With `if_spoken` it is the answer to that turn alone, and not made if nothing was said in it.
    """

    reply: str
    command: str
    say: str | None = None
    instructions: str | None = None
    tools: tuple[str, ...] | None = None
    item: str | None = None
    if_spoken: bool = False


@dataclass(slots=True)
class ServingUpstream:
    """The model and upstream provider that serve a session; a pinned session refuses a change."""

    pinned: bool
    model: str | None = None
    name: str | None = None

    def update(self, served_by: ServedBy) -> ClassifiedError | None:
        """Record who serves the session; return an error that names both if that changes within a pinned session."""
        for what, was, now in (
            ("model", self.model, served_by.model),
            ("upstream provider", self.name, served_by.upstream),
        ):
            if self.pinned and was is not None and now is not None and was != now:
                hint = " (options={'upstream': [...]} of the session keeps it)" if what != "model" else ""
                return ClassifiedError(
                    "rerouted", f"The {what} changed from {was!r} to {now!r} within the session{hint}.", fatal=True
                )
        self.model, self.name = self.model or served_by.model, self.name or served_by.upstream
        return None


@dataclass(slots=True)
class SessionResources:
    """Objects that all replies of a session share."""

    requests: RequestBuilder
    completions: CompletionsClient
    history: ConversationHistory
    upstream: ServingUpstream
    audio: AudioFormat
    logger: logging.Logger
    """Logger; it receives no words of the resources."""
    out: EventQueue = field(default_factory=EventQueue)
    calls: set[str] = field(default_factory=set)
    """Ids of all tool calls of the session."""


class ReplyRun:
    """Runs one reply.

    Args:
        request: The requested reply.
        resources: Objects shared by the replies of the session.
    """

    def __init__(self, request: ReplyRequest, resources: SessionResources) -> None:
        self.reply = request.reply
        self.ended = False
        self.generation: str | None = None
        """The provider's id of the completion."""
        self._request = request
        self._resources = resources
        self._out = resources.out
        self._requests = resources.requests
        self._history = resources.history
        self._completion = CompletionAssembler(secrets=resources.completions.provider.secrets)
        self._started = False
        self._tool_count: int | None = None
        self._broke_off = False

    @property
    def cost_unknown(self) -> bool:
        """Whether the reply ended before the provider reported its cost."""
        return self._broke_off and self._completion.usage is None

    async def run(self) -> None:
        """Run the completion to its end and report the end; a cancellation is reported by `cancel`."""
        try:
            body = await asyncio.to_thread(self._requests.encode, self._body())
            async with self._resources.completions.stream(body, self._requests.headers()) as stream:
                await self._read(stream)
        except AgentFieldError as error:
            self._fail(classify_exception(error), error.message)

    def cancel(self) -> None:
        """Report the reply as cancelled; the caller must cancel the task of `run` as well."""
        self._end("cancelled", "asked")

    # --- inside

    def _body(self) -> dict[str, Any]:
        if self._request.say is not None:
            return self._requests.say(self._request.say)
        return self._requests.reply(
            self._history.messages(),
            instructions=self._request.instructions,
            tools=self._request.tools,
            has_calls=self._history.has_calls,
        )

    async def _read(self, stream: CompletionStream) -> None:
        self.generation = stream.generation
        self._start()
        async with aclosing(stream.payloads()) as payloads:
            async for payload in payloads:
                await self._out.wait_for_capacity()
                self._emit(self._completion.feed(payload))
                self.generation = self.generation or self._completion.generation
                if self._completion.fault is not None or self._completion.done or self.ended:
                    break
        self._finish()

    def _finish(self) -> None:
        if self.ended:
            return
        completion = self._completion
        if completion.cut_off:
            completion.fault = ClassifiedError("cut_off", "the stream ended in the middle of the answer", retry=True)
        self._emit(completion.close())
        if completion.fault is not None:
            message = f"{self._resources.completions.provider.title} failed while it answered ({completion.fault.code})"
            self._fail(completion.fault, f"{message}: {completion.fault.message}")
            return
        why = _INCOMPLETE.get(completion.finish or "")
        self._end("incomplete" if why else "completed", why)

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._out.put(ReplyStarted(reply=self.reply, command=self._request.command))

    def _emit(self, deltas: list[CompletionDelta]) -> None:
        for delta in deltas:
            match delta:
                case ServedBy():
                    self._served_by(delta)
                case TextDelta() if not self.ended:
                    self._out.put(ReplyTranscript(reply=self.reply, text=delta.text))
                case AudioDelta() if not self.ended and self._requests.speaks:
                    self._audio(delta.data)
                case ToolCalls() if not self.ended:
                    self._tool_calls(delta.calls)

    def _served_by(self, served_by: ServedBy) -> None:
        first = self._resources.upstream.model is None
        fault = self._resources.upstream.update(served_by)
        if fault is not None:
            self._fail(fault, fault.message)
        elif first and served_by.model is not None:
            self._out.put(SessionUpdated(model=served_by.model))

    def _audio(self, data: bytes) -> None:
        self._out.put(ReplyAudio(reply=self.reply, data=data))
        if self._ms > _MAX_REPLY_SECONDS * 1000:
            self._end("incomplete", "too_long")

    def _tool_calls(self, calls: tuple[ToolCall, ...]) -> None:
        unique = tuple(ToolCall(self._unique_call_id(call.id), call.name, call.arguments) for call in calls)
        self._add_to_history(unique)
        for call in unique:
            target = self._requests.names.target(call.name)
            self._out.put(
                ToolRequested(call_id=call.id, name=target, arguments=call.arguments or "{}", reply=self.reply)
            )

    def _unique_call_id(self, call_id: str) -> str:
        """Return an id that is unique in the session; some models number their calls from zero in every completion."""
        wanted, name, number = call_id or f"call_{self.reply}", call_id or f"call_{self.reply}", 1
        while name in self._resources.calls:
            number += 1
            name = f"{wanted}_{number}"
        self._resources.calls.add(name)
        return name

    def _add_to_history(self, calls: tuple[ToolCall, ...] = ()) -> None:
        """Add the reply to the history, once; its tool calls are added together with the text before them."""
        if self._tool_count is not None:
            return
        self._tool_count = len(calls)
        if self._completion.text or calls:
            entry = ReplyEntry(self._completion.text, self._ms, calls)
            self._history.add_reply(self.reply, entry)

    def _fail(self, fault: ClassifiedError, message: str) -> None:
        """Report an error; a command that was refused before the reply started may be sent again."""
        if self.ended:
            return
        self._resources.logger.warning("answer failed: %s", fault.code)
        if fault.status == 429:
            self._out.put(RateLimit(name="requests", remaining=0, reset_seconds=fault.retry_after))
        refused = not self._started and not fault.fatal
        if not refused:
            self._start()
            self._end("failed", fault.code)
        self.ended = True
        self._out.put(
            ProviderFault(
                code=fault.code,
                message=message,
                fatal=fault.fatal,
                retry=refused and fault.retry,
                retry_after=fault.retry_after if refused else None,
                command=self._request.command if refused else None,
            )
        )

    def _end(self, status: Status, why: str | None = None) -> None:
        if self.ended:
            return
        self.ended, self._broke_off = True, status != "completed"
        self._start()
        self._add_to_history()
        completion = self._completion
        if completion.text:
            self._out.put(ReplyTranscript(reply=self.reply, text=completion.text, final=True))
        self._out.put(
            ReplyEnded(
                reply=self.reply,
                command=self._request.command,
                status=status,
                why=why,
                text=completion.text or None,
                audio=self._ms > 0,
                audio_ms=self._ms if self._requests.speaks else None,
                tools=self._tool_count or 0,
                usage=completion.usage,
            )
        )

    @property
    def _ms(self) -> int:
        return round(self._resources.audio.ms(self._completion.size)) if self._requests.speaks else 0


def classify_exception(error: AgentFieldError) -> ClassifiedError:
    """Return the classification of an exception."""
    if isinstance(error, Refused | Unreachable):
        return error.fault
    return ClassifiedError(error.code, error.message, fatal=error.code == "key_missing")
