"""When a speech is not said any more, and when it waits for the caller. Pure functions."""

from __future__ import annotations

from agentfield_server.sessions.board import Board
from agentfield_server.sessions.turns import TurnBook
from agentfield_server.sessions.utterance import Speech

__all__ = ["is_stale", "must_wait"]


def is_stale(speech: Speech, turns: TurnBook) -> bool:
    """Tell whether a `say` answers an older turn than the newest."""
    return speech.kind == "say" and speech.stale == "drop" and turns.newer_than(speech.turn)


def must_wait(speech: Speech, turns: TurnBook, board: Board) -> bool:
    """Tell whether a speech has to wait: nobody is talked over, and a turn without words yet may make it stale."""
    if not speech.interruptible or speech.kind == "goodbye":
        return False
    if turns.speaking is not None:
        return True
    may_go_stale = speech.kind == "say" and speech.stale == "drop" and speech.turn is not None
    return may_go_stale and not board.model_floor and turns.pending()
