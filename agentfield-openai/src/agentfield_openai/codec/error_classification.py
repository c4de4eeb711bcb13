"""Classification of provider errors by their consequence for the session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentfield.adapterkit.json_fields import text_at
from agentfield.adapterkit.redact import redact

__all__ = ["FATAL_CODES", "ClassifiedError", "classify_error"]

FATAL_CODES = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "invalid_api_key",
        "account_deactivated",
        "billing_hard_limit_reached",
    }
)
"""Codes after which no request works until the account is fixed."""

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
# errors without a code of their own: a truncation that arrives too late has no effect
_TOO_LATE = ("Only model output audio messages can be truncated", "is already shorter than")

Meaning = Literal["silent", "benign", "retry", "fatal", "expired", "bug"]
"""Consequence: ignore, warn, retry the command, end the session, session expired, or our event was invalid."""


@dataclass(frozen=True, slots=True)
class ClassifiedError:
    """A classified error; `message` is redacted and safe to show."""

    code: str
    message: str
    meaning: Meaning


def classify_error(error: Mapping[str, Any]) -> ClassifiedError:
    """Classify the `error` object of an event, a response or an HTTP body.

    The provider puts some codes into `code`, some into `type`, so both are read.
    """
    code, kind = text_at(error, "code"), text_at(error, "type")
    message = redact(text_at(error, "message") or "the provider gave no reason")
    name = redact(code or kind or "unknown_error", limit=64)
    return ClassifiedError(name, message, _meaning({code, kind}, message))


def _meaning(names: set[str | None], message: str) -> Meaning:
    if names & FATAL_CODES:
        return "fatal"
    if "session_expired" in names:
        return "expired"
    if names & _SILENT or any(text in message for text in _TOO_LATE):
        return "silent"
    if names & _BENIGN:
        return "benign"
    return "retry" if names & _RETRY else "bug"
