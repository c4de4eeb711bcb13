"""`Session` and `Speech`: the handler's side of a live conversation."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from typing import Any, Literal, Protocol

from pydantic import ValidationError

from agentfield.arguments import check_seconds, check_target, checked_arguments
from agentfield.errors import InvalidInput, LimitExceeded, SessionEnded
from agentfield.identity import canonical
from agentfield.ids import new_id
from agentfield.realtime.events import Event, Warned, event_adapter
from agentfield.schema import jsonable, to_json
from agentfield.session.awaited import NotAwaited, must_await
from agentfield.session.turns import Reply, Spoken, Turn
from agentfield.wire.frames import SessionCommand, SessionOpen

__all__ = ["CommandSender", "Session", "Speech"]

MAX_STATE_BYTES = 16 * 1024
"""Bytes of JSON that the state of a session may be."""

MAX_EVENTS = 1000
"""Events that wait for a slow handler; older ones are dropped, with a warning."""

_MAX_LATE = 64

Stale = Literal["drop", "speak"]
_Command = Literal["input", "say", "reply", "cancel_speech", "call", "set_state", "listen", "end"]
_TEXTS = ("say", "reply", "call", "end")
"""Commands whose arguments come from user code and are not checked elsewhere."""


class CommandSender(Protocol):
    """Sends the commands of a session to the control plane."""

    def ask(self, command: SessionCommand) -> asyncio.Future[Any]:
        """Send a command, in order and again after a reconnect; return the future of its answer or refusal."""

    def forget(self, op_id: str) -> None:
        """Drop a command whose answer is no longer awaited."""


class Speech:
    """An utterance that is queued or spoken; await it for its `Spoken` result.

    It is spoken whether or not it is awaited. Cancelling the wait does not stop it; `cancel` does.
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
        """Return whether the utterance was spoken, dropped or cancelled."""
        return self._answer.done()

    def cancel(self) -> None:
        """Stop or drop the utterance; awaiting it then returns how much was heard."""
        if not self.done():
            self._cancel(self.id)

    async def _wait(self) -> Spoken:
        return Spoken.model_validate(await asyncio.shield(self._answer))


def _dropped(session: Session, error: NotAwaited) -> None:
    session.note_dropped(error)


