"""A live conversation as its handler sees it: turns in, speech out, calls to the side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import Any, Literal, Protocol

from pydantic import ValidationError

from agentfield.errors import InvalidInput, LimitExceeded, SessionEnded
from agentfield.identity import canonical
from agentfield.ids import new_id
from agentfield.realtime.config import Limits
from agentfield.realtime.events import Event, Warned, event_adapter
from agentfield.schema import jsonable
from agentfield.turns import Reply, Spoken, Turn
from agentfield.wire.frames import SessionCommand, SessionOpen

__all__ = ["Limits", "Reply", "Session", "SessionPort", "Speech", "Spoken", "Turn"]

MAX_STATE_BYTES = 16 * 1024
"""How much JSON the state of a session may be."""

MAX_EVENTS = 1000
"""Events that wait for a handler that reads them slowly; older ones give way, with a warning."""

Stale = Literal["drop", "speak"]
_Command = Literal["input", "say", "reply", "cancel_speech", "call", "set_state", "listen", "end"]


class SessionPort(Protocol):
    """How a session reaches its control plane."""

    def ask(self, command: SessionCommand) -> asyncio.Future[Any]:
        """Send a command, in order and again after a reconnect; the future holds its answer or refusal."""

    def forget(self, op_id: str) -> None:
        """Nobody waits for this command's answer any longer."""


class Speech:
    """One utterance on its way; await it for what came of it.

    It is spoken whether or not it is awaited; to give up waiting does not silence it, `cancel` does.
    """

    def __init__(self, id: str, text: str, answer: asyncio.Future[Any], cancel: Callable[[str], None]) -> None:  # noqa: A002
        self.id = id
        self.text = text
        self._answer = answer
        self._cancel = cancel
        answer.add_done_callback(_retrieved)

    def __repr__(self) -> str:
        return f"Speech({self.text!r}, {'done' if self.done() else 'under way'})"

    def __await__(self) -> Generator[Any, None, Spoken]:
        return self._wait().__await__()

    def done(self) -> bool:
        """Tell whether it has been spoken, dropped or cancelled."""
        return self._answer.done()

    def cancel(self) -> None:
        """Stop speaking it, or do not begin; awaiting it then tells what was heard."""
        if not self.done():
            self._cancel(self.id)

    async def _wait(self) -> Spoken:
        return Spoken.model_validate(await asyncio.shield(self._answer))


