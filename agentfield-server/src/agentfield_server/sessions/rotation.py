"""Another session at the provider takes over from one that expires or broke; the conversation goes on in it."""

from __future__ import annotations

from collections import deque

from agentfield.realtime.commands import AddText
from agentfield_server.sessions.board import Board
from agentfield_server.sessions.calls import ToolDesk
from agentfield_server.sessions.effects import Rotate
from agentfield_server.sessions.replay import Line, lines_of, newest
from agentfield_server.sessions.speech import Sequencer
from agentfield_server.sessions.turns import TurnBook, TurnRecord

__all__ = ["LATEST", "MAX_ROTATIONS", "READY_WAIT", "ROTATE_FROM", "WINDOW", "Rotation"]

ROTATE_FROM = 60.0
"""Seconds before the expiry from which the first quiet moment is taken."""
LATEST = 15.0
"""Seconds before the expiry at which nothing is waited for any more."""
MAX_ROTATIONS = 3
WINDOW = 60.0
"""Seconds in which only so many sessions are opened."""
READY_WAIT = 30.0
"""Seconds in which the other session must be ready."""
_AGAIN_AFTER = 1.0
_ANSWER_WAIT = 5.0


class Rotation:
    """When a session at the provider is replaced, and what the new one is told."""

    def __init__(self, board: Board, turns: TurnBook, speech: Sequencer, calls: ToolDesk) -> None:
        self._board = board
        self._turns = turns
        self._speech = speech
        self._calls = calls
        self._opened: deque[float] = deque()
        self._due = False
        self._swapped = False
        self._why = ""
        self.running = False
        """Whether another session was asked for and is not ready yet."""
        self.empty = False
        """Whether the session that is ready next knows nothing of the conversation."""
        self.fatal: tuple[str, str] | None = None
        """Why no other session can take over: reason of the end, and the details."""

    # --- when

    def plan(self, left: float) -> None:
        """The session that is ready now expires in `left` seconds."""
        now, warn = self._board.now, self._board.config.declaration.limits.warn
        start = max(left - ROTATE_FROM, left / 2)
        self._board.timers.set("rotate:due", now + start)
        self._board.timers.set("rotate:now", now + max(left - LATEST, left * 0.75))
        if 0 < warn < start:
            self._board.timers.set("rotate:warn", now + start - warn)

    def fire(self, timer: str) -> None:
        """A deadline has passed."""
        match timer:
            case "rotate:warn":
                warn = self._board.config.declaration.limits.warn
                message = (
                    f"the provider's session expires; another one takes over in about {warn:g} s, in a quiet moment"
                )
                self._board.warn("provider_expires", message)
            case "rotate:due":
                self._due = True
            case "rotate:now" if not self.running:
                self._start("provider_rotated", "the provider's session expires")
            case "rotate:again" if self.running:
                self._open()
            case "rotate:ready" if self.running:
                self.fatal = "provider_error", f"another provider session was not ready within {READY_WAIT:g} s"

    def check(self) -> None:
        """Take the quiet moment."""
        if self._due and self._board.live and not self.running and self._quiet():
            self._start("provider_rotated", "the provider's session expires")

    def lost(self, message: str | None) -> None:
        """The session broke: nobody refused, so another one takes over."""
        if not self.running:
            self._start("provider_lost", message or "the line to the provider broke")
        else:
            self.failed(message)

    def failed(self, message: str | None) -> None:
        """Another session could not be opened: try again after a moment, not for ever."""
        self._swapped = False
        if self._spent():
            self.fatal = "provider_error", f"{MAX_ROTATIONS} others could not be opened: {message or 'the line broke'}"
        else:
            self._board.timers.set("rotate:again", self._board.now + _AGAIN_AFTER)

    # --- what follows

    @property
    def opening(self) -> bool:
        """Whether the other session is not there yet: what is told now is of the old one."""
        return self.running and not self._swapped

    def opened(self) -> None:
        """The other session has taken over."""
        if self.running:
            self._swapped = True
            self._turns.lose(self._why)
            self._board.timers.clear("rotate:again")

    def ready(self) -> None:
        """The other session can be commanded."""
        self.running = self._swapped = False
        for name in ("again", "ready"):
            self._board.timers.clear(f"rotate:{name}")

    def replay(self) -> None:
        """Tell a session that is empty what was said so far, and what became of the tools."""
        if not self.empty:
            return
        self.empty = False
        latest = self._turns.newest
        if latest is not None and not latest.answered and not latest.backchannel:
            self._ask_again(latest)
        unsaid: list[Line] = [("user", text) for text in self._turns.unsaid()]
        tools: list[Line] = [("system", text) for text in self._calls.in_words()]
        for role, text in [*newest([*lines_of(self._board.history), *unsaid]), *tools]:
            item = self._board.ids("op")[:32]
            self._turns.ours(item)
            self._board.send(AddText(item=item, text=text, role=role))

    # --- inside

    def _quiet(self) -> bool:
        turns, board = self._turns, self._board
        if turns.speaking is not None or turns.pending() or not (self._speech.quiet and self._calls.quiet):
            return False
        latest = turns.newest
        if not board.model_floor or latest is None or latest.answered or latest.backchannel:
            return True
        until = latest.committed_at + _ANSWER_WAIT
        if board.now < until:
            board.timers.set("rotate:look", until)
        return board.now >= until

    def _start(self, code: str, why: str) -> None:
        if self._spent():
            reason = "provider_expired" if code == "provider_rotated" else "provider_error"
            self.fatal = reason, f"{why}, and {MAX_ROTATIONS} others have taken over within {WINDOW:g} s"
            return
        board = self._board
        board.warn(code, f"{why}; another one takes over, and the conversation goes on in it")
        said = self._speech.move(code)
        board.attached = False
        if said is not None and said.kind == "reply" and not said.own:
            self._ask_again(said.turn)
        self._calls.move()
        self._turns.lose(code)
        self._why = code
        self.running = self.empty = True
        self._open()

    def _ask_again(self, turn: TurnRecord | None) -> None:
        """On the model's floor nobody but us can ask for an answer that was lost."""
        if turn is None or not turn.text or turn.turn_id not in self._turns.open:
            return
        if self._board.model_floor and not (self._speech.busy(turn) or self._turns.newer_than(turn)):
            self._speech.ask("reply", turn=turn)

    def _open(self) -> None:
        board = self._board
        self._due = False
        self._opened.append(board.now)
        for name in ("due", "now", "warn", "again"):
            board.timers.clear(f"rotate:{name}")
        board.timers.set("rotate:ready", board.now + READY_WAIT)
        board.emit(Rotate())

    def _spent(self) -> bool:
        while self._opened and self._opened[0] <= self._board.now - WINDOW:
            self._opened.popleft()
        return len(self._opened) >= MAX_ROTATIONS
