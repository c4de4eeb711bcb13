"""What a provider's error means for the call, whether it came as an HTTP status or in the middle of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentfield.adapterkit.fields import count, mapping, words
from agentfield.adapterkit.redact import redact

__all__ = ["Fault", "fault_of"]

_FATAL = frozenset({401, 402, 404})
"""Nothing will work until somebody does something about the account, the key or the model's name."""
_FATAL_NAMES = frozenset(
    {"insufficient_quota", "invalid_api_key", "account_deactivated", "billing_hard_limit_reached", "payment_required"}
)
_RETRY = frozenset({408, 429, 500, 502, 503, 504})
_MODERATION = frozenset({"content_policy_violation", "moderation", "content_filter"})
_NAMES: Mapping[int, str] = {
    400: "invalid_request",
    401: "invalid_api_key",
    402: "payment_required",
    403: "forbidden",
    404: "model_not_found",
    408: "timeout",
    413: "payload_too_large",
    422: "unprocessable",
    429: "rate_limit_exceeded",
    500: "server_error",
    502: "provider_unavailable",
    503: "provider_overloaded",
    504: "timeout",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """An error, classified; `code` and `message` are safe to show."""

    code: str
    message: str
    status: int = 0
    fatal: bool = False
    """Whether the session cannot go on."""
    retry: bool = False
    """Whether the same request may succeed a moment later."""
    retry_after: float | None = None
    """Seconds to wait, where the provider says so."""


def fault_of(
    error: Mapping[str, Any], *, status: int = 0, secrets: tuple[str, ...] = (), retry_after: float | None = None
) -> Fault:
    """Classify the `error` object of a body or of a chunk.

    Args:
        error: The object: a number as `code` (some send a name), `message`, `metadata.error_type`.
        status: The HTTP status; 200 or 0 where the error came inside an answer.
        secrets: Texts that must not be shown, such as the key.
        retry_after: Seconds to wait, where a header says so.
    """
    metadata = mapping(error, "metadata")
    status = status if status >= 300 else count(error, "code") or 0
    flagged = words(metadata, "flagged_input") or ""
    hidden = (*secrets, flagged, flagged.rstrip(". …"))
    named = (words(metadata, "error_type"), words(error, "code"), words(error, "type"))
    kind = next((name for name in named if name and name.strip()), None) or _NAMES.get(status)
    code = redact(kind or (f"http_{status}" if status else ""), *hidden, limit=64) or "unknown_error"
    moderated = bool(flagged) or "reasons" in metadata or code in _MODERATION
    fatal = (status in _FATAL or status == 403 or code in _FATAL_NAMES) and not moderated
    return Fault(
        code=code,
        message=redact(words(error, "message") or "the provider gave no reason", *hidden),
        status=status,
        fatal=fatal,
        retry=status in _RETRY and not fatal,
        retry_after=retry_after,
    )
