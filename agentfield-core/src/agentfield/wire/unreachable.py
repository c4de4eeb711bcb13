"""Why a control plane could not be reached, in words."""

from __future__ import annotations

import ssl

import aiohttp

__all__ = ["unreachable_hint", "unreachable_reason"]

_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
"""OpenSSL's reasons where the answer was no TLS: plain HTTP, as a rule. Source: OpenSSL, sslerr.h."""

_NAME_MISMATCHES = frozenset({62, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH. Source: OpenSSL, x509_vfy.h."""


def unreachable_reason(error: BaseException) -> str:
    """Return why a request or a link failed, without addresses: the caller's message names them."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"its TLS certificate is not trusted ({_certificate_fault(error.certificate_error)})"
        case aiohttp.ClientConnectorSSLError() if _is_plain(error):
            return "what answers there does not speak TLS, so its address begins with http://, not https://"
        case aiohttp.ClientConnectorSSLError():
            return f"no TLS connection could be made ({_tls_fault(error)})"
        case aiohttp.ClientConnectorDNSError():
            return "its name was not found"
        case aiohttp.ClientProxyConnectionError():
            return "the proxy that the environment names does not answer"
        case aiohttp.ClientConnectorError():
            return "nothing answers there"
        case aiohttp.ServerDisconnectedError() | ConnectionResetError():
            return "it closed the connection without an answer"
        case TimeoutError():
            return "it did not answer in time"
        case aiohttp.ClientResponseError():
            return "what answers there does not speak HTTP"
        case _:
            return str(error) or type(error).__name__


def unreachable_hint(url: str, error: BaseException) -> str | None:
    """Return what helps where the address is answered but its TLS does not fit, or may not; None otherwise."""
    match error:
        case aiohttp.ClientConnectorSSLError() if _is_plain(error):
            return f"use http://{url.partition('://')[2]}"
        case aiohttp.ClientConnectorCertificateError() if _is_misnamed(error.certificate_error):
            return "set AGENTFIELD_URL to an address with a name of its certificate, such as https://voice.example.com"
        case aiohttp.ClientConnectorCertificateError():
            return "trust its certificate: SSL_CERT_FILE=FILE"
        case aiohttp.ServerDisconnectedError() | ConnectionResetError() if url.startswith("https:"):
            return (
                "if it demands a certificate of clients, set AGENTFIELD_TLS_CLIENT_CERT and AGENTFIELD_TLS_CLIENT_KEY"
            )
        case _:
            return None


def _is_plain(error: aiohttp.ClientConnectorSSLError) -> bool:
    return isinstance(error.os_error, ssl.SSLError) and error.os_error.reason in _NO_TLS


def _tls_fault(error: aiohttp.ClientConnectorSSLError) -> str:
    reason = error.os_error.reason if isinstance(error.os_error, ssl.SSLError) else None
    return (reason or type(error.os_error).__name__).lower().replace("_", " ")


def _certificate_fault(error: Exception) -> str:
    return error.verify_message.rstrip(".") if isinstance(error, ssl.SSLCertVerificationError) else type(error).__name__


def _is_misnamed(error: Exception) -> bool:
    return isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _NAME_MISMATCHES
