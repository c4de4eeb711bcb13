"""Takes secrets, and words of the caller, out of what a provider says before anybody reads it."""

from __future__ import annotations

import re

__all__ = ["redact"]

_SECRETS = re.compile(r"(?i)\b(?:sk|ek|rk|pk|sess)[-_][A-Za-z0-9_*.-]{6,}|\bbearer\s+\S+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def redact(text: str, *secrets: str, limit: int = 300) -> str:
    """Return `text` as one line of at most `limit` characters, without keys and without `secrets`."""
    head = text[: limit * 8]
    for secret in secrets:
        if secret:
            head = head.replace(secret, "[redacted]")
    clean = _CONTROL.sub(" ", _SECRETS.sub("[redacted]", head)).strip()
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"
