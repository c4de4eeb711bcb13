"""Classification of provider errors by their consequence, from an HTTP status or from within a completion.

Source: https://openrouter.ai/docs/api-reference/errors
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentfield.adapterkit.json_fields import count_at, object_at, text_at
from agentfield.adapterkit.redact import redact

__all__ = ["ClassifiedError", "classify_error"]

_FATAL = frozenset({401, 402, 404})
"""Statuses after which no request works until the account, the key or the model name is fixed."""
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
class ClassifiedError:
    """A classified error; `code` and `message` are redacted and safe to show."""

    code: str
    message: str
    status: int = 0
    fatal: bool = False
    """Whether the session cannot continue."""
    retry: bool = False
    """Whether the same request may succeed later."""
    retry_after: float | None = None
    """Seconds to wait, if the provider names them."""


def classify_error(
    error: Mapping[str, Any], *, status: int = 0, secrets: tuple[str, ...] = (), retry_after: float | None = None
) -> ClassifiedError:
    """Classify the `error` object of a response body or of a chunk.

    Args:
        error: The object, with `code` (a number, from some upstreams a name), `message`, `metadata.error_type`.
        status: The HTTP status; 200 or 0 for an error inside a completion.
        secrets: Texts that must not be shown, such as the key.
        retry_after: Seconds to wait according to a header.
    """
    metadata = object_at(error, "metadata")
    status = status if status >= 300 else count_at(error, "code") or 0
    flagged = text_at(metadata, "flagged_input") or ""
    hidden = (*secrets, flagged, flagged.rstrip(". …"))
    named = (text_at(metadata, "error_type"), text_at(error, "code"), text_at(error, "type"))
    kind = next((name for name in named if name and name.strip()), None) or _NAMES.get(status)
    code = redact(kind or (f"http_{status}" if status else ""), *hidden, limit=64) or "unknown_error"
    moderated = bool(flagged) or "reasons" in metadata or code in _MODERATION
    fatal = (status in _FATAL or status == 403 or code in _FATAL_NAMES) and not moderated
    return ClassifiedError(
        code=code,
        message=redact(text_at(error, "message") or "the provider gave no reason", *hidden),
        status=status,
        fatal=fatal,
        retry=status in _RETRY and not fatal,
        retry_after=retry_after,
    )
