"""What a provider's error means for the call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentfield.adapterkit.fields import words
from agentfield.adapterkit.redact import redact

__all__ = ["FATAL", "Fault", "fault_of"]

FATAL = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "invalid_api_key",
        "account_deactivated",
        "billing_hard_limit_reached",
    }
)
"""Nothing will work until somebody does something about the account."""

_SILENT = frozenset({"response_cancel_not_active"})
_BENIGN = frozenset(
    {
        "input_audio_buffer_commit_empty",
        "item_truncate_invalid_item_id",
        "item_retrieve_invalid_item_id",
        "item_delete_invalid_item_id",
        "item_create_duplicate_item_id",
    }
)
_RETRY = frozenset({"server_error", "rate_limit_exceeded", "conversation_already_has_active_response"})
_TOO_LATE = ("Only model output audio messages can be truncated", "is already shorter than")

Meaning = Literal["silent", "benign", "retry", "fatal", "expired", "bug"]


@dataclass(frozen=True, slots=True)
class Fault:
    """An error, classified; `message` is safe to show."""

    code: str
    message: str
    meaning: Meaning


def fault_of(error: Mapping[str, Any]) -> Fault:
    """Classify the `error` object of an event, a response or an HTTP body.

    A code may move into `type` and back, so both are looked at.
    """
    code, kind = words(error, "code"), words(error, "type")
    message = redact(words(error, "message") or "the provider gave no reason")
    name = redact(code or kind or "unknown_error", limit=64)
    return Fault(name, message, _meaning({code, kind}, message))


def _meaning(names: set[str | None], message: str) -> Meaning:
    if names & FATAL:
        return "fatal"
    if "session_expired" in names:
        return "expired"
    if names & _SILENT or any(text in message for text in _TOO_LATE):
        return "silent"
    if names & _BENIGN:
        return "benign"
    return "retry" if names & _RETRY else "bug"