class Session:
    """One live conversation.

    Attributes:
        id: The session's id.
        caller: Who calls, as the start of the session said.
        metadata: What the start of the session said besides.
        state: A small dictionary (JSON, at most 16 KiB) that outlives the handler and the node. Changes travel ahead
            of the next thing that the handler asks for and when it returns; `save` makes sure of them at once.
        resumed: True when a handler before this one was lost and this one takes over.
    """

    def __init__(self, opened: SessionOpen, port: SessionPort) -> None:
        self.id = opened.session_id
        self.caller = opened.caller
        self.metadata: dict[str, Any] = dict(opened.metadata)
        self.state: dict[str, Any] = dict(opened.state)
        self.resumed = opened.resumed
        self.turns_taken = 0
        self._epoch = opened.epoch
        self._port = port
        self._history: list[dict[str, Any]] = list(opened.history)
        self._saved = canonical(self.state)
        self._ended: str | None = None
        self._input: asyncio.Future[Any] | None = None
        self._input_lock = asyncio.Lock()
        self._streams: list[_Stream] = []
        self._listening = False

    def __repr__(self) -> str:
        return f"Session({self.id}, {self._ended or 'live'})"

    @property
    def history(self) -> tuple[dict[str, Any], ...]:
        """Turns and speeches so far, oldest first."""
        return tuple(self._history)

    @property
    def ended(self) -> str | None:
        """Why the session is over, None while it is not."""
        return self._ended

    async def input(self) -> Turn:
        """Wait for what the caller says next.

        To give up waiting loses nothing: the turn goes to the next `input`.

        Raises:
            SessionEnded: The call is over.
        """
        async with self._input_lock:
            self._live()
            if self._input is None:
                self._input = self._ask("input")
                self._input.add_done_callback(_retrieved)
            pending = self._input
            try:
                value = await asyncio.shield(pending)
            except asyncio.CancelledError:
                # Only the wait was given up: the turn, even one that came this instant, is for the next `input`.
                self._input = None if pending.cancelled() else pending
                raise
            except Exception:
                self._input = None
                raise
            self._input = None
        turn = Turn.model_validate(value)
        self.turns_taken += 1
        self._history.append({"role": "caller", "turn_id": turn.id, "text": turn.text})
        return turn

    def say(self, text: str, *, interruptible: bool = True, stale: Stale = "drop") -> Speech:
        """Speak a text; it is on its way when this returns, and awaiting it tells what was heard.

        Args:
            text: What to say.
            interruptible: False to speak it to the end even if the caller speaks; their turns then wait.
            stale: What to do when a newer turn has come than the one it answers: ``drop`` or ``speak`` it.

        Raises:
            SessionEnded: The call is over.
            InvalidInput: There is nothing to say.
        """
        if not isinstance(text, str) or not text.strip():
            shown = "no words" if isinstance(text, str) else f"a {type(text).__name__}"
            raise InvalidInput(f"say() was given {shown}; it takes the text to speak.", field="text")
        if stale not in ("drop", "speak"):
            raise InvalidInput(f"say(stale={stale!r}): stale is 'drop' or 'speak'.", field="stale")
        self._live()
        op_id = new_id("op")
        answer = self._ask("say", {"text": text, "interruptible": interruptible, "stale": stale}, op_id=op_id)
        answer.add_done_callback(lambda done: self._remember(done, lambda value: value))
        return Speech(op_id, text, answer, self._cancel_speech)

    async def reply(self, *, instructions: str | None = None, tools: Sequence[str] | None = None) -> Reply:
        """Hand this one turn to the model, and wait until its answer was spoken.

        Args:
            instructions: What to tell the model for this answer, beyond the session's own instructions.
            tools: Which targets of the session's allowlist it may use, None for all of them.

        Raises:
            SessionEnded: The call is over.
        """
        self._live()
        op_id = new_id("op")
        args = {"instructions": instructions, "tools": None if tools is None else list(tools)}
        answer = self._ask("reply", args, op_id=op_id)
        answer.add_done_callback(lambda done: self._remember(done, lambda value: value.get("spoken") or {}))
        try:
            return Reply.model_validate(await asyncio.shield(answer))
        except asyncio.CancelledError:
            self._cancel_speech(op_id)
            raise

    async def call(
        self,
        target: str,
        /,
        *,
        filler: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 -- the control plane enforces it, wherever the target runs
        **input: Any,  # noqa: A002 -- the word of the wire
    ) -> Any:
        """Run a target through the control plane, as a part of this session and its open turn.

        Args:
            target: ``node.name``.
            filler: What to say when the answer takes longer than a moment.
            timeout: Seconds to wait for it.
            **input: The target's input; anything that JSON can hold, and turns.

        Raises:
            ExecutionError: It did not succeed; the class says how.
            AgentFieldError: It was refused.
        """
        args = {"target": target, "input": jsonable(input, what="input"), "timeout": timeout, "filler": filler}
        op_id = new_id("op")
        answer = self._ask("call", args, op_id=op_id)
        try:
            return await answer
        finally:
            if not answer.done() or answer.cancelled():
                self._port.forget(op_id)

    async def events(self) -> AsyncIterator[Event]:
        """Iterate over what happens in the conversation from now on, until it ends."""
        self._live()
        stream = _Stream()
        self._streams.append(stream)
        try:
            if not self._listening:
                self._listening = True
                self._ask("listen").add_done_callback(_retrieved)
            async for event in stream:
                yield event
        finally:
            self._streams.remove(stream)

    async def save(self) -> None:
        """Make `state` durable now.

        Raises:
            LimitExceeded: It is larger than 16 KiB.
            InvalidInput: It holds something that is not JSON.
        """
        state, self._saved = self._packed()
        await asyncio.shield(self._ask("set_state", {"state": state}))

    async def end(self, reason: str = "handler_ended") -> None:
        """End the call; returns when the control plane has it. Ending twice is ending once."""
        if self._ended is not None:
            return
        try:
            await asyncio.shield(self._ask("end", {"reason": reason}))
        except SessionEnded:
            return  # it ended while we asked
        finally:
            self.stopped(reason)

    # --- for the link -------------------------------------------------------------------------------------------

    def stopped(self, reason: str) -> None:
        """The session is over: from now on `input` and `say` raise."""
        if self._ended is None:
            self._ended = reason
            for stream in self._streams:
                stream.close()

    def happened(self, event: dict[str, Any]) -> None:
        """Hand an event to whoever iterates."""
        neutral = {key: value for key, value in event.items() if key not in {"speech_id", "turn_id"}}
        try:
            parsed: Event = event_adapter.validate_python(neutral)
        except ValidationError:
            return  # an event of a newer control plane; a handler cannot know it
        for stream in self._streams:
            stream.put(parsed)

    def flush(self) -> None:
        """Send `state` if it changed since it was last sent.

        Raises:
            LimitExceeded: It is larger than 16 KiB.
            InvalidInput: It holds something that is not JSON.
        """
        state, packed = self._packed()
        if packed != self._saved:
            self._saved = packed
            self._send("set_state", {"state": state}).add_done_callback(_retrieved)

    # --- inside -------------------------------------------------------------------------------------------------

    def _live(self) -> None:
        if self._ended is not None:
            raise SessionEnded(f"The session is over: {self._ended}.", reason=self._ended, session_id=self.id)

    def _ask(
        self, command: _Command, args: dict[str, Any] | None = None, *, op_id: str | None = None
    ) -> asyncio.Future[Any]:
        if command not in ("set_state", "end"):
            self.flush()
        return self._send(command, args, op_id=op_id)

    def _send(
        self, command: _Command, args: dict[str, Any] | None = None, *, op_id: str | None = None
    ) -> asyncio.Future[Any]:
        frame = SessionCommand(
            op_id=op_id or new_id("op"), session_id=self.id, epoch=self._epoch, command=command, args=args or {}
        )
        answer = self._port.ask(frame)
        answer.add_done_callback(self._over)
        return answer

    def _over(self, answer: asyncio.Future[Any]) -> None:
        """Take a refusal that says so for the end: it may come ahead of the frame that stops the handler."""
        if not answer.cancelled() and isinstance(error := answer.exception(), SessionEnded):
            self.stopped(str(error.data.get("reason", "ended")))

    def _cancel_speech(self, op_id: str) -> None:
        if self._ended is None:
            self._send("cancel_speech", {"op_id": op_id}).add_done_callback(_retrieved)

    def _remember(self, answer: asyncio.Future[Any], spoken: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        if answer.cancelled() or answer.exception() is not None or not isinstance(answer.result(), dict):
            return
        said = spoken(answer.result())
        self._history.append({"role": "agent", **{k: said.get(k) for k in ("asked", "generated", "heard_text")}})

    def _packed(self) -> tuple[dict[str, Any], bytes]:
        state = jsonable(self.state, what="state")
        packed = canonical(state)
        if len(packed) > MAX_STATE_BYTES:
            raise LimitExceeded(
                f"The state of a session may be {MAX_STATE_BYTES} bytes of JSON; this one is {len(packed)}.",
                hint="Keep large things in a store of your own and their keys in session.state.",
            )
        return state, packed


class _Stream:
    """Events that wait for one iteration; bounded, the oldest give way."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._dropped = 0
        self._wake = asyncio.Event()
        self._closed = False

    def put(self, event: Event) -> None:
        if len(self._events) >= MAX_EVENTS:
            self._events.popleft()
            self._dropped += 1
        self._events.append(event)
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            return Warned(
                code="events_dropped", message=f"{dropped} events were dropped; the handler reads too slowly."
            )
        return self._events.popleft()


def _retrieved(answer: asyncio.Future[Any]) -> None:
    """Look at the outcome of a future that nobody may await, so that asyncio does not report it as lost."""
    if not answer.cancelled():
        answer.exception()
