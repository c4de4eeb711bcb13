"""What a service of the Realtime protocol refuses over HTTP, as typed errors."""

from __future__ import annotations

from agentfield.adapterkit import refusals as kit
from agentfield.adapterkit.fields import mapping, parse
from agentfield.adapterkit.provider import Provider
from agentfield.errors import NotFound, ProviderError
from agentfield_openai.codec.faults import fault_of

__all__ = ["call_not_found", "refused"]


def refused(
    provider: Provider, what: str, status: int, body: bytes, *, retry_after: str | None = None
) -> ProviderError:
    """Return the error for a refusal.

    Args:
        provider: Who refused.
        what: What was asked, such as ``create the call``.
        status: The HTTP status.
        body: The body, JSON in the provider's own shape or anything else.
        retry_after: The header of that name.
    """
    error = mapping(parse(body) or {}, "error")
    fault = fault_of(error)
    code = provider.clean(fault.code, 64) if error else f"http_{status}"
    return kit.refused(
        provider,
        what,
        status,
        code,
        reason=provider.clean(fault.message) if error else None,
        hint=_hint(provider, status, code),
        retry_after=kit.retry_seconds(retry_after),
        final=fault.meaning == "fatal",
    )


def call_not_found(provider: Provider, call_id: str) -> NotFound:
    """Return the error for a call that the provider does not have."""
    return NotFound(
        f"{provider.title} has no call {provider.clean(call_id, 64)} (any more).",
        code="call_not_found",
        provider_code="call_id_not_found",
    )


def _hint(provider: Provider, status: int, code: str) -> str | None:
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
        case _ if status in kit.TRY_LATER:
            return "try again"
        case _:
            return None
