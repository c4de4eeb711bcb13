"""Tool calls of the model, and calls of the handler.

The tracker decides which calls of the model run and which are refused, when results are sent, and when the model is
asked to speak about them. The calls of one reply form a batch; it is answered when all results are there, or `GATHER`
after the first one, or `PENDING_AFTER` without any. A call without a result is answered as pending, and its result
follows as text.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agentfield.errors import InvalidInput
from agentfield.realtime.commands import AddTextCommand, ToolResultCommand
from agentfield.realtime.config import ToolSpec
from agentfield.realtime.events import ToolCancelled, ToolRequested, ToolTampered
from agentfield_server.sessions.conversation.effects import CancelTool, RejectOp, ResolveCall, RunTool
from agentfield_server.sessions.conversation.inputs import (
    HandlerCall,
    OpenCallSnapshot,
    Snapshot,
    ToolFinished,
    ToolStarted,
)
from agentfield_server.sessions.conversation.speech.sequencer import SpeechSequencer
from agentfield_server.sessions.conversation.state import MachineState, TurnRecord
from agentfield_server.sessions.conversation.timers import TimerKind
from agentfield_server.sessions.conversation.tools.batch import (
    ToolCall,
    ToolCallBatch,
    ToolCallState,
    arguments_of,
    as_text,
    refusal,
)
from agentfield_server.sessions.conversation.tools.follow_up import FollowUp
from agentfield_server.sessions.conversation.tools.redaction import Redactor
from agentfield_server.sessions.conversation.turns import TurnTracker

__all__ = ["GATHER", "PENDING_AFTER", "ToolCallTracker"]

GATHER = 2.0
"""Seconds after the first result of a batch within which the other results are awaited."""
PENDING_AFTER = 20.0
"""Seconds after which a batch without any result is answered as pending, so that the model may speak."""
FILLER_AFTER = 0.8
"""Seconds after which the filler of a handler's call is spoken."""
_TAMPERED_WAIT = 3.0
"""Seconds within which the client that answered a call by itself also asks for a reply about its answer."""
_MAX_OPEN = 64


