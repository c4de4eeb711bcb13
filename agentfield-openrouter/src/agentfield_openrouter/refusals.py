"""Maps HTTP refusals and connection failures to typed errors that carry their classification."""

from __future__ import annotations

from typing import Any

from agentfield.adapterkit import refusals as kit
from agentfield.adapterkit.endpoint import ProviderEndpoint
from agentfield.adapterkit.json_fields import object_at, parse_object
from agentfield.errors import ProviderError, ProviderUnavailable
from agentfield_openrouter.error_classification import ClassifiedError, classify_error

__all__ = ["Refused", "Unreachable", "refusal_error", "unreachable_error"]


class Refused(ProviderError):
    """The provider refused; `fault` is the classified error."""

    def __init__(self, message: str, fault: ClassifiedError, **more: Any) -> None:
        super().__init__(message, **more)
        self.fault = fault


class Unreachable(ProviderUnavailable):
    """The provider did not answer or broke off; `fault` is the classified error."""

    def __init__(self, message: str, fault: ClassifiedError, **more: Any) -> None:
        super().__init__(message, **more)
        self.fault = fault


def refusal_error(
    provider: ProviderEndpoint, what: str, status: int, body: bytes, *, retry_after: str | None = None
) -> Refused | Unreachable:
    """Return the typed error for a refusal.

    Args:
        provider: The service that refused.
        what: The refused operation, such as ``answer``.
        status: The HTTP status, 200 for an error inside a completion.
        body: The response body, JSON in the provider's format or anything else.
        retry_after: Value of the ``Retry-After`` header.
    """
    error = object_at(parse_object(body) or {}, "error")
    fault = classify_error(error, status=status, secrets=provider.secrets, retry_after=kit.retry_seconds(retry_after))
    if not error and status < 300:
        fault = ClassifiedError("invalid_answer", "it is not an event stream", retry=True)
    shown_status = fault.status or status
    plain = kit.refusal_error(
        provider,
        what,
        shown_status,
        fault.code,
        reason=fault.message if error else None,
        retry_after=fault.retry_after,
    )
    kind = Unreachable if fault.retry and shown_status != 429 else Refused
    refused = kind(plain.message, fault, hint=_hint(provider, fault), **plain.data)
    refused.status = plain.status
    return refused


def unreachable_error(provider: ProviderEndpoint, what: str, why: BaseException) -> Unreachable:
    """Return the typed error for a provider that could not be reached or broke off.

    Args:
        provider: The service.
        what: The failed operation, such as ``answer``.
        why: The exception of aiohttp or the system; only its kind is reported.
    """
    plain = kit.unreachable_error(provider, what, why)
    code = "timeout" if isinstance(why, TimeoutError) else "unreachable"
    error = Unreachable(plain.message, ClassifiedError(code, plain.message, retry=True), hint=plain.hint, **plain.data)
    error.status = plain.status
    return error


def _hint(provider: ProviderEndpoint, fault: ClassifiedError) -> str | None:
    match fault.status:
        case 401:
            return f"check {provider.key_setting}" if provider.key_setting else "check the key"
        case 402:
            return f"add credits to the {provider.title} account"
        case 403 if fault.fatal:
            return f"check what {provider.key_setting or 'the key'} may be used for"
        case 404:
            where = f"{provider.url_setting} and " if provider.url_setting else ""
            return f"check {where}model=... and options={{'upstream': ...}} of the session's declaration"
        case 413:
            return "send shorter turns"
        case _ if fault.retry:
            return "try again later"
        case _:
            return None
