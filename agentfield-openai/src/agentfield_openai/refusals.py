"""Maps HTTP refusals of a Realtime service to typed errors."""

from __future__ import annotations

from agentfield.adapterkit import refusals as kit
from agentfield.adapterkit.endpoint import ProviderEndpoint
from agentfield.adapterkit.json_fields import object_at, parse_object
from agentfield.errors import NotFound, ProviderError
from agentfield_openai.codec.error_classification import classify_error

__all__ = ["call_not_found", "refusal_error"]


def refusal_error(
    provider: ProviderEndpoint, what: str, status: int, body: bytes, *, retry_after: str | None = None
) -> ProviderError:
    """Return the typed error for an HTTP refusal.

    Args:
        provider: The service that refused.
        what: The refused operation, such as ``create the call``.
        status: The HTTP status.
        body: The response body, JSON in the provider's format or anything else.
        retry_after: Value of the ``Retry-After`` header.
    """
    error = object_at(parse_object(body) or {}, "error")
    fault = classify_error(error)
    code = provider.clean(fault.code, 64) if error else f"http_{status}"
    return kit.refusal_error(
        provider,
        what,
        status,
        code,
        reason=provider.clean(fault.message) if error else None,
        hint=_hint(provider, status, code),
        retry_after=kit.retry_seconds(retry_after),
        final=fault.meaning == "fatal",
    )


def call_not_found(provider: ProviderEndpoint, call_id: str) -> NotFound:
    """Return the error for a call that the provider does not know."""
    return NotFound(
        f"{provider.title} has no call {provider.clean(call_id, 64)} (any more).",
        code="call_not_found",
        provider_code="call_id_not_found",
    )


def _hint(provider: ProviderEndpoint, status: int, code: str) -> str | None:
    match status, code:
        case ((401 | 403), _):
            return f"check {provider.key_setting}" if provider.key_setting else "check the key"
        case _, ("insufficient_quota" | "credit_balance_exhausted" | "billing_hard_limit_reached"):
            return f"check the billing of the {provider.title} account"
        case 429, _:
            return "try again later"
        case _, "model_not_found":
            return "name another model with model=... in the session's declaration"
        case 404, _:
            where = f"{provider.url_setting} and " if provider.url_setting else ""
            return f"check {where}model=... in the session's declaration"
        case _ if status in kit.TEMPORARY:
            return "try again"
        case _:
            return None
