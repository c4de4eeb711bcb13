"""Takes secrets out of what a provider says before anybody reads it."""

from __future__ import annotations

import re

__all__ = ["redact"]

_SECRETS = re.compile(
    r"(?i)\b(?:sk|ek|rk|pk|sess)[-_][A-Za-z0-9_*.-]{6,}|\bbearer\s+\S+|a=ice-pwd:\S+|a=fingerprint:[^\r\n]+"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def redact(text: str, *secrets: str, limit: int = 300) -> str:
    """Return `text` as one line of at most `limit` characters, without keys and without `secrets`.

    Args:
        text: What somebody else wrote; everything that looks like a key or like credentials of a call is taken out.
        secrets: Texts that must not be shown, whatever they look like.
        limit: The longest line.
    """
    head = text[: limit * 8]
    for secret in secrets:
        if secret:
            head = head.replace(secret, "[redacted]")
    clean = _CONTROL.sub(" ", _SECRETS.sub("[redacted]", head)).strip()
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"
