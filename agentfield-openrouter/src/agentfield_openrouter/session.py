"""One conversation of recorded turns: commands in, events out, one completion at a time; the history is kept here."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from agentfield.errors import AgentFieldError, InvalidInput, LimitExceeded, ProviderError, ProviderUnavailable
from agentfield.realtime.commands import (
    AddText,
    AppendAudio,
    CancelReply,
    Command,
    CommitTurn,
    End,
    Reply,
    Say,
    SendToolResult,
    Update,
)
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import (
    Event,
    ProviderFault,
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
from agentfield_openrouter.answer import Answer, Asked, Conversation, fault_in

__all__ = ["TurnsSession"]

_SHORTEST_MS = 100.0
_MAX_WAITING = 64
_MAX_WORDLESS = 16
"""Turns that may wait for their words."""
_WORDS_WAIT = 15.0


@dataclass(slots=True)
class _Recording:
    """What the caller is saying."""

    limit: int
    data: bytearray
    whole: int = 0
    """Bytes that came, those beyond the limit too."""

    def add(self, data: bytes) -> None:
        self.whole += len(data)
        self.data += data[: self.limit - len(self.data)]


class TurnsSession:
    """One session (`agentfield.realtime.provider.ProviderSession`).

    Args:
        config: The frozen configuration.
        conversation: What its answers share, fresh.
        ids: Makes identifiers of replies and turns, given their kind.
    """

    def __init__(
        self,
        config: SessionConfig,
        conversation: Conversation,
        ids: Callable[[str], str],
    ) -> None:
        self._config = config
        self._conversation = conversation
        self._requests = conversation.requests
        self._completions = conversation.completions
        self._audio = conversation.audio
        self._logger = conversation.logger
        self._history = conversation.history
        self._out = conversation.out
        self._ids = ids
        self._recording = self._fresh()
        self._last_item: str | None = None
        self._asked: deque[Asked] = deque()
        self._wanted = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._words: dict[str, asyncio.Task[None]] = {}
        self._answer: Answer | None = None
        self._work: asyncio.Task[None] | None = None
        self._closed = False
        self._own(self._run())
        self._out.put(SessionReady())

    async def send(self, command: Command) -> None:
        """Do `command`; returns when it is on its way.

        Raises:
            LimitExceeded: Too much waits already.
            InvalidInput: A reply names a tool that the session does not declare, or audio holds half a sample.
            ProviderUnavailable: The session is over.
        """
        if self._closed:
            if isinstance(command, End):
                return
            raise ProviderUnavailable("The session of recorded turns is over.", provider_code="session_gone")
        match command:
            case AppendAudio():
                self._append(command.data)
            case CommitTurn():
                self._commit(command.item or self._ids("item"))
            case Say():
                self._ask(Asked(self._ids("reply"), command.id, say=command.text))
            case Reply():
                self._requests.check_tools(command.tools)
                asked = Asked(
                    self._ids("reply"),
                    command.id,
                    instructions=command.instructions,
                    tools=command.tools,
                    item=self._last_item,
                )
                self._ask(asked)
            case CancelReply():
                self._cancel(command)
            case AddText():
                self._history.add_text(command.role, command.text)
            case SendToolResult():
                self._history.add_result(command.call_id, command.output)
            case Update():
                pass  # nothing is configured at the provider: every request carries all of it
            case End():
                await self.close()

    async def events(self) -> AsyncIterator[Event]:
        """Yield what happens, in order; the last one is `SessionClosed`. May be iterated once."""
        async for event in self._out.read():
            yield event

    async def close(self) -> None:
        """Let go of the session; what is under way at the provider is ended. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._out.end(SessionClosed(reason="closed"))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- the caller

    def _fresh(self) -> _Recording:
        limit = self._audio.size(self._requests.options.max_turn_seconds * 1000)
        return _Recording(limit, bytearray())

    def _append(self, data: bytes) -> None:
        if len(data) % self._audio.frame:
            raise InvalidInput(
                f"{len(data)} bytes of audio are no whole samples of {self._audio.name}.",
                code="invalid_audio",
                field="data",
            )
        self._recording.add(data)

    def _commit(self, item: str) -> None:
        recording, self._recording = self._recording, self._fresh()
        pcm = bytes(recording.data)
        length = round(self._audio.ms(len(pcm)))
        if length < _SHORTEST_MS or pcm.count(0) == len(pcm):
            self._out.put(TurnDiscarded(item=item, why="empty"))
            return
        if len(self._words) >= _MAX_WORDLESS:
            self._out.put(TurnDiscarded(item=item, why="too_many"))
            return
        if recording.whole > recording.limit:
            lost = self._audio.ms(recording.whole - recording.limit) / 1000
            message = f"The turn was longer than {length / 1000:g} s; its last {lost:.1f} s were left out."
            self._out.put(Warned(code="turn_too_long", message=message))
        self._history.add_turn(item, pcm)
        self._out.put(
            TurnStarted(item=item, at_ms=0),
            TurnStopped(item=item, at_ms=length),
            TurnCommitted(item=item, previous=self._last_item),
        )
        self._last_item = item
        if self._config.transcription is not None:
            task = self._words[item] = self._own(self._transcribe(item, pcm))
            task.add_done_callback(lambda _: self._words.pop(item, None))

    async def _transcribe(self, item: str, pcm: bytes) -> None:
        try:
            body = await asyncio.to_thread(self._requests.encode, self._requests.transcription(pcm))
            heard = await self._completions.transcribe(body, self._requests.headers())
        except (ProviderError, ProviderUnavailable) as error:
            fault = fault_in(error)
            self._logger.warning("transcription failed: %s", fault.code)
            self._out.put(TurnTranscript(item=item, text="", failed=fault.code))
            message = f"The caller's turn could not be transcribed: {error.message}"
            # without words a handler has no turn; a model that listens can do without
            fatal = fault.fatal and (self._config.declaration.floor == "handler" or fault.status != 404)
            self._out.put(ProviderFault(code=fault.code, message=message, fatal=fatal))
            return
        self._history.transcribed(item, heard.text)
        self._out.put(
            TurnTranscript(item=item, text=heard.text),
            UsageReported(kind="transcription", item=item, usage=heard.usage),
        )

    # --- answers

    def _ask(self, asked: Asked) -> None:
        if len(self._asked) >= _MAX_WAITING:
            raise LimitExceeded(
                f"{_MAX_WAITING} replies wait already; a session answers one after another.", code="too_many_replies"
            )
        self._asked.append(asked)
        self._wanted.set()

    async def _run(self) -> None:
        while True:
            while not self._asked:
                self._wanted.clear()
                await self._wanted.wait()
            asked = self._asked.popleft()
            await self._worded(asked)
            answer = self._answer = Answer(asked, self._conversation)
            self._work = self._own(answer.run())
            await asyncio.wait({self._work})
            if answer.cost_unknown and answer.generation is not None:
                self._own(self._learn_cost(answer.reply, answer.generation))

    async def _worded(self, asked: Asked) -> None:
        """Wait a moment for the words of the turn that is answered, where the request carries nothing else of it."""
        words = None if asked.item is None else self._words.get(asked.item)
        if words is not None and not self._requests.options.audio_history:
            await asyncio.wait({words}, timeout=_WORDS_WAIT)

    def _cancel(self, command: CancelReply) -> None:
        answer = self._answer
        if answer is not None and answer.reply == command.reply and not answer.over:
            answer.stop()
            if self._work is not None:
                self._work.cancel()
        if self._requests.speaks:
            self._history.cut(command.reply, command.heard_ms)

    async def _learn_cost(self, reply: str, generation: str) -> None:
        """Ask what an answer cost that broke off; the provider knows it a little later, or never."""
        for pause in self._completions.times.lookups:
            await asyncio.sleep(pause)
            try:
                usage = await self._completions.cost(generation)
            except AgentFieldError as error:
                if not fault_in(error).retry:
                    break
                continue
            if usage is not None:
                self._out.put(UsageReported(kind="reply", reply=reply, usage=usage))
                return
        message = "What an answer that broke off cost could not be learned; it is not in the sum."
        self._out.put(Warned(code="cost_unknown", message=message))

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        """Take note of an end; one that nobody foresaw ends the session, it is never lost."""
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        self._logger.error("a task of the session failed: %s", type(task.exception()).__name__)
        message = f"The session failed ({type(task.exception()).__name__})."
        self._out.put(ProviderFault(code="adapter_failed", message=message, fatal=True))