class Session:
    """One live conversation.

    Attributes:
        id: The session's id.
        caller: The caller, as given when the session was started.
        metadata: Metadata given when the session was started.
        state: A small dictionary (JSON, at most 16 KiB) that outlives the handler and the node. Changes are sent before the
            handler's next command and when it returns; `save` sends them at once and waits.
        resumed: True when an earlier handler of the session was lost and this one takes over.
    """

    def __init__(self, opened: SessionOpen, sender: CommandSender) -> None:
        self.id = opened.session_id
        self.caller = opened.caller
        self.metadata: dict[str, Any] = dict(opened.metadata)
        self.state: dict[str, Any] = dict(opened.state)
        self.resumed = opened.resumed
        self.turns_taken = 0
        self._epoch = opened.epoch
        self._sender = sender
        self._history: list[dict[str, Any]] = list(opened.history)
        self._late_words: dict[str, str] = {}
        """Late words of turns that are not in the history yet: they may overtake the turn on its way to `input`."""
        self._saved = canonical(self.state)
        self._ended: str | None = None
        self._forgotten: NotAwaited | None = None
        self._input: asyncio.Future[Any] | None = None
        self._input_lock = asyncio.Lock()
        self._event_queues: list[_EventQueue] = []
        self._listening = False

    def __repr__(self) -> str:
        return f"Session({self.id}, {self._ended or 'live'})"

    @property
    def history(self) -> tuple[dict[str, Any], ...]:
        """Turns and speeches so far, oldest first."""
        return tuple(self._history)

    @property
    def ended(self) -> str | None:
        """Why the session ended, None while it is live."""
        return self._ended

    @must_await("session", _dropped)
    @checked_arguments
    async def input(self) -> Turn:
        """Wait for the caller's next turn.

        Cancelling the wait loses nothing: the next `input` returns the turn.

        Raises:
            SessionEnded: The session is over.
        """
        async with self._input_lock:
            self._require_live()
            if self._input is None:
                self._input = self._ask("input")
                self._input.add_done_callback(_retrieved)
            pending = self._input
            try:
                value = await asyncio.shield(pending)
            except asyncio.CancelledError:
                # Only the wait was cancelled: the turn, even one that arrived in this instant, belongs to the next `input`.
                self._input = None if pending.cancelled() else pending
                raise
            except Exception:
                self._input = None
                raise
            self._input = None
        turn = Turn.model_validate(value)
        self.turns_taken += 1
        text = self._late_words.pop(turn.id, turn.text)
        self._history.append({"role": "caller", "turn_id": turn.id, "text": text})
        return turn

    @checked_arguments
    def say(self, text: str, *, interruptible: bool = True, stale: Stale = "drop") -> Speech:
        """Queue a text to be spoken; await the returned `Speech` to learn how much was heard.

        Args:
            text: The text.
            interruptible: False to speak it to the end even if the caller speaks; their turns then wait.
            stale: Whether to ``drop`` or ``speak`` it when the caller has taken a newer turn than the one it answers.

        Raises:
            SessionEnded: The session is over.
            InvalidInput: The text is empty.
        """
        if not isinstance(text, str) or not text.strip():
            shown = "no words" if isinstance(text, str) else f"a {type(text).__name__}"
            hint = "Await the call whose result it speaks." if isinstance(text, Awaitable) else None
            raise InvalidInput(f"say() was given {shown}; it takes the text to speak.", hint=hint, field="text")
        if stale not in ("drop", "speak"):
            raise InvalidInput(f"say(stale={stale!r}): stale must be 'drop' or 'speak'.", field="stale")
        self._require_live()
        op_id = new_id("op")
        answer = self._ask("say", {"text": text, "interruptible": interruptible, "stale": stale}, op_id=op_id)
        answer.add_done_callback(lambda done: self._add_to_history(done, lambda value: value))
        return Speech(op_id, text, answer, self._cancel_speech)

    @must_await("session", _dropped)
    @checked_arguments
    async def reply(self, *, instructions: str | None = None, tools: Sequence[str] | None = None) -> Reply:
        """Let the model answer this turn, and wait until the answer was spoken.

        Args:
            instructions: Instructions for this answer, in addition to the session's own.
            tools: Targets of the session's allowlist that the model may call, None for all of them.

        Raises:
            SessionEnded: The session is over.
        """
        self._require_live()
        op_id = new_id("op")
        args = {"instructions": instructions, "tools": None if tools is None else list(tools)}
        answer = self._ask("reply", args, op_id=op_id)
        answer.add_done_callback(lambda done: self._add_to_history(done, lambda value: value.get("spoken") or {}))
        try:
            return Reply.model_validate(await asyncio.shield(answer))
        except asyncio.CancelledError:
            self._cancel_speech(op_id)
            raise

    @must_await("session", _dropped)
    @checked_arguments
    async def call(
        self,
        target: str,
        /,
        *,
        filler: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 -- the control plane enforces it
        **input: Any,  # noqa: A002 -- the field name of the frame
    ) -> Any:
        """Run a target through the control plane, as part of this session and its open turn.

        Args:
            target: ``node.name``.
            filler: Text to speak when the answer takes longer than a moment.
            timeout: Seconds that the call may take, None for no limit.
            **input: The target's input; any JSON values, and turns.

        Raises:
            ExecutionError: The call did not succeed; the subclass says how.
            AgentFieldError: The control plane refused the call.
        """
        check_target(target)
        check_seconds(timeout)
        args = {"target": target, "input": input, "timeout": timeout, "filler": filler}
        op_id = new_id("op")
        answer = self._ask("call", args, op_id=op_id)
        try:
            return await answer
        finally:
            if not answer.done() or answer.cancelled():
                self._sender.forget(op_id)

    @checked_arguments
    async def events(self) -> AsyncIterator[Event]:
        """Iterate over the events of the conversation from now on, until it ends."""
        self._require_live()
        queue = _EventQueue()
        self._event_queues.append(queue)
        try:
            if not self._listening:
                self._listening = True
                self._ask("listen").add_done_callback(_retrieved)
            async for event in queue:
                yield event
        finally:
            self._event_queues.remove(queue)

    @must_await("session", _dropped)
    @checked_arguments
    async def save(self) -> None:
        """Make `state` durable now.

        Raises:
            LimitExceeded: The state is larger than 16 KiB.
            InvalidInput: The state holds a value that is not JSON.
        """
        state, self._saved = self._encode_state()
        await asyncio.shield(self._ask("set_state", {"state": state}))

    @must_await("session", _dropped)
    @checked_arguments
    async def end(self, reason: str = "handler_ended") -> None:
        """End the session and wait until the control plane has recorded it; idempotent."""
        if self._ended is not None:
            return
        try:
            await asyncio.shield(self._ask("end", {"reason": reason}))
        except SessionEnded:
            return  # the session ended before the command arrived
        finally:
            self.mark_ended(reason)

    # --- for the link -------------------------------------------------------------------------------------------

    def mark_ended(self, reason: str) -> None:
        """Mark the session as ended: `input`, `say` and `reply` raise from now on."""
        if self._ended is None:
            self._ended = reason
            for queue in self._event_queues:
                queue.close()

    def note_dropped(self, error: NotAwaited) -> None:
        """Raise `error` at the next command and when the handler returns: a command was never awaited, so it did not run."""
        self._forgotten = self._forgotten or error

    def deliver_event(self, event: dict[str, Any]) -> None:
        """Give an event to every running iteration of `events`; put late words of the caller into the history."""
        match event:
            case {"type": "turn.transcript", "late": True, "turn_id": str(turn_id), "text": str(text)}:
                self._add_late_words(turn_id, text)
        fields = {key: value for key, value in event.items() if key not in {"speech_id", "turn_id"}}
        try:
            parsed: Event = event_adapter.validate_python(fields)
        except ValidationError:
            return  # an event type of a newer control plane, which this version cannot represent
        for queue in self._event_queues:
            queue.put(parsed)

    def flush(self) -> None:
        """Send `state` if it changed since it was last sent, without waiting.

        Raises:
            LimitExceeded: The state is larger than 16 KiB.
            InvalidInput: The state holds a value that is not JSON.
            NotAwaited: A command of this session was never awaited, so it did not run.
        """
        self._require_awaited()
        state, packed = self._encode_state()
        if packed != self._saved:
            self._saved = packed
            self._send("set_state", {"state": state}).add_done_callback(_retrieved)

    # --- inside -------------------------------------------------------------------------------------------------

    def _require_awaited(self) -> None:
        error, self._forgotten = self._forgotten, None
        if error is not None:
            raise error

    def _require_live(self) -> None:
        self._require_awaited()
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
        # A frame that cannot be encoded must not be kept: it would be sent again on each new link.
        args = args or {}
        if command in _TEXTS:
            # large integers of a call's input stay until the control plane compares them with the target's schema
            args = {name: jsonable(value, name=name, untyped="keep") for name, value in args.items()}
        frame = SessionCommand(
            op_id=op_id or new_id("op"), session_id=self.id, epoch=self._epoch, command=command, args=args
        )
        answer = self._sender.ask(frame)
        answer.add_done_callback(self._note_ended)
        return answer

    def _note_ended(self, answer: asyncio.Future[Any]) -> None:
        """Mark the session as ended if a command was refused for that: the refusal may overtake the `SessionStop` frame."""
        if not answer.cancelled() and isinstance(error := answer.exception(), SessionEnded):
            self.mark_ended(str(error.data.get("reason", "ended")))

    def _cancel_speech(self, op_id: str) -> None:
        if self._ended is None:
            self._send("cancel_speech", {"op_id": op_id}).add_done_callback(_retrieved)

    def _add_to_history(self, answer: asyncio.Future[Any], spoken: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        if answer.cancelled() or answer.exception() is not None or not isinstance(answer.result(), dict):
            return
        fields = spoken(answer.result())
        self._history.append({"role": "agent", **{k: fields.get(k) for k in ("asked", "generated", "heard_text")}})

    def _add_late_words(self, turn_id: str, text: str) -> None:
        for index, entry in enumerate(self._history):
            if entry.get("role") == "caller" and entry.get("turn_id") == turn_id:
                self._history[index] = {**entry, "text": text}
                return
        if len(self._late_words) < _MAX_LATE:
            self._late_words[turn_id] = text

    def _encode_state(self) -> tuple[dict[str, Any], bytes]:
        state = to_json(self.state, name="state")
        if len(state) > MAX_STATE_BYTES:
            raise LimitExceeded(
                f"The state of a session may be {MAX_STATE_BYTES} bytes of JSON; this one is {len(state)}.",
                hint="Keep large values in a store of your own and their keys in session.state.",
            )
        return state.value, state.canonical


class _EventQueue:
    """Bounded queue of the events of one iteration; the oldest are dropped."""

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

    def __aiter__(self) -> _EventQueue:
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
    """Mark a future's exception as retrieved, so that asyncio does not log it when nobody awaits the future."""
    if not answer.cancelled():
        answer.exception()
