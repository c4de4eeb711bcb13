"""The token of a media stream: bound to one call and one session, short-lived, and accepted once.

It is signed, not stored, so that any replica of the control plane accepts the stream of a call that another one answered.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections import OrderedDict

__all__ = ["LIFETIME", "StreamTokens"]

LIFETIME = 60
"""Seconds from the command that starts the stream until it must be open."""
_MAX_USED = 10_000
_MAX_TOKEN = 4000
"""Characters; Telnyx's limit."""
_PURPOSE = b"agentfield-telnyx: token of a media stream"


class StreamTokens:
    """Makes and checks the tokens of media streams.

    Args:
        api_key: The account's API key; the tokens are signed with a key derived from it.
    """

    def __init__(self, api_key: str) -> None:
        self._key = hmac.new(api_key.encode(), _PURPOSE, hashlib.sha256).digest()
        self._used: OrderedDict[str, float] = OrderedDict()
        """Signatures of accepted tokens, each with the end of its lifetime."""

    def issue(self, target: str, call: str, now: float) -> str:
        """Return a token for the stream of a call.

        Args:
            target: The session that the stream will start.
            call: The call control id.
            now: Seconds since the epoch.
        """
        head = ".".join((str(int(now) + LIFETIME), secrets.token_urlsafe(12), _encode(call.encode())))
        return f"{head}.{self._sign(target, head)}"

    def accept(self, token: str, target: str, now: float) -> str | None:
        """Return the call of a token, None unless it is valid for the session and accepted for the first time."""
        head, _, signature = token.rpartition(".")
        if len(token) > _MAX_TOKEN or not token.isascii():
            return None
        if not hmac.compare_digest(self._sign(target, head).encode(), signature.encode()):
            return None
        expires, _, call = head.split(".")
        if now > int(expires) or signature in self._used:
            return None
        self._forget_expired(now)
        self._used[signature] = int(expires)
        return _decode(call)

    def _sign(self, target: str, head: str) -> str:
        return _encode(hmac.new(self._key, f"{target}\n{head}".encode(), hashlib.sha256).digest())

    def _forget_expired(self, now: float) -> None:
        # in order of acceptance, which is nearly that of expiry
        while self._used and (len(self._used) >= _MAX_USED or now > next(iter(self._used.values()))):
            self._used.popitem(last=False)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _decode(text: str) -> str | None:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except (ValueError, binascii.Error):
        return None
