"""Policy of queued speech: when it is stale or superseded, and when it must wait for the caller. Pure functions."""

from __future__ import annotations

from agentfield_server.sessions.conversation.speech.utterance import Utterance
from agentfield_server.sessions.conversation.state import MachineState
from agentfield_server.sessions.conversation.turns import TurnTracker

__all__ = ["is_stale", "is_superseded", "must_wait", "must_wait_for_model"]

_ANSWER_WAIT = 5.0
"""Seconds within which the model begins to answer a turn by itself."""


def is_stale(speech: Utterance, turns: TurnTracker) -> bool:
    """Return whether a `say` answers a turn that is no longer the newest, or a reply one that was discarded."""
    return speech.unfounded or (speech.kind == "say" and speech.stale == "drop" and turns.has_newer(speech.turn))


def must_wait(speech: Utterance, turns: TurnTracker, state: MachineState) -> bool:
    """Return whether a speech must wait: while the caller speaks, or while a turn without words may make it stale."""
    if not speech.interruptible or speech.kind == "goodbye":
        return False
    if turns.speaking is not None:
        return True
    may_go_stale = speech.kind == "say" and speech.stale == "drop" and speech.turn is not None
    return may_go_stale and not state.model_floor and turns.has_pending


def is_superseded(speech: Utterance) -> bool:
    """Return whether a reply that begins, and that the machine did not request, makes this one unnecessary.

    A reply that the handler asked for stays. One that was sent already is unnecessary if the provider had its words
    before the other reply began: a stock client that types a text also asks for the answer. Otherwise it stays, since
    the other reply may have begun before the words existed that this one is about.
    """
    if speech.kind != "reply" or speech.op_id is not None:
        return False
    return not speech.tries or (speech.about_turn and speech.turn is not None and speech.turn.at_provider)


def must_wait_for_model(speech: Utterance, turns: TurnTracker, state: MachineState) -> float | None:
    """Return until when a reply must wait because the model is about to answer a newer turn by itself.

    The provider would refuse a request for a reply while it answers. The time is of the machine's clock; None if the
    reply need not wait.
    """
    newest = turns.newest
    requested_here = speech.kind == "reply" and speech.op_id is None and state.model_floor
    if not requested_here or newest is None or newest is speech.turn or newest.answered or newest.backchannel:
        return None
    until = newest.committed_at + _ANSWER_WAIT
    return until if state.now < until else None
