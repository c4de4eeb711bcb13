"""How Twilio signs what it asks: HMAC-SHA1 of the address and the sorted form, with the account's token.

https://www.twilio.com/docs/usage/security#validating-requests
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

__all__ = ["addresses", "is_signed", "signature"]

_PORTS = {"https": 443, "wss": 443, "http": 80, "ws": 80}


def signature(token: str, url: str, form: Iterable[tuple[str, str]] = ()) -> str:
    """Return the signature of a request.

    Args:
        token: The account's token.
        url: The whole address as Twilio asked for it, its query with it.
        form: Names and values of the body; a name that comes twice with one value counts once.
    """
    signed = url + "".join(name + value for name, value in sorted(set(form)))
    return base64.b64encode(hmac.new(token.encode(), signed.encode(), hashlib.sha1).digest()).decode()


def is_signed(token: str, given: str, url: str, form: Iterable[tuple[str, str]] = ()) -> bool:
    """Tell whether a signature is that of a request to `url`, however Twilio writes the same address."""
    pairs = tuple(form)
    # all are compared, in constant time each: how long it takes tells nothing
    offered = given.encode(errors="replace")
    matches = [hmac.compare_digest(signature(token, each, pairs).encode(), offered) for each in addresses(url)]
    return any(matches)


def addresses(url: str) -> Iterator[str]:
    """Yield the ways in which one address may be written: with and without its usual port, a socket's also with a slash."""
    parts = urlsplit(url)
    usual = f":{_PORTS.get(parts.scheme, '')}"
    bare = parts.netloc.removesuffix(usual)
    hosts = [bare, bare + usual] if bare != parts.netloc or parts.port is None else [bare]
    paths = [parts.path, parts.path + "/"] if parts.scheme in ("ws", "wss") else [parts.path]
    for each in hosts:
        for path in paths:
            yield parts._replace(netloc=each, path=path).geturl()
