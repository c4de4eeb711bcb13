"""Whom we talk to, and what it refuses, as typed errors: what was asked, why not, what to do; never a raw body, never a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import aiohttp
from pydantic import SecretStr

from agentfield.errors import ProviderError, ProviderUnavailable
from agentfield_openrouter.faults import Fault, fault_of
from agentfield_openrouter.fields import mapping, parse

__all__ = ["Provider", "Refused", "Unreachable", "refused", "unreachable"]

_LONGEST_WAIT = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Provider:
    """Who is talked to: what is needed to reach it and to speak of it."""

    title: str
    base_url: str
    key: SecretStr | None
    key_setting: str | None = None
    """Where the key comes from; None where the provider takes none."""
    url_setting: str | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown."""
        return () if self.key is None else (self.key.get_secret_value(),)

    def bearer(self) -> dict[str, str]:
        """Return the header that proves who we are; none where no key is needed and there is none.

        Raises:
            ProviderError: A key is needed and there is none (code `key_missing`).
        """
        if self.key is not None and self.key.get_secret_value():
            return {"Authorization": f"Bearer {self.key.get_secret_value()}"}
        if self.key_setting is None:
            return {}
        raise ProviderError(
            f"{self.title} needs a key and there is none.",
            code="key_missing",
            hint=f"set {self.key_setting}",
            provider_code="key_missing",
        )


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
    fault = fault_of(error, status=status, secrets=provider.secrets, retry_after=_seconds(retry_after))
    if not error and status < 300:
        fault = Fault("invalid_answer", "it is no event stream", retry=True)
    reason = f": {fault.message}" if error else ""
    number = fault.status or status
    message = f"{provider.title} refused to {what} (HTTP {number}, {fault.code}){reason}"
    data: dict[str, Any] = {"provider_code": fault.code, "provider_status": number}
    if fault.retry_after is not None:
        data["retry_after"] = fault.retry_after
    kind = Unreachable if fault.retry and number != 429 else Refused
    return kind(message, fault, hint=_hint(provider, fault), **data)


def unreachable(provider: Provider, what: str, why: BaseException) -> Unreachable:
    """Return the error for a provider that cannot be reached; of `why` only the kind is told, it may hold addresses."""
    setting = f", and {provider.url_setting}" if provider.url_setting else ""
    message = f"{provider.title} {_why(why)} (asked to {what})."
    return Unreachable(
        message,
        Fault("timeout" if isinstance(why, TimeoutError) else "unreachable", message, retry=True),
        hint=f"check the network and proxy settings{setting}",
        provider_code="unreachable",
    )


def _seconds(header: str | None) -> float | None:
    text = (header or "").strip()
    if not text.isascii() or not text.replace(".", "", 1).isdigit() or len(text) > 12:
        return None
    return min(float(text), _LONGEST_WAIT)


def _why(why: BaseException) -> str:
    match why:
        case TimeoutError():
            return "did not answer in time"
        case aiohttp.ClientProxyConnectionError():
            return "could not be reached: the proxy that the environment names does not answer"
        case aiohttp.ClientConnectorDNSError():
            return "could not be reached: its name was not found"
        case aiohttp.ClientSSLError():
            return "could not be reached: its TLS connection or certificate cannot be trusted"
        case aiohttp.ClientConnectorError():
            return "could not be reached: nothing answers at its address"
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | ConnectionError():
            return "broke the connection off"
        case _:
            return f"could not be reached ({type(why).__name__})"


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
