"""Refusals of a provider over HTTP as typed errors: what was asked, why not, what to do; never a raw body, never a key."""

from __future__ import annotations

from typing import Any

import aiohttp

from agentfield.adapterkit.provider import Provider
from agentfield.errors import ProviderError, ProviderUnavailable

__all__ = ["TRY_LATER", "refused", "retry_seconds", "unreachable"]

TRY_LATER = frozenset({408, 500, 502, 503, 504})
"""HTTP statuses after which the same request may succeed: the provider is in trouble, not the request."""
_LONGEST_WAIT = 24 * 3600.0


def refused(
    provider: Provider,
    what: str,
    status: int,
    code: str,
    *,
    reason: str | None = None,
    hint: str | None = None,
    retry_after: float | None = None,
    final: bool = False,
) -> ProviderError:
    """Return the error for a refusal, `ProviderUnavailable` where the provider is in trouble (`TRY_LATER`).

    Args:
        provider: Who refused.
        what: What was asked, such as ``create the call``.
        status: The HTTP status.
        code: The provider's name for it, safe to show (`Provider.clean`).
        reason: What the provider said about it, safe to show.
        hint: What to do about it.
        retry_after: Seconds to wait, where the provider says so (`retry_seconds`).
        final: Whether the status says "later" and the code says that later is no better, as of an account without credit.
    """
    data: dict[str, Any] = {"provider_code": code, "provider_status": status}
    if final:
        data["provider_final"] = True
    if retry_after is not None:
        data["retry_after"] = retry_after
    because = f": {reason}" if reason else ""
    kind = ProviderUnavailable if status in TRY_LATER else ProviderError
    return kind(f"{provider.title} refused to {what} (HTTP {status}, {code}){because}", hint=hint, **data)


def unreachable(provider: Provider, what: str, why: BaseException) -> ProviderUnavailable:
    """Return the error for a provider that cannot be reached; of `why` only the kind is told, it may hold addresses.

    Args:
        provider: Who was asked.
        what: What was asked, such as ``create the call``.
        why: What aiohttp or the system raised.
    """
    setting = f", and {provider.url_setting}" if provider.url_setting else ""
    message = f"{provider.title} {_why(why)} (asked to {what})."
    return ProviderUnavailable(
        message, hint=f"check the network and proxy settings{setting}", provider_code="unreachable"
    )


def retry_seconds(header: str | None) -> float | None:
    """Return the seconds in a `Retry-After` header, at most a day; None when it holds none (a date is not read).

    Source: RFC 9110, section 10.2.3.
    """
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
        case aiohttp.ClientConnectorError() | ConnectionRefusedError():
            return "could not be reached: nothing answers at its address"
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | ConnectionError():
            return "broke the connection off"
        case _:
            return f"could not be reached ({type(why).__name__})"
