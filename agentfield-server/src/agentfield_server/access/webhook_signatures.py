"""Webhook signatures in both directions: HMAC-SHA256 over time and body, against forgery and replay.

The header is ``t=SECONDS,v1=HEX``; the signed bytes are the seconds, a dot, and the body as sent.
"""

from __future__ import annotations

import hashlib
import hmac

from pydantic import SecretStr

from agentfield.errors import Forbidden

__all__ = ["HEADER", "TOLERANCE", "check_signature", "signature"]

HEADER = "X-AgentField-Signature"

TOLERANCE = 300.0
"""Maximum difference between the time of a signature and the local clock, in seconds."""


def signature(secret: SecretStr, body: bytes, *, at: float) -> str:
    """Return the signature header of a body.

    Args:
        secret: The shared secret.
        body: The body as sent.
        at: Seconds since the epoch.
    """
    return f"t={int(at)},v1={_mac(secret, body, int(at))}"


def check_signature(secret: SecretStr | None, header: str | None, body: bytes, *, now: float) -> None:
    """Verify the signature header of a received body.

    Raises:
        Forbidden: No secret is configured (code `webhook_secret_missing`), or the signature does not match the body, or
            its time is more than `TOLERANCE` seconds away (code `bad_signature`).
    """
    if secret is None:
        raise Forbidden(
            "This control plane has no webhook secret, so it cannot verify a signature.",
            code="webhook_secret_missing",
            hint="start it with AGENTFIELD_WEBHOOK_SECRET set to a secret of at least 16 characters",
        )
    parts = dict(part.strip().partition("=")[::2] for part in (header or "").split(","))
    at, given = parts.get("t", ""), parts.get("v1", "")
    known = at.isascii() and at.isdigit() and len(at) <= 12
    # always compared, so that the response time tells nothing about the header
    fits = hmac.compare_digest(given.encode(), _mac(secret, body, int(at) if known else 0).encode())
    if not fits or not known or abs(now - int(at)) > TOLERANCE:
        raise Forbidden(
            "The signature does not match the body, or its time is too far away.",
            code="bad_signature",
            hint=f"send {HEADER}: t=SECONDS,v1=HEX, the HMAC-SHA256 of 'SECONDS.BODY' with AGENTFIELD_WEBHOOK_SECRET",
        )


def _mac(secret: SecretStr, body: bytes, at: int) -> str:
    return hmac.new(secret.get_secret_value().encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