class ToolCallTracker:
    """All calls of a session.

    Args:
        state: State shared with the other parts.
        turns: Turns that calls belong to.
        speech: Asks the model to speak about results; tells which replies are interrupted.
        redact: Redacts the input of a call before anything of it is recorded.
    """

    def __init__(self, state: MachineState, turns: TurnTracker, speech: SpeechSequencer, redact: Redactor) -> None:
        self._state = state
        self._turns = turns
        self._speech = speech
        self._redact = redact
        self._calls: dict[str, ToolCall] = {}
        self._used_ids: set[str] = set()
        """Every call id of the session: a second use is refused."""
        self._batches: dict[str, ToolCallBatch] = {}
        self._handler_calls: set[str] = set()
        """Op ids of the handler's running calls."""
        self._fillers: dict[str, str] = {}
        self._unanswered: tuple[OpenCallSnapshot, ...] = ()
        self.count = 0
        self.over_limit = False
        self.follow_up = FollowUp(state, turns, speech)
        """Speaks about results."""
        speech.on_interrupt = self.interrupted

    # --- the model's calls

    def requested(self, event: ToolRequested) -> None:
        """Run or refuse a tool call of the model."""
        if event.call_id in self._used_ids:
            self._refuse_again(event)
            return
        self._used_ids.add(event.call_id)
        why = self._check(event)
        if why is not None:
            self._refuse(event, why)
            return
        spec = next(tool for tool in self._state.config.tools if tool.target == event.name)
        try:
            args = arguments_of(event.arguments, spec.parameters)
        except InvalidInput as error:
            self._refuse(event, error.code, error)
            return
        self._run(event, spec, args)

    def started(self, event: ToolStarted) -> None:
        """Note the execution of a call."""
        call = self._calls.get(event.call_id)
        if call is not None:
            call.execution_id = event.execution_id
            call.note["execution_id"] = event.execution_id

    def finished(self, event: ToolFinished) -> None:
        """Take the end of a call of the model or of the handler."""
        for note in event.notes:
            self._state.emit(note)
        if event.call_id in self._handler_calls:
            self._handler_calls.discard(event.call_id)
            self._fillers.pop(event.call_id, None)
            self._state.timers.clear(TimerKind.FILLER, event.call_id)
            self._answer_handler(event)
            return
        call = self._calls.pop(event.call_id, None)
        if call is None:
            return
        call.execution_id = event.execution_id or call.execution_id
        was, call.state = call.state, ToolCallState.DONE
        if self._state.over:
            return
        text = as_text(event.value, event.problem)
        if was is ToolCallState.RUNNING:
            self._answer(call, text)
        elif was is ToolCallState.PENDING:
            self._add_later(call, text)

    def taken_back(self, event: ToolCancelled) -> None:
        """Forget a call that the provider takes back; its execution is cancelled if its target asks for that."""
        call = self._calls.pop(event.call_id, None)
        if call is None or self._state.over:
            return  # it was refused or answered already
        call.state = ToolCallState.TAKEN_BACK
        self._state.record("tool.cancelled", call_id=call.call_id, execution_id=call.execution_id)
        if call.on_interrupt == "cancel":
            self._state.emit(CancelTool(call.call_id, "the provider took the call back"))

    def tampered(self, event: ToolTampered) -> None:
        """Warn that the caller's client answered a call by itself, and stop the reply that it asks for about its answer."""
        message = f"the caller's client added a result for tool call {event.call_id}; it was deleted"
        self._state.warn("tampered_output", message)
        self._speech.unasked.stop_for(_TAMPERED_WAIT)

    def interrupted(self, reply: str) -> None:
        """Cancel the running calls of an interrupted reply whose tool asks for that."""
        batch = self._batches.get(reply)
        for call in batch.calls if batch else ():
            if call.state is ToolCallState.RUNNING and call.on_interrupt == "cancel":
                call.state = ToolCallState.DONE
                self._calls.pop(call.call_id, None)
                self._state.emit(CancelTool(call.call_id))
                self._answer(call, as_text(None, {"code": "interrupted", "detail": "the caller interrupted"}))

    # --- the handler's calls

    def run_for_handler(self, command: HandlerCall) -> None:
        """Run a call of the handler."""
        turn = self._turns.current
        open_turn = turn is not None and turn.turn_id in self._turns.open
        run = RunTool(
            call_id=command.op_id,
            target=command.target,
            args=command.args,
            turn_id=turn.turn_id if turn is not None and open_turn else None,
            kind="call",
            timeout=command.timeout,
        )
        redacted = self._redact(run)
        for note in redacted.notes:
            self._state.emit(note)
        if redacted.problem is not None:
            self._state.ops.answer(RejectOp(command.op_id, dict(redacted.problem)))
            return
        self._handler_calls.add(command.op_id)
        if command.filler is not None:
            self._fillers[command.op_id] = command.filler
            self._state.timers.set(TimerKind.FILLER, self._state.now + FILLER_AFTER, command.op_id)
        self._state.emit(replace(run, args=redacted.args))

    @property
    def handler_calls(self) -> frozenset[str]:
        """Op ids of the handler's running calls."""
        return frozenset(self._handler_calls)

    # --- answers and follow-ups

    def has_call_of(self, turn: TurnRecord) -> bool:
        """Return whether a turn has unanswered calls, or results that the model is to speak about."""
        return self.follow_up.is_about(turn) or any(
            batch.turn is turn and not batch.answered for batch in self._batches.values()
        )

    def settle(self) -> None:
        """Answer batches that are complete or have waited long enough, then ask the model to continue if it can."""
        for batch in [batch for batch in self._batches.values() if not batch.answered]:
            self._settle_batch(batch)
        requested = self.follow_up.replies
        for reply in [
            reply for reply in self._speech.log.awaiting_tools if reply not in self._batches and reply not in requested
        ]:
            self._speech.log.answer_without_tools(reply)
        self.follow_up.settle()

    def flush_batches(self) -> None:
        """Answer all batches now: the conversation moves to one without these calls, where later results go in as text."""
        for batch in [batch for batch in self._batches.values() if not batch.answered]:
            batch.flush_at = self._state.now
            self._settle_batch(batch)

    def pending_texts(self) -> list[str]:
        """Return the texts that tell a new conversation about calls that the model has not spoken about."""
        pending = [call for call in self._calls.values() if call.state is ToolCallState.PENDING]
        return [call.as_context() for call in (*self.follow_up.unspoken, *pending)]

    @property
    def quiet(self) -> bool:
        """Whether no call of the model awaits an answer and no follow-up is requested."""
        return self.follow_up.quiet and not self._batches

    def filler_due(self, op_id: str) -> None:
        """Speak the filler of a handler's call that still runs."""
        text = self._fillers.pop(op_id, None)
        if text is not None and op_id in self._handler_calls and self._state.live:
            self._speech.enqueue("say", asked=text, turn=self._turns.current)

    def restore(self, snapshot: Snapshot) -> None:
        """Restore the calls of an earlier control plane."""
        self._used_ids.update(snapshot.call_ids)
        self._unanswered = snapshot.open_calls
        self.count = snapshot.tool_calls

    def resume(self, *, moved: bool = False) -> None:
        """Await the results of calls that a restart cut off; the engine knows their executions, so nothing runs twice.

        Args:
            moved: Whether the provider's conversation does not contain these calls, so that their results go in as text.
        """
        unanswered, self._unanswered = self._unanswered, ()
        for known in unanswered:
            turn = self._turns.newest
            call = ToolCall(known.call_id, known.target, turn, "keep")
            self._calls[call.call_id] = call
            if moved:
                call.state = ToolCallState.PENDING
                self._state.send(AddTextCommand(item=self._state.ids("op")[:32], text=call.as_context(), role="system"))
            else:
                batch = self._batch("resumed")
                batch.calls.append(call)
                self._arm(batch, PENDING_AFTER)
            turn_id = turn.turn_id if turn is not None else None
            self._state.emit(
                RunTool(
                    call_id=call.call_id,
                    target=call.target,
                    args=known.args,
                    turn_id=turn_id,
                    kind="tool",
                    resumed=True,
                )
            )

    # --- inside

    def _check(self, event: ToolRequested) -> str | None:
        """Return why a call is refused, whatever its arguments are."""
        if self._state.over:
            return "session_ending"
        if event.name not in {tool.target for tool in self._state.config.tools}:
            return "not_listed"
        if not self._offered(event):
            return "not_offered"
        limit = self._state.config.declaration.limits.tool_calls
        if limit is not None and self.count >= limit:
            self.over_limit = True
            return "limit"
        if len(self._calls) >= _MAX_OPEN:
            return "too_many_open"
        return None

    def _offered(self, event: ToolRequested) -> bool:
        origin = self._speech.utterance_of(event.reply)
        if origin is None:
            return self._state.model_floor
        if origin.kind != "reply":
            return False
        if origin.requested and not self._state.model_floor and origin.op_id is None:
            return False
        return origin.tools is None or event.name in origin.tools

    def _refuse_again(self, event: ToolRequested) -> None:
        self._state.record("tool.refused", call_id=event.call_id, name=event.name, why="duplicate_call_id")
        if event.call_id not in self._calls:
            self._state.send(ToolResultCommand(call_id=event.call_id, output=refusal("duplicate_call_id", event.name)))

    def _refuse(self, event: ToolRequested, why: str, error: InvalidInput | None = None) -> None:
        field = {} if error is None or "field" not in error.data else {"field": error.data["field"]}
        self._state.record("tool.refused", call_id=event.call_id, name=event.name, why=why, **field)
        self._state.send(ToolResultCommand(call_id=event.call_id, output=refusal(why, event.name, error)))
        if not self._state.over:
            batch = self._batch(event.reply)
            self._count_result(batch)

    def _run(self, event: ToolRequested, spec: ToolSpec, args: dict[str, Any]) -> None:
        batch = self._batch(event.reply)
        open_turn = batch.turn is not None and batch.turn.turn_id in self._turns.open
        turn_id = batch.turn.turn_id if batch.turn is not None and open_turn else None
        run = RunTool(call_id=event.call_id, target=event.name, args=args, turn_id=turn_id, kind="tool")
        redacted = self._redact(run)
        if redacted.problem is not None:
            for note in redacted.notes:
                self._state.emit(note)
            self._refuse(event, "middleware_failed")
            return
        self.count += 1
        call = ToolCall(event.call_id, event.name, batch.turn, spec.on_interrupt)
        self._calls[call.call_id] = call
        batch.calls.append(call)
        origin = self._speech.utterance_of(event.reply)
        if origin is not None:
            call.note = {"call_id": call.call_id, "target": call.target, "execution_id": None}
            origin.call_notes.append(call.note)
        if not batch.results:
            self._arm(batch, PENDING_AFTER)
        about = {"call_id": call.call_id, "target": call.target, "turn_id": turn_id}
        self._state.record("tool.requested", **about, arguments=redacted.args)
        for note in redacted.notes:
            self._state.emit(note)
        self._state.emit(replace(run, args=redacted.args))

    def _batch(self, reply: str) -> ToolCallBatch:
        batch = self._batches.get(reply)
        if batch is None:
            origin = self._speech.utterance_of(reply)
            turn = origin.turn if origin is not None else self._turns.newest
            batch = self._batches[reply] = ToolCallBatch(reply, turn)
        batch.answered = False
        return batch

    def _count_result(self, batch: ToolCallBatch) -> None:
        batch.results += 1
        if batch.results == 1:
            self._arm(batch, GATHER)

    def _arm(self, batch: ToolCallBatch, seconds: float) -> None:
        """Set when a batch has waited long enough."""
        batch.flush_at = self._state.now + seconds
        self._state.timers.set(TimerKind.TOOL_BATCH, batch.flush_at, batch.reply)

    def _answer(self, call: ToolCall, text: str) -> None:
        self._state.record("tool.answered", call_id=call.call_id, execution_id=call.execution_id, pending=False)
        self._state.send(ToolResultCommand(call_id=call.call_id, output=text))
        self._keep(call, text)
        for batch in self._batches.values():
            if call in batch.calls:
                self._count_result(batch)

    def _add_later(self, call: ToolCall, text: str) -> None:
        """Send the result of a call that was answered as pending."""
        self._state.record("tool.answered", call_id=call.call_id, execution_id=call.execution_id, pending=False)
        self._keep(call, text)
        words = f"The result of {call.target} (call {call.call_id}), which was pending, is: {text}"
        self._state.send(AddTextCommand(item=self._state.ids("op")[:32], text=words, role="system"))
        if self._state.model_floor:
            self.follow_up.request(call.turn, [])

    def _keep(self, call: ToolCall, text: str) -> None:
        call.output = text
        self.follow_up.unspoken.append(call)
        del self.follow_up.unspoken[:-_MAX_OPEN]

    def _settle_batch(self, batch: ToolCallBatch) -> None:
        # a reply that is still generated may call more tools: they belong to the same batch
        if self._speech.is_generating(batch.reply):
            return
        running = [call for call in batch.calls if call.state is ToolCallState.RUNNING]
        if running and self._state.now < batch.flush_at:
            return
        for call in running:
            call.state = ToolCallState.PENDING
            self._state.record("tool.answered", call_id=call.call_id, execution_id=call.execution_id, pending=True)
            self._state.send(ToolResultCommand(call_id=call.call_id, output='{"status":"pending"}'))
        batch.answered = True
        self._state.timers.clear(TimerKind.TOOL_BATCH, batch.reply)
        self._batches.pop(batch.reply)
        if any(call.state is ToolCallState.TAKEN_BACK for call in batch.calls):
            return  # the provider gave up the reply that these calls were for
        if batch.reply in self._speech.log.awaiting_tools or self._state.model_floor:
            by_provider = self._state.answers_after("tool_result")
            self.follow_up.request(batch.turn, [batch.reply], by_provider=by_provider)

    def _answer_handler(self, event: ToolFinished) -> None:
        if event.problem is not None:
            self._state.ops.answer(RejectOp(event.call_id, event.problem))
        else:
            self._state.ops.answer(ResolveCall(event.call_id, event.value, event.execution_id))
