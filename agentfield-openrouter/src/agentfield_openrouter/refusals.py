"""What the provider refuses, as typed errors that say what it means for the call."""

from __future__ import annotations

from typing import Any

from agentfield.adapterkit import refusals as kit
from agentfield.adapterkit.fields import mapping, parse
from agentfield.adapterkit.provider import Provider
from agentfield.errors import ProviderError, ProviderUnavailable
from agentfield_openrouter.faults import Fault, fault_of

__all__ = ["Refused", "Unreachable", "refused", "unreachable"]


class Refused(ProviderError):
    """The provider refused; `fault` says what that means for the call."""

    def __init__(self, message: str, fault: Fault, **more: Any) -> None:
        super().__init__(message, **more)
        self.fault = fault


class Unreachable(ProviderUnavailable):
    """The provider did not answer, or stopped in the middle; `fault` says what that means for the call."""

    def __init__(self, message: str, fault: Fault, **more: Any) -> None:
        super().__init__(message, **more)
        self.fault = fault


def refused(
    provider: Provider, what: str, status: int, body: bytes, *, retry_after: str | None = None
) -> Refused | Unreachable:
    """Return the error for a refusal.

    Args:
        provider: Who refused.
        what: What was asked, such as ``answer``.
        status: The HTTP status, 200 for an error inside of an answer.
        body: The body, JSON in the provider's own shape or anything else.
        retry_after: The header of that name.
    """
    error = mapping(parse(body) or {}, "error")
    fault = fault_of(error, status=status, secrets=provider.secrets, retry_after=kit.retry_seconds(retry_after))
    if not error and status < 300:
        fault = Fault("invalid_answer", "it is no event stream", retry=True)
    number = fault.status or status
    told = kit.refused(
        provider,
        what,
        number,
        fault.code,
        reason=fault.message if error else None,
        retry_after=fault.retry_after,
    )
    kind = Unreachable if fault.retry and number != 429 else Refused
    return kind(told.message, fault, hint=_hint(provider, fault), **told.data)


def unreachable(provider: Provider, what: str, why: BaseException) -> Unreachable:
    """Return the error for a provider that cannot be reached, or that stopped in the middle.

    Args:
        provider: Who was asked.
        what: What was asked, such as ``answer``.
        why: What aiohttp or the system raised; only its kind is told.
    """
    told = kit.unreachable(provider, what, why)
    code = "timeout" if isinstance(why, TimeoutError) else "unreachable"
    return Unreachable(told.message, Fault(code, told.message, retry=True), hint=told.hint, **told.data)


def _hint(provider: Provider, fault: Fault) -> str | None:
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
