"""Redaction of secrets in texts of a provider."""

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
        text: A text from outside; everything that looks like a key or call credentials is redacted.
        *secrets: Exact texts to redact.
        limit: Maximum length of the line.
    """
    head = text[: limit * 8]
    for secret in secrets:
        if secret:
            head = head.replace(secret, "[redacted]")
    clean = _CONTROL.sub(" ", _SECRETS.sub("[redacted]", head)).strip()
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"
