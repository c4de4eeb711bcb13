"""Answers on the model's floor: the model gives them by itself, or they are requested; a turn without one is given up."""

from __future__ import annotations

from agentfield.errors import ProviderError
from agentfield.realtime.events import TurnCommitted, TurnUnanswered
from agentfield_server.sessions.conversation.speech.sequencer import SpeechSequencer
from agentfield_server.sessions.conversation.state import MachineState, TurnRecord
from agentfield_server.sessions.conversation.timers import TimerKind
from agentfield_server.sessions.conversation.turns import TurnTracker

__all__ = ["ModelAnswers"]

_ANSWER_WAIT = 15.0
"""Seconds within which the model must begin to answer a turn, by itself or when it is asked."""


class ModelAnswers:
    """Sees to it that each turn on the model's floor is answered or given up.

    Args:
        state: State shared with the other parts.
        turns: Turns of the caller.
        speech: Speech of the agent.
    """

    def __init__(self, state: MachineState, turns: TurnTracker, speech: SpeechSequencer) -> None:
        self._state = state
        self._turns = turns
        self._speech = speech

    def committed(self, event: TurnCommitted, *, hold: float = 0.0) -> None:
        """Add a turn; request its answer, for a text after `hold` seconds, if the model does not answer it by itself.

        By itself a model answers what `Capabilities.answers_after` names, except while a speech must not be interrupted.
        """
        before = self._turns.newest
        self._turns.committed(event)
        turn = self._turns.newest
        if not self._state.model_floor or turn is None or turn is before:
            return
        self._await(turn)
        detected = event.text is None and self._state.detects_turns
        by_itself = event.text is None and self._state.answers_after("turn" if detected else "commit")
        if by_itself and self._state.interruption.answers_by_itself(self._state.now):
            return
        if event.text is None and (detected or self._speech.uninterruptible):
            # the answer to this turn is the answer to those that were spoken during the same speech
            self._speech.queue.drop_superseded()
        not_before = self._state.now + (0.0 if event.text is None else hold)
        self._speech.enqueue("reply", turn=turn, about_turn=True, not_before=not_before)

    def take_back(self) -> None:
        """Cancel the answer that was requested and has not begun to a turn that was discarded since: nobody said a word."""
        sent = self._speech.sent
        if sent is not None and sent.unfounded:
            sent.cancelled = True

    def silent(self, event: TurnUnanswered) -> None:
        """The model chose silence: the turn is answered, and nothing is awaited for it any more."""
        turn = self._turns.find(event.item)
        if turn is None or not self._state.model_floor:
            return
        turn.answered = True
        self._state.timers.clear(TimerKind.ANSWER, turn.item)
        self._state.record("turn.unanswered", turn_id=turn.turn_id, item=turn.item)
        self._speech.answered_by_silence(turn)

    def overdue(self, item: str) -> None:
        """Give up a turn that the model did not begin to answer in time."""
        turn = self._turns.find(item)
        if turn is None or turn.answered:
            return
        if self._speech.has_speech_of(turn):
            self._await(turn)
            return
        turn.answered = True
        if turn.backchannel:
            return  # the model need not answer a word that was only said while listening
        error = ProviderError(f"the model did not begin to answer within {_ANSWER_WAIT:g} s", code="model_silent")
        self._state.warn(error.code, error.message)
        turn.answer_problem = error.to_problem()
        on_error = self._state.config.declaration.on_error
        if on_error is not None:
            self._speech.enqueue("on_error", asked=on_error, turn=turn)

    def _await(self, turn: TurnRecord) -> None:
        self._state.timers.set(TimerKind.ANSWER, self._state.now + _ANSWER_WAIT, turn.item)
