"""What a handler orders: each command once, only from its current run, and only as far as the session allows."""

from __future__ import annotations

from agentfield.errors import Conflict, InvalidInput
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.board import Board
from agentfield_server.sessions.calls import ToolDesk
from agentfield_server.sessions.effects import ResolveOp
from agentfield_server.sessions.handler import HandlerLoop
from agentfield_server.sessions.life import Life
from agentfield_server.sessions.speech import Sequencer
from agentfield_server.sessions.turns import TurnBook

__all__ = ["Orders"]


class Orders:
    """Takes the commands of a handler to the part that carries them out."""

    def __init__(
        self, board: Board, turns: TurnBook, speech: Sequencer, calls: ToolDesk, handler: HandlerLoop, life: Life
    ) -> None:
        self._board = board
        self._turns = turns
        self._speech = speech
        self._calls = calls
        self._handler = handler
        self._life = life

    def take(self, command: i.HandlerCommand) -> None:
        """Carry out a command, or refuse it; one that was answered is answered again the same way."""
        if not self._board.ops.admit(command.op_id):
            return
        if command.epoch != self._handler.epoch:
            error = Conflict(
                "this run of the handler is over; another one has the session",
                code="stale_handler",
                epoch=command.epoch,
            )
            self._board.ops.refuse(command.op_id, error)
        elif isinstance(command, i.HandlerCall):
            self._call(command)
        elif self._board.over:
            self._board.ops.refuse(command.op_id, self._board.ended_error())
        else:
            self._live(command)

    # --- inside

    def _live(self, command: i.HandlerCommand) -> None:
        match command:
            case i.HandlerInput():
                self._handler.input(command)
            case i.HandlerSay():
                self._speech.ask(
                    "say",
                    asked=command.text,
                    interruptible=command.interruptible,
                    stale=command.stale,
                    turn=self._turns.current,
                    op_id=command.op_id,
                )
            case i.HandlerReply() if (unlisted := self._unlisted(command)) is not None:
                self._board.ops.refuse(command.op_id, unlisted)
            case i.HandlerReply():
                self._speech.ask(
                    "reply",
                    instructions=command.instructions,
                    tools=command.tools,
                    turn=self._turns.current,
                    op_id=command.op_id,
                )
            case i.CancelSpeech():
                self._speech.take_back(command.speech_op)
                self._board.ops.answer(ResolveOp(command.op_id))
            case i.HandlerEnd():
                self._board.ops.answer(ResolveOp(command.op_id))
                self._life.end("handler_ended", None if command.reason == "handler_ended" else command.reason)

    def _unlisted(self, command: i.HandlerReply) -> InvalidInput | None:
        listed = [tool.target for tool in self._board.config.tools]
        strange = sorted(set(command.tools or ()) - set(listed))
        if not strange:
            return None
        return InvalidInput(
            f"reply(tools=...) names {', '.join(strange)}, which tools=[...] of the session does not list.",
            code="unlisted_tool",
            hint=f"listed: {', '.join(listed) or 'none'}",
            field="tools",
        )

    def _call(self, command: i.HandlerCall) -> None:
        if self._board.state == "ended" and "grace" not in self._board.timers:
            self._board.ops.refuse(command.op_id, self._board.ended_error())
            return
        self._calls.call(command)
