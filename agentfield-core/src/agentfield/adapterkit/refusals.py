"""Refusals and connection failures of a provider over HTTP as typed errors, without raw bodies and keys."""

from __future__ import annotations

from typing import Any

import aiohttp

from agentfield.adapterkit.endpoint import ProviderEndpoint
from agentfield.errors import ProviderError, ProviderUnavailable

__all__ = ["TEMPORARY", "refusal_error", "retry_seconds", "unreachable_error"]

TEMPORARY = frozenset({408, 500, 502, 503, 504})
"""HTTP statuses of temporary failures: the same request may succeed later."""
_TIMEOUTS = frozenset({408, 504})
"""HTTP statuses that say that something took too long; ours is 504 for them, and 502 for every other failure."""
_MAX_WAIT = 24 * 3600.0


def refusal_error(
    provider: ProviderEndpoint,
    what: str,
    status: int,
    code: str,
    *,
    reason: str | None = None,
    hint: str | None = None,
    retry_after: float | None = None,
    final: bool = False,
) -> ProviderError:
    """Return the error for a refusal: `ProviderUnavailable` for a temporary failure (`TEMPORARY`), else `ProviderError`.

    Args:
        provider: The provider.
        what: The refused request, such as ``create the call``.
        status: The HTTP status.
        code: The provider's error code, safe to show (`ProviderEndpoint.clean`).
        reason: The provider's message, safe to show.
        hint: What to do.
        retry_after: Seconds to wait, if the provider names them (`retry_seconds`).
        final: Whether a retry is useless despite the status, as for an account without credit.
    """
    data: dict[str, Any] = {"provider_code": code, "provider_status": status}
    if final:
        data["provider_final"] = True
    if retry_after is not None:
        data["retry_after"] = retry_after
    because = f": {reason}" if reason else ""
    kind = ProviderUnavailable if status in TEMPORARY else ProviderError
    error = kind(f"{provider.title} refused to {what} (HTTP {status}, {code}){because}", hint=hint, **data)
    error.status = 504 if status in _TIMEOUTS else 502
    return error


def unreachable_error(provider: ProviderEndpoint, what: str, why: BaseException) -> ProviderUnavailable:
    """Return the error for a provider that cannot be reached. Its message shows only the kind of `why`, not its addresses.

    Args:
        provider: The provider.
        what: The request, such as ``create the call``.
        why: The exception of aiohttp or the operating system.
    """
    setting = f", and {provider.url_setting}" if provider.url_setting else ""
    message = f"{provider.title} {_why(why)} (asked to {what})."
    error = ProviderUnavailable(
        message, hint=f"check the network and proxy settings{setting}", provider_code="unreachable"
    )
    error.status = 504 if isinstance(why, TimeoutError) else 502
    return error


def retry_seconds(header: str | None) -> float | None:
    """Return the seconds of a `Retry-After` header, at most a day; None for a missing header or a date.

    Source: RFC 9110, section 10.2.3.
    """
    text = (header or "").strip()
    if not text.isascii() or not text.replace(".", "", 1).isdigit() or len(text) > 12:
        return None
    return min(float(text), _MAX_WAIT)


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
