"""Refusals of a provider over HTTP as typed errors: what was asked, why not, what to do; never a raw body, never a key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import aiohttp
from pydantic import SecretStr

from agentfield.errors import NotFound, ProviderError, ProviderUnavailable
from agentfield_openai.codec.dialect import GA, Dialect
from agentfield_openai.codec.faults import fault_of
from agentfield_openai.codec.fields import mapping, parse
from agentfield_openai.redact import redact

__all__ = ["Provider", "call_not_found", "refused", "unreachable"]

_TRY_LATER = frozenset({408, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Provider:
    """Who is talked to: what is needed to reach it and to speak of it."""

    title: str
    base_url: str
    key: SecretStr | None
    key_setting: str | None = None
    url_setting: str | None = None
    dialect: Dialect = field(default=GA)
    """What is particular to the service, where it is not OpenAI's own."""

    def bearer(self) -> dict[str, str]:
        """Return the header that proves who we are.

        Raises:
            ProviderError: There is no key (code `key_missing`).
        """
        if self.key is None or not self.key.get_secret_value():
            raise ProviderError(
                f"{self.title} needs a key and there is none.",
                code="key_missing",
                hint=f"set {self.key_setting}" if self.key_setting else None,
                provider_code="key_missing",
            )
        return {"Authorization": f"Bearer {self.key.get_secret_value()}"}

    def clean(self, text: str, limit: int = 300) -> str:
        """Return text of the provider's without secrets."""
        return redact(text, "" if self.key is None else self.key.get_secret_value(), limit=limit)


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
    reason = f": {provider.clean(fault.message)}" if error else ""
    data: dict[str, Any] = {"provider_code": code, "provider_status": status}
    if retry_after is not None and retry_after.isdigit():
        data["retry_after"] = int(retry_after[:6])
    kind = ProviderUnavailable if status in _TRY_LATER else ProviderError
    message = f"{provider.title} refused to {what} (HTTP {status}, {code}){reason}"
    return kind(message, hint=_hint(provider, status, code), **data)


def unreachable(provider: Provider, what: str, why: BaseException) -> ProviderUnavailable:
    """Return the error for a provider that cannot be reached; of `why` only the kind is told, it may hold addresses."""
    setting = f", and {provider.url_setting}" if provider.url_setting else ""
    message = f"{provider.title} {_why(why)} (asked to {what})."
    return ProviderUnavailable(
        message, hint=f"check the network and proxy settings{setting}", provider_code="unreachable"
    )


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
        case _:
            return f"could not be reached ({type(why).__name__})"


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
        case _ if status in _TRY_LATER:
            return "try again"
        case _:
            return None
