"""One session of recorded turns: commands in, events out, one completion at a time; the history is kept here."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from agentfield.errors import AgentFieldError, InvalidInput, LimitExceeded, ProviderError, ProviderUnavailable
from agentfield.realtime.commands import (
    AddTextCommand,
    AppendAudioCommand,
    CancelReplyCommand,
    Command,
    CommitTurnCommand,
    EndCommand,
    ReplyCommand,
    SayCommand,
    ToolResultCommand,
    UpdateCommand,
)
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import (
    Event,
    ProviderFault,
    ReplyEnded,
    SessionClosed,
    SessionReady,
    TurnCommitted,
    TurnDiscarded,
    TurnStarted,
    TurnStopped,
    TurnTranscript,
    UsageReported,
    Warned,
)
from agentfield_openrouter.reply import ReplyRequest, ReplyRun, SessionResources, classify_exception

__all__ = ["AudioTurnsSession"]

_MIN_TURN_MS = 100.0
_MAX_WAITING = 64
_MAX_TRANSCRIBING = 16
"""Most turns that are being transcribed at a time."""
_TRANSCRIPT_WAIT = 15.0


@dataclass(slots=True)
class _Recording:
    """The turn that is being recorded."""

    limit: int
    data: bytearray
    received: int = 0
    """Bytes received, including those beyond the limit."""

    def add(self, data: bytes) -> None:
        self.received += len(data)
        self.data += data[: self.limit - len(self.data)]


class AudioTurnsSession:
    """One session (`agentfield.realtime.provider.ProviderSession`).

    Args:
        config: The frozen configuration.
        resources: Objects that its replies share; not used by another session.
        new_id: Returns a new id for a kind, ``reply`` or ``item``.
        words_first: Whether a reply is requested after the transcript of the turn that it answers, and only if it has
            words.
    """

    def __init__(
        self,
        config: SessionConfig,
        resources: SessionResources,
        new_id: Callable[[str], str],
        *,
        words_first: bool = False,
    ) -> None:
        self._config = config
        self._resources = resources
        self._requests = resources.requests
        self._completions = resources.completions
        self._audio = resources.audio
        self._logger = resources.logger
        self._history = resources.history
        self._out = resources.out
        self._new_id = new_id
        # only on the model's floor is a reply the answer to a turn, requested before its words are known
        self._words_first = words_first and config.declaration.floor == "model"
        self._unanswered: str | None = None
        """The newest turn, until anything else is added to the conversation or its answer is requested."""
        self._wordless: str | None = None
        """The newest turn whose transcript is empty."""
        self._recording = self._new_recording()
        self._last_item: str | None = None
        self._requested: deque[ReplyRequest] = deque()
        self._request_added = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._transcriptions: dict[str, asyncio.Task[None]] = {}
        self._reply: ReplyRun | None = None
        self._reply_task: asyncio.Task[None] | None = None
        self._closed = False
        self._start_task(self._run())
        self._out.put(SessionReady())

    async def send(self, command: Command) -> None:
        """Execute a command; requests to the provider continue in tasks of the session.

        Raises:
            LimitExceeded: Too many replies wait already.
            InvalidInput: A reply names an undeclared tool, or audio holds an incomplete sample.
            ProviderUnavailable: The session is closed.
        """
        if self._closed:
            if isinstance(command, EndCommand):
                return
            raise ProviderUnavailable("The session of recorded turns is closed.", provider_code="session_gone")
        match command:
            case AppendAudioCommand():
                self._append(command.data)
            case CommitTurnCommand():
                self._commit(command.item or self._new_id("item"))
            case SayCommand():
                self._enqueue(ReplyRequest(self._new_id("reply"), command.id, say=command.text))
            case ReplyCommand():
                self._requests.check_tools(command.tools)
                plain = command.instructions is None and command.tools is None
                request = ReplyRequest(
                    self._new_id("reply"),
                    command.id,
                    instructions=command.instructions,
                    tools=command.tools,
                    item=self._last_item,
                    if_spoken=self._words_first and plain and self._unanswered is not None,
                )
                self._unanswered = None
                self._enqueue(request)
            case CancelReplyCommand():
                self._cancel(command)
            case AddTextCommand():
                self._unanswered = None
                self._history.add_text(command.role, command.text)
            case ToolResultCommand():
                self._history.add_result(command.call_id, command.output)
            case UpdateCommand():
                pass  # the provider keeps no configuration: every request carries all of it
            case EndCommand():
                await self.close()

    async def events(self) -> AsyncIterator[Event]:
        """Yield the events of the session in order; the last one is `SessionClosed`. May be iterated once."""
        async for event in self._out.read():
            yield event

    async def close(self) -> None:
        """Close the session and cancel its requests at the provider; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._out.end(SessionClosed(reason="closed"))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- the caller

    def _new_recording(self) -> _Recording:
        limit = self._audio.size(self._requests.options.max_turn_seconds * 1000)
        return _Recording(limit, bytearray())

    def _append(self, data: bytes) -> None:
        if len(data) % self._audio.frame:
            raise InvalidInput(
                f"{len(data)} bytes of audio are not whole samples of {self._audio.name}.",
                code="invalid_audio",
                field="data",
            )
        self._recording.add(data)

    def _commit(self, item: str) -> None:
        recording, self._recording = self._recording, self._new_recording()
        pcm = bytes(recording.data)
        length = round(self._audio.ms(len(pcm)))
        if length < _MIN_TURN_MS or pcm.count(0) == len(pcm):
            self._out.put(TurnDiscarded(item=item, why="empty"))
            return
        if len(self._transcriptions) >= _MAX_TRANSCRIBING:
            self._out.put(TurnDiscarded(item=item, why="too_many"))
            return
        if recording.received > recording.limit:
            lost = self._audio.ms(recording.received - recording.limit) / 1000
            message = f"The turn was longer than {length / 1000:g} s; its last {lost:.1f} s were dropped."
            self._out.put(Warned(code="turn_too_long", message=message))
        self._history.add_turn(item, pcm)
        self._out.put(
            TurnStarted(item=item, at_ms=0),
            TurnStopped(item=item, at_ms=length),
            TurnCommitted(item=item, previous=self._last_item),
        )
        self._last_item = self._unanswered = item
        if self._config.transcription is not None:
            task = self._transcriptions[item] = self._start_task(self._transcribe(item, pcm))
            task.add_done_callback(lambda _: self._transcriptions.pop(item, None))

    async def _transcribe(self, item: str, pcm: bytes) -> None:
        try:
            body = await asyncio.to_thread(self._requests.encode, self._requests.transcription(pcm))
            transcript = await self._completions.transcribe(body, self._requests.headers())
        except (ProviderError, ProviderUnavailable) as error:
            fault = classify_exception(error)
            self._logger.warning("transcription failed: %s", fault.code)
            self._out.put(TurnTranscript(item=item, text="", failed=fault.code))
            message = f"The caller's turn could not be transcribed: {error.message}"
            # a handler needs the transcript of a turn; a model that hears the audio does not
            fatal = fault.fatal and (self._config.declaration.floor == "handler" or fault.status != 404)
            self._out.put(ProviderFault(code=fault.code, message=message, fatal=fatal))
            return
        self._history.set_transcript(item, transcript.text)
        if not transcript.text.strip():
            self._wordless = item
        self._out.put(
            TurnTranscript(item=item, text=transcript.text),
            UsageReported(kind="transcription", item=item, usage=transcript.usage),
        )

    # --- replies

    def _enqueue(self, request: ReplyRequest) -> None:
        if len(self._requested) >= _MAX_WAITING:
            raise LimitExceeded(
                f"{_MAX_WAITING} replies wait already; a session answers one after another.", code="too_many_replies"
            )
        self._requested.append(request)
        self._request_added.set()

    async def _run(self) -> None:
        """Run the requested replies one after another."""
        while True:
            while not self._requested:
                self._request_added.clear()
                await self._request_added.wait()
            request = self._requested.popleft()
            await self._wait_for_transcript(request)
            if request.if_spoken and request.item == self._wordless:
                self._out.put(ReplyEnded(reply=request.reply, command=request.command, status="cancelled"))
                continue
            run = self._reply = ReplyRun(request, self._resources)
            self._reply_task = self._start_task(run.run())
            await asyncio.wait({self._reply_task})
            if run.cost_unknown and run.generation is not None:
                self._start_task(self._look_up_cost(run.reply, run.generation))

    async def _wait_for_transcript(self, request: ReplyRequest) -> None:
        """Wait for the transcript of the answered turn if the request carries no recording of it, or depends on it."""
        transcription = None if request.item is None else self._transcriptions.get(request.item)
        needed = request.if_spoken or not self._requests.options.audio_history
        if transcription is not None and needed:
            await asyncio.wait({transcription}, timeout=_TRANSCRIPT_WAIT)

    def _cancel(self, command: CancelReplyCommand) -> None:
        run = self._reply
        if run is not None and run.reply == command.reply and not run.ended:
            run.cancel()
            if self._reply_task is not None:
                self._reply_task.cancel()
        if self._requests.speaks:
            self._history.truncate(command.reply, command.heard_ms)

    async def _look_up_cost(self, reply: str, generation: str) -> None:
        """Look up the cost of a reply that ended early; the provider knows it some seconds later, or never."""
        for pause in self._completions.timeouts.lookups:
            await asyncio.sleep(pause)
            try:
                usage = await self._completions.cost(generation)
            except AgentFieldError as error:
                if not classify_exception(error).retry:
                    break
                continue
            if usage is not None:
                self._out.put(UsageReported(kind="reply", reply=reply, usage=usage))
                return
        message = "The cost of a reply that ended early is unknown; it is not in the total."
        self._out.put(Warned(code="cost_unknown", message=message))

    def _start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        """Remove an ended task; an unexpected exception in it is reported as a fatal fault, never lost."""
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        self._logger.error("a task of the session failed: %s", type(task.exception()).__name__)
        message = f"The session failed ({type(task.exception()).__name__})."
        self._out.put(ProviderFault(code="adapter_failed", message=message, fatal=True))
