"""Tools: what the model may call, what is refused, when results go in and when the model is asked to go on."""

from __future__ import annotations

from typing import Any

from agentfield.realtime.commands import AddText, SendToolResult
from agentfield.realtime.events import ToolRequested
from agentfield_server.sessions.board import Board
from agentfield_server.sessions.effects import CancelTool, Refuse, ResolveCall, RunTool
from agentfield_server.sessions.inputs import HandlerCall, OpenCallSnapshot, Snapshot, ToolFinished, ToolStarted
from agentfield_server.sessions.speech import Sequencer
from agentfield_server.sessions.toolcalls import Batch, Call, Wish, arguments_of, as_text, refusal
from agentfield_server.sessions.turns import TurnBook, TurnRecord

__all__ = ["GATHER", "PENDING_AFTER", "ToolDesk"]

GATHER = 2.0
"""Seconds after the first result of parallel calls in which the others are waited for."""
PENDING_AFTER = 20.0
"""Seconds after which calls without any result are answered as pending, so that the model may speak."""
FILLER_AFTER = 0.8
"""Seconds after which a handler's call counts as taking longer than a moment."""
_NEWER_TURN_WAIT = 5.0
_MAX_OPEN = 64


class ToolDesk:
    """All calls of a session."""

    def __init__(self, board: Board, turns: TurnBook, speech: Sequencer) -> None:
        self._board = board
        self._turns = turns
        self._speech = speech
        self._calls: dict[str, Call] = {}
        self._used: set[str] = set()
        self._batches: dict[str, Batch] = {}
        self._own: set[str] = set()
        """Handler calls that run."""
        self._fillers: dict[str, str] = {}
        self._unanswered: tuple[OpenCallSnapshot, ...] = ()
        self.wish: Wish | None = None
        self.count = 0
        self.over_limit = False
        self._fresh: list[Call] = []
        """Calls with a result that the model has not spoken about."""
        speech.on_cut = self.interrupted

    # --- the model's calls

    def requested(self, event: ToolRequested) -> None:
        """The model wants a tool."""
        if event.call_id in self._used:
            self._refuse_again(event)
            return
        self._used.add(event.call_id)
        why, args = self._judge(event)
        if why is not None or args is None:
            self._refuse(event, why or "bad_arguments")
            return
        self._run(event, args)

    def started(self, event: ToolStarted) -> None:
        """The execution of a call exists."""
        call = self._calls.get(event.call_id)
        if call is not None:
            call.execution_id = event.execution_id
            call.note["execution_id"] = event.execution_id

    def finished(self, event: ToolFinished) -> None:
        """A call came to an end."""
        for note in event.notes:
            self._board.emit(note)
        if event.call_id in self._own:
            self._own.discard(event.call_id)
            self._fillers.pop(event.call_id, None)
            self._board.timers.clear(f"filler:{event.call_id}")
            self._answer_handler(event)
            return
        call = self._calls.pop(event.call_id, None)
        if call is None:
            return
        call.execution_id = event.execution_id or call.execution_id
        was, call.state = call.state, "done"
        if self._board.over:
            return
        text = as_text(event.value, event.problem)
        if was == "running":
            self._answer(call, text)
        elif was == "pending":
            self._add_later(call, text)

    def interrupted(self, reply: str) -> None:
        """A reply was interrupted: calls that say so are cancelled."""
        batch = self._batches.get(reply)
        for call in batch.calls if batch else ():
            if call.state == "running" and call.on_interrupt == "cancel":
                call.state = "done"
                self._calls.pop(call.call_id, None)
                self._board.emit(CancelTool(call.call_id))
                self._answer(call, as_text(None, {"code": "interrupted", "detail": "the caller interrupted"}))

    # --- the handler's calls

    def call(self, command: HandlerCall) -> None:
        """Run a target for the handler."""
        self._own.add(command.op_id)
        if command.filler is not None:
            self._fillers[command.op_id] = command.filler
            self._board.timers.set(f"filler:{command.op_id}", self._board.now + FILLER_AFTER)
        turn = self._turns.current
        open_turn = turn is not None and turn.turn_id in self._turns.open
        self._board.emit(
            RunTool(
                call_id=command.op_id,
                target=command.target,
                args=command.args,
                turn_id=turn.turn_id if turn is not None and open_turn else None,
                kind="call",
                timeout=command.timeout,
            )
        )

    @property
    def running(self) -> frozenset[str]:
        """The handler's calls that run."""
        return frozenset(self._own)

    # --- what follows

    def busy(self, turn: TurnRecord) -> bool:
        """Tell whether a turn has calls without an answer, or results that the model has not spoken about."""
        wanted = self.wish is not None and self.wish.turn is turn
        return wanted or any(batch.turn is turn and not batch.answered for batch in self._batches.values())

    def settle(self) -> None:
        """Close batches that are complete or have waited long enough, then ask the model to go on if it can."""
        for batch in [batch for batch in self._batches.values() if not batch.answered]:
            self._settle_batch(batch)
        wished = self.wish.replies if self.wish is not None else []
        for reply in [
            reply for reply in self._speech.answers.parked if reply not in self._batches and reply not in wished
        ]:
            self._speech.answers.unpark(reply)
        if self.wish is not None:
            self._grant(self.wish)

    def model_spoke(self) -> None:
        """The model began to speak after the last result: it knows, nobody needs to ask."""
        self._fresh.clear()
        if self.wish is not None:
            self._drop_wish(self.wish)

    def move(self) -> None:
        """The conversation goes on in another one that does not hold the calls: what comes later goes in as text."""
        for batch in [batch for batch in self._batches.values() if not batch.answered]:
            batch.flush_at = self._board.now
            self._settle_batch(batch)

    def in_words(self) -> list[str]:
        """Return what the other conversation is to be told of calls that the model has not spoken about."""
        pending = [call for call in self._calls.values() if call.state == "pending"]
        return [call.in_words() for call in (*self._fresh, *pending)]

    @property
    def quiet(self) -> bool:
        """Whether no call of the model is on its way to an answer, and the model is not to go on about any."""
        return self.wish is None and not self._batches

    def filler_due(self, op_id: str) -> None:
        """A handler's call takes longer than a moment: say so."""
        text = self._fillers.pop(op_id, None)
        if text is not None and op_id in self._own and self._board.live:
            self._speech.ask("say", asked=text, turn=self._turns.current)

    def restore(self, snapshot: Snapshot) -> None:
        """Remember calls of an earlier control plane."""
        self._used.update(snapshot.call_ids)
        self._unanswered = snapshot.open_calls
        self.count = snapshot.tool_calls

    def resume(self, *, moved: bool = False) -> None:
        """Wait again for the results of calls that were under way; the engine knows them, nothing runs twice.

        Args:
            moved: Whether the conversation does not hold these calls, so that their results go in as text.
        """
        unanswered, self._unanswered = self._unanswered, ()
        for known in unanswered:
            turn = self._turns.newest
            call = Call(known.call_id, known.target, turn, "keep")
            self._calls[call.call_id] = call
            if moved:
                call.state = "pending"
                self._board.send(AddText(item=self._board.ids("op")[:32], text=call.in_words(), role="system"))
            else:
                batch = self._batch("resumed")
                batch.calls.append(call)
                self._arm(batch, PENDING_AFTER)
            turn_id = turn.turn_id if turn is not None else None
            self._board.emit(
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

    def _judge(self, event: ToolRequested) -> tuple[str | None, dict[str, Any] | None]:
        """Return why a call is refused, or its arguments."""
        if self._board.over:
            return "session_ending", None
        if event.name not in {tool.target for tool in self._board.config.tools}:
            return "not_listed", None
        if not self._offered(event):
            return "not_offered", None
        limit = self._board.config.declaration.limits.tool_calls
        if limit is not None and self.count >= limit:
            self.over_limit = True
            return "limit", None
        if len(self._calls) >= _MAX_OPEN:
            return "too_many_open", None
        args = arguments_of(event.arguments)
        return (None, args) if args is not None else ("bad_arguments", None)

    def _offered(self, event: ToolRequested) -> bool:
        origin = self._speech.origin(event.reply)
        if origin is None:
            return self._board.model_floor
        if origin.kind != "reply":
            return False
        if origin.own and not self._board.model_floor and origin.op_id is None:
            return False
        return origin.tools is None or event.name in origin.tools

    def _refuse_again(self, event: ToolRequested) -> None:
        self._board.record("tool.refused", call_id=event.call_id, name=event.name, why="duplicate_call_id")
        if event.call_id not in self._calls:
            self._board.send(SendToolResult(call_id=event.call_id, output=refusal("duplicate_call_id", event.name)))

    def _refuse(self, event: ToolRequested, why: str) -> None:
        self._board.record("tool.refused", call_id=event.call_id, name=event.name, why=why)
        self._board.send(SendToolResult(call_id=event.call_id, output=refusal(why, event.name)))
        if not self._board.over:
            batch = self._batch(event.reply)
            self._count_result(batch)

    def _run(self, event: ToolRequested, args: dict[str, Any]) -> None:
        self.count += 1
        spec = next(tool for tool in self._board.config.tools if tool.target == event.name)
        batch = self._batch(event.reply)
        call = Call(event.call_id, event.name, batch.turn, spec.on_interrupt)
        self._calls[call.call_id] = call
        batch.calls.append(call)
        origin = self._speech.origin(event.reply)
        if origin is not None:
            call.note = {"call_id": call.call_id, "target": call.target, "execution_id": None}
            origin.called.append(call.note)
        if not batch.results:
            self._arm(batch, PENDING_AFTER)
        open_turn = batch.turn is not None and batch.turn.turn_id in self._turns.open
        turn_id = batch.turn.turn_id if batch.turn is not None and open_turn else None
        self._board.record("tool.requested", call_id=call.call_id, target=call.target, turn_id=turn_id, arguments=args)
        self._board.emit(RunTool(call_id=call.call_id, target=call.target, args=args, turn_id=turn_id, kind="tool"))

    def _batch(self, reply: str) -> Batch:
        batch = self._batches.get(reply)
        if batch is None:
            origin = self._speech.origin(reply)
            turn = origin.turn if origin is not None else self._turns.newest
            batch = self._batches[reply] = Batch(reply, turn)
        batch.answered = False
        return batch

    def _count_result(self, batch: Batch) -> None:
        batch.results += 1
        if batch.results == 1:
            self._arm(batch, GATHER)

    def _arm(self, batch: Batch, seconds: float) -> None:
        """Set when a batch has waited long enough."""
        batch.flush_at = self._board.now + seconds
        self._board.timers.set(f"tools:{batch.reply}", batch.flush_at)

    def _answer(self, call: Call, text: str) -> None:
        self._board.record("tool.answered", call_id=call.call_id, execution_id=call.execution_id, pending=False)
        self._board.send(SendToolResult(call_id=call.call_id, output=text))
        self._keep(call, text)
        for batch in self._batches.values():
            if call in batch.calls:
                self._count_result(batch)

    def _add_later(self, call: Call, text: str) -> None:
        """Give the model the result of a call that was answered as pending."""
        self._board.record("tool.answered", call_id=call.call_id, execution_id=call.execution_id, pending=False)
        self._keep(call, text)
        words = f"The result of {call.target} (call {call.call_id}), which was pending, is: {text}"
        self._board.send(AddText(item=self._board.ids("op")[:32], text=words, role="system"))
        if self._board.model_floor:
            self._want(call.turn, [])

    def _keep(self, call: Call, text: str) -> None:
        call.output = text
        self._fresh.append(call)
        del self._fresh[:-_MAX_OPEN]

    def _settle_batch(self, batch: Batch) -> None:
        if self._speech.generating(batch.reply):
            return
        running = [call for call in batch.calls if call.state == "running"]
        if running and self._board.now < batch.flush_at:
            return
        for call in running:
            call.state = "pending"
            self._board.record("tool.answered", call_id=call.call_id, execution_id=call.execution_id, pending=True)
            self._board.send(SendToolResult(call_id=call.call_id, output='{"status":"pending"}'))
        batch.answered = True
        self._board.timers.clear(f"tools:{batch.reply}")
        self._batches.pop(batch.reply)
        if batch.reply in self._speech.answers.parked or self._board.model_floor:
            self._want(batch.turn, [batch.reply])

    def _want(self, turn: TurnRecord | None, replies: list[str]) -> None:
        if self.wish is None:
            self.wish = Wish(turn, replies)
        else:
            self.wish.turn = turn
            self.wish.replies.extend(replies)

    def _grant(self, wish: Wish) -> None:
        """Ask the model to go on: slot free, caller silent, no newer turn waiting."""
        if not self._board.model_floor and self._turns.waiting:
            self._drop_wish(wish)
            return
        busy = not self._speech.free or self._speech.queue or self._turns.speaking is not None
        if busy or self._turns.pending() or self._newer_turn_waits() or not self._board.attached:
            return
        self.wish = None
        parked = [
            self._speech.answers.parked.pop(reply) for reply in wish.replies if reply in self._speech.answers.parked
        ]
        for speech, spoken in parked[:-1]:
            self._speech.answers.parked[speech.reply or ""] = (speech, spoken)
            self._speech.answers.unpark(speech.reply or "")
        origin = parked[-1][0] if parked else None
        self._speech.ask(
            "reply",
            turn=wish.turn,
            op_id=origin.op_id if origin else None,
            instructions=origin.instructions if origin else None,
            tools=origin.tools if origin else None,
            called=list(origin.called) if origin else [],
        )

    def _newer_turn_waits(self) -> bool:
        newest = self._turns.newest
        if newest is None or newest.answered or newest.backchannel or not self._board.model_floor:
            return False
        until = newest.committed_at + _NEWER_TURN_WAIT
        if self._board.now >= until:
            return False
        self._board.timers.set("tools:newer", until)
        return True

    def _drop_wish(self, wish: Wish) -> None:
        self.wish = None
        for reply in wish.replies:
            self._speech.answers.unpark(reply)

    def _answer_handler(self, event: ToolFinished) -> None:
        if event.problem is not None:
            self._board.ops.answer(Refuse(event.call_id, event.problem))
        else:
            self._board.ops.answer(ResolveCall(event.call_id, event.value, event.execution_id))
