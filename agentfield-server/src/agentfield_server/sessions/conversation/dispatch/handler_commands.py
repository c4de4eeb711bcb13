"""Dispatch of the handler's commands: each once, from the current run only, and as far as the session allows."""

from __future__ import annotations

from agentfield.errors import CapabilityMissing, Conflict, InvalidInput
from agentfield_server.sessions.conversation.effects import ResolveOp
from agentfield_server.sessions.conversation.handler_loop import HandlerLoop
from agentfield_server.sessions.conversation.inputs import (
    CancelSpeech,
    HandlerCall,
    HandlerCommand,
    HandlerEnd,
    HandlerInput,
    HandlerReply,
    HandlerSay,
)
from agentfield_server.sessions.conversation.lifecycle import SessionLifecycle
from agentfield_server.sessions.conversation.speech.sequencer import SpeechSequencer
from agentfield_server.sessions.conversation.state import MachineState
from agentfield_server.sessions.conversation.timers import TimerKind
from agentfield_server.sessions.conversation.tools.calls import ToolCallTracker
from agentfield_server.sessions.conversation.transitions import EndReason, SessionPhase
from agentfield_server.sessions.conversation.turns import TurnTracker

__all__ = ["HandlerCommandDispatcher"]


class HandlerCommandDispatcher:
    """Passes each command of the handler to the part that executes it.

    Args:
        state: State shared with the other parts.
        turns: Gives the turn that a speech answers.
        speech: Executes `say`, `reply` and `cancel`.
        calls: Executes `call`.
        handler: Executes `input`, and knows the current run.
        lifecycle: Executes `end`.
    """

    def __init__(
        self,
        state: MachineState,
        turns: TurnTracker,
        speech: SpeechSequencer,
        calls: ToolCallTracker,
        handler: HandlerLoop,
        lifecycle: SessionLifecycle,
    ) -> None:
        self._state = state
        self._turns = turns
        self._speech = speech
        self._calls = calls
        self._handler = handler
        self._lifecycle = lifecycle

    def dispatch(self, command: HandlerCommand) -> None:
        """Execute or reject a command; a command that was answered before gets the same answer again."""
        if not self._state.ops.admit(command.op_id):
            return
        if command.epoch != self._handler.epoch:
            error = Conflict(
                "this handler run was superseded by a newer one",
                code="stale_handler",
                epoch=command.epoch,
            )
            self._state.ops.reject(command.op_id, error)
        elif isinstance(command, HandlerCall):
            self._call(command)
        elif self._state.over:
            self._state.ops.reject(command.op_id, self._state.ended_error())
        else:
            self._live(command)

    # --- inside

    def _live(self, command: HandlerCommand) -> None:
        match command:
            case HandlerInput():
                self._handler.input(command)
            case HandlerSay() if not (command.interruptible or self._state.capabilities.uninterruptible):
                self._state.ops.reject(command.op_id, self._cannot_protect())
            case HandlerSay():
                self._speech.enqueue(
                    "say",
                    asked=command.text,
                    interruptible=command.interruptible,
                    stale=command.stale,
                    turn=self._turns.current,
                    op_id=command.op_id,
                )
            case HandlerReply() if (unlisted := self._unlisted(command)) is not None:
                self._state.ops.reject(command.op_id, unlisted)
            case HandlerReply():
                self._speech.enqueue(
                    "reply",
                    instructions=command.instructions,
                    tools=command.tools,
                    turn=self._turns.current,
                    op_id=command.op_id,
                )
            case CancelSpeech():
                self._speech.cancel(command.speech_op)
                self._state.ops.answer(ResolveOp(command.op_id))
            case HandlerEnd():
                self._state.ops.answer(ResolveOp(command.op_id))
                detail = None if command.reason == EndReason.HANDLER_ENDED else command.reason
                self._lifecycle.end(HandlerEnd, EndReason.HANDLER_ENDED, detail)

    def _cannot_protect(self) -> CapabilityMissing:
        declared = self._state.config.declaration
        error = CapabilityMissing(
            f"{declared.provider}/{declared.transport} cannot speak a text to its end while the caller speaks.",
            hint="leave out interruptible=False, or use a pair of: af adapters --needs uninterruptible=yes",
            missing=["uninterruptible"],
        )
        # a handler that does not await the speech would not learn of it
        self._state.warn(error.code, error.message)
        return error

    def _unlisted(self, command: HandlerReply) -> InvalidInput | None:
        listed = [tool.target for tool in self._state.config.tools]
        unlisted = sorted(set(command.tools or ()) - set(listed))
        if not unlisted:
            return None
        return InvalidInput(
            f"reply(tools=...) names {', '.join(unlisted)}, which tools=[...] of the session does not list.",
            code="unlisted_tool",
            hint=f"listed: {', '.join(listed) or 'none'}",
            field="tools",
        )

    def _call(self, command: HandlerCall) -> None:
        if self._state.phase is SessionPhase.ENDED and TimerKind.GRACE not in self._state.timers:
            self._state.ops.reject(command.op_id, self._state.ended_error())
            return
        self._calls.run_for_handler(command)
