"""What follows when the model's answer to a turn fails: the turn fails with the reason, and `on_error` is spoken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentfield.errors import ProviderError
from agentfield_server.sessions.conversation.speech.utterance import Utterance
from agentfield_server.sessions.conversation.state import MachineState

__all__ = ["MAX_RETRY_AFTER", "AnswerFailures", "retry_pause"]

MAX_RETRY_AFTER = 5.0
"""Longest time, in seconds, that a provider may ask to wait within a turn."""
_RETRY_AFTER = 0.5
_MAX_TRIES = 5


def retry_pause(speech: Utterance, retry_after: float | None) -> float | None:
    """Return the seconds after which a refused speech is sent again, None if it is not.

    A time that the provider asks to wait is waited for once. Without one, the refusal is expected to pass soon.

    Args:
        speech: The speech that was refused.
        retry_after: Seconds that the provider asks to wait; None if it names none.
    """
    if speech.waited or (retry_after or 0.0) > MAX_RETRY_AFTER:
        return None
    if retry_after is not None:
        speech.waited = True
        return max(retry_after, _RETRY_AFTER)
    return _RETRY_AFTER if speech.tries < _MAX_TRIES else None


class AnswerFailures:
    """Fails the turns whose answer failed; on the handler's floor its handler learns of the failure instead.

    Args:
        state: State shared with the other parts.
        enqueue: Queues a speech (`SpeechSequencer.enqueue`).
    """

    def __init__(self, state: MachineState, enqueue: Callable[..., Any]) -> None:
        self._state = state
        self._enqueue = enqueue

    def failed(self, speech: Utterance, code: str, message: str | None, retry_after: float | None) -> None:
        """Fail the turn that a speech answers, if the model answers turns by itself, and speak `on_error`.

        Args:
            speech: The speech that failed.
            code: The provider's code.
            message: The provider's message, None if there is none.
            retry_after: Seconds that the provider asks to wait; None if it names none.
        """
        turn = speech.turn
        answers = speech.kind == "reply" and speech.op_id is None and self._state.model_floor
        if not answers or turn is None or self._state.over:
            return
        data: dict[str, Any] = {"provider_code": code}
        hint = None
        if retry_after is not None:
            data["retry_after"] = retry_after
            hint = (
                f"the provider asks to wait {retry_after:g} s; at most {MAX_RETRY_AFTER:g} s are waited for in a turn"
            )
        error = ProviderError(f"the model's answer failed ({code}): {message or 'no reason given'}", hint=hint, **data)
        turn.answered, turn.answer_problem = True, error.to_problem()
        on_error = self._state.config.declaration.on_error
        if on_error is not None:
            self._enqueue("on_error", asked=on_error, turn=turn)
