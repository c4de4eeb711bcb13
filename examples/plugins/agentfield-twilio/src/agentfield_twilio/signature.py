"""Twilio's request signatures: HMAC-SHA1 of the URL and the sorted form, with the account's token.

https://www.twilio.com/docs/usage/security#validating-requests
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

__all__ = ["equivalent_urls", "is_signed", "signature"]

_PORTS = {"https": 443, "wss": 443, "http": 80, "ws": 80}


def signature(token: str, url: str, form: Iterable[tuple[str, str]] = ()) -> str:
    """Return the signature of a request.

    Args:
        token: The account's token.
        url: The complete URL that Twilio requested, with its query.
        form: Names and values of the body; repeated equal pairs count once.
    """
    signed = url + "".join(name + value for name, value in sorted(set(form)))
    return base64.b64encode(hmac.new(token.encode(), signed.encode(), hashlib.sha1).digest()).decode()


def is_signed(token: str, given: str, url: str, form: Iterable[tuple[str, str]] = ()) -> bool:
    """Return whether a signature matches a request to `url`, in any of the forms in which Twilio writes that URL."""
    pairs = tuple(form)
    # compare all forms in constant time, so that the duration reveals nothing
    offered = given.encode(errors="replace")
    matches = [hmac.compare_digest(signature(token, each, pairs).encode(), offered) for each in equivalent_urls(url)]
    return any(matches)


def equivalent_urls(url: str) -> Iterator[str]:
    """Yield the forms of a URL: with and without the default port; a WebSocket URL also with a trailing slash."""
    parts = urlsplit(url)
    default_port = f":{_PORTS.get(parts.scheme, '')}"
    bare = parts.netloc.removesuffix(default_port)
    hosts = [bare, bare + default_port] if bare != parts.netloc or parts.port is None else [bare]
    paths = [parts.path, parts.path + "/"] if parts.scheme in ("ws", "wss") else [parts.path]
    for each in hosts:
        for path in paths:
            yield parts._replace(netloc=each, path=path).geturl()
