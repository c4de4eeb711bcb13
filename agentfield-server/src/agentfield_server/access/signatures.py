"""Signatures of webhooks, both ways: HMAC-SHA256 over the time and the body, so that neither can be replaced or replayed.

The header reads ``t=SECONDS,v1=HEX``, where the signed bytes are the seconds, a dot, and the body as it is on the wire.
"""

from __future__ import annotations

import hashlib
import hmac

from pydantic import SecretStr

from agentfield.errors import Forbidden

__all__ = ["HEADER", "TOLERANCE", "check_signature", "signature"]

HEADER = "X-AgentField-Signature"

TOLERANCE = 300.0
"""Seconds that the time of a signature may differ from ours."""


def signature(secret: SecretStr, body: bytes, *, at: float) -> str:
    """Return the header for a body that is sent now.

    Args:
        secret: Known to both sides.
        body: The bytes on the wire.
        at: Seconds since the epoch.
    """
    return f"t={int(at)},v1={_mac(secret, body, int(at))}"


def check_signature(secret: SecretStr | None, header: str | None, body: bytes, *, now: float) -> None:
    """Check the header of a body that came.

    Raises:
        Forbidden: There is no secret here (code `webhook_secret_missing`), or the signature does not fit the body, or it
            is older than five minutes (code `bad_signature`).
    """
    if secret is None:
        raise Forbidden(
            "This control plane has no secret for webhooks, so nobody can prove anything with one.",
            code="webhook_secret_missing",
            hint="start it with AGENTFIELD_WEBHOOK_SECRET set to a secret of at least 16 characters",
        )
    parts = dict(part.strip().partition("=")[::2] for part in (header or "").split(","))
    at, given = parts.get("t", ""), parts.get("v1", "")
    known = at.isascii() and at.isdigit() and len(at) <= 12
    # compared in any case, so that the time it takes tells nothing
    fits = hmac.compare_digest(given.encode(), _mac(secret, body, int(at) if known else 0).encode())
    if not fits or not known or abs(now - int(at)) > TOLERANCE:
        raise Forbidden(
            "The signature does not fit this body at this time.",
            code="bad_signature",
            hint=f"send {HEADER}: t=SECONDS,v1=HEX, the HMAC-SHA256 of 'SECONDS.BODY' with AGENTFIELD_WEBHOOK_SECRET",
        )


def _mac(secret: SecretStr, body: bytes, at: int) -> str:
    return hmac.new(secret.get_secret_value().encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
