"""Follow-up: the model speaks about results of tools, asked by the control plane or by itself."""

from __future__ import annotations

from agentfield.realtime.events import TurnUnanswered
from agentfield_server.sessions.conversation.speech.sequencer import SpeechSequencer
from agentfield_server.sessions.conversation.speech.utterance import Utterance
from agentfield_server.sessions.conversation.state import MachineState, TurnRecord
from agentfield_server.sessions.conversation.timers import TimerKind
from agentfield_server.sessions.conversation.tools.batch import FollowUpRequest, ToolCall
from agentfield_server.sessions.conversation.turns import TurnTracker

__all__ = ["FollowUp"]

_NEWER_TURN_WAIT = 5.0
"""Seconds within which the model begins to answer a turn by itself."""
_CONTINUE_WAIT = 15.0
"""Seconds within which a model that continues by itself does so after the results of its tools."""


class FollowUp:
    """The one request that is open, and the results that it is about.

    Args:
        state: State shared with the other parts.
        turns: Tells whether the caller speaks, and which turn is the newest.
        speech: Asks the model to speak.
    """

    def __init__(self, state: MachineState, turns: TurnTracker, speech: SpeechSequencer) -> None:
        self._state = state
        self._turns = turns
        self._speech = speech
        self._request: FollowUpRequest | None = None
        self.unspoken: list[ToolCall] = []
        """Calls with a result that the model has not spoken about."""

    @property
    def quiet(self) -> bool:
        """Whether no request is open."""
        return self._request is None

    @property
    def replies(self) -> list[str]:
        """The replies whose tools returned, of the open request."""
        return self._request.replies if self._request is not None else []

    def is_about(self, turn: TurnRecord) -> bool:
        """Return whether the open request is about a turn."""
        return self._request is not None and self._request.turn is turn

    def settle(self) -> None:
        """Ask the model to continue if it can; give up a model that does not continue by itself."""
        if self._request is None:
            return
        if self._request.by_provider:
            self._await(self._request)
        else:
            self._ask(self._request)

    def ask_instead(self) -> None:
        """Ask for what the model would have said by itself: the provider's session that knew of the results is lost."""
        if self._request is not None:
            self._request.by_provider = False

    def model_spoke(self, speech: Utterance) -> None:
        """Drop the follow-up request if the model speaks after the last result, so that it knows all results."""
        if speech.requested and self._request is not None and self._request.number > speech.number:
            return  # a result was sent after the model was asked for this reply, before it began
        self.unspoken.clear()
        if self._request is not None:
            self._drop(self._request)

    def model_silent(self, event: TurnUnanswered) -> None:
        """Drop the follow-up request about a turn to which the model chose to say nothing more."""
        request = self._request
        if request is not None and request.turn is not None and request.turn.item == event.item:
            self.unspoken.clear()
            self._drop(request)

    def request(self, turn: TurnRecord | None, replies: list[str], *, by_provider: bool = False) -> None:
        """Have the model speak about results.

        Args:
            turn: The turn that the calls belong to.
            replies: The replies whose tools returned.
            by_provider: Whether the model does so by itself.
        """
        if self._request is None:
            self._request = FollowUpRequest(turn, replies, self._state.now, self._state.sent, by_provider)
        else:
            self._request.turn, self._request.since, self._request.number = turn, self._state.now, self._state.sent
            self._request.replies.extend(replies)
            self._request.by_provider = self._request.by_provider and by_provider

    # --- inside

    def _ask(self, request: FollowUpRequest) -> None:
        """Ask the model to continue if the slot is free, the caller is silent and no newer turn waits."""
        if not self._state.model_floor and self._turns.waiting:
            self._drop(request)
            return
        busy = not self._speech.slot_free or self._speech.queue or self._turns.speaking is not None
        if busy or self._turns.has_pending or self._newer_turn_waits() or not self._state.attached:
            return
        self._request = None
        held = [
            self._speech.log.awaiting_tools.pop(reply)
            for reply in request.replies
            if reply in self._speech.log.awaiting_tools
        ]
        for speech, spoken in held[:-1]:
            self._speech.log.awaiting_tools[speech.reply or ""] = (speech, spoken)
            self._speech.log.answer_without_tools(speech.reply or "")
        origin = held[-1][0] if held else None
        self._speech.enqueue(
            "reply",
            turn=request.turn,
            op_id=origin.op_id if origin else None,
            instructions=origin.instructions if origin else None,
            tools=origin.tools if origin else None,
            call_notes=list(origin.call_notes) if origin else [],
        )

    def _await(self, request: FollowUpRequest) -> None:
        """Wait for a model that continues by itself; give up when the conversation has gone on, or after a while."""
        due = request.since + _CONTINUE_WAIT
        if self._turns.has_newer(request.turn) or self._state.now >= due:
            if not self._turns.has_newer(request.turn):
                self._state.warn(
                    "model_silent", f"the model said nothing within {_CONTINUE_WAIT:g} s of its tools' results"
                )
            self._drop(request)
        else:
            self._state.timers.set(TimerKind.TOOL_NEWER, due)

    def _newer_turn_waits(self) -> bool:
        newest = self._turns.newest
        if newest is None or newest.answered or newest.backchannel or not self._state.model_floor:
            return False
        until = newest.committed_at + _NEWER_TURN_WAIT
        if self._state.now >= until:
            return False
        self._state.timers.set(TimerKind.TOOL_NEWER, until)
        return True

    def _drop(self, request: FollowUpRequest) -> None:
        self._request = None
        for reply in request.replies:
            self._speech.log.answer_without_tools(reply)
