"""Redaction of secrets in logs and other output: by form (keys, tokens), by position (``token=…``), and known values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

__all__ = ["Redactor", "known_secrets", "redact"]

CUT: Final = "[redacted]"
_SHORTEST = 8
"""Characters; a shorter known secret would match parts of ordinary words."""
_DEEPEST = 8

# before a key: no letter or digit, except at the end of a JSON, Python or percent escape
_EDGE = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=%[0-9A-Fa-f]{2})|(?<=\\x[0-9a-f]{2})|(?<=\\u[0-9a-f]{4}))"
_KEY = r"(?:(?:sk|ek|rk|pk|sess|whsec|code_af|xai|hf|gsk)[-_][A-Za-z0-9_-]{8,}|AIza[A-Za-z0-9_-]{20,})"
_JWT = r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"
_ICE = r"a=(?:ice-pwd|fingerprint):[^\r\n\\\"']+"
_SCHEME = r"(?i:bearer|basic)(?:\s|%20|\+)+[^\s\"'\\,;<>]{6,}"
_USER = r"(?<=://)[^\s/@\"'\\]+(?=@)"
_HEADERS = r"(?:proxy[-_])?authorization|(?:set[-_])?cookie"
_NAMES = r"(?:[a-z0-9]+[-_]){0,4}(?:api[-_]?key|token|secret|password|passwd)|apikey|credential|ice[-_]?pwd|(?:[a-z]+[-_])?signature"
_SECRET = re.compile(f"{_EDGE}(?:{_KEY}|{_JWT})|{_ICE}|{_SCHEME}|{_USER}")
# name=value, name: value, "name": "value", also with escaped quotes; the value is replaced, the name stays
_WHOLE = re.compile(
    rf"(?i)(?P<name>(?<![A-Za-z0-9])(?:{_HEADERS})(?:\\*[\"'])?\s*(?:=|:)\s*(?P<open>\\*[\"'])?)[^\r\n\"'\\]+"
)
_PLACED = re.compile(
    rf"(?i)(?P<name>(?<![A-Za-z0-9])(?:{_NAMES}|(?<=[?&#])(?:code|key))(?:\\*[\"'])?\s*(?:=|:|%3D|%3A)\s*)"
    r"(?:(?P<open>\\*[\"'])(?:(?!(?P=open)).)+|(?!\[redacted\]|\\*[\"'])[^\s&\"'\\,;<>}\])]+)"
)
_NAMED = re.compile(rf"(?i)(?:{_HEADERS}|{_NAMES})")


def redact(text: str) -> str:
    """Return `text` with keys, tokens, codes, passwords and ICE credentials replaced."""
    return _PLACED.sub(_cut, _WHOLE.sub(rf"\g<name>{CUT}", _SECRET.sub(CUT, text)))


def _cut(match: re.Match[str]) -> str:
    return f"{match['name']}{match['open'] or ''}{CUT}"


def known_secrets(environ: Mapping[str, str]) -> list[str]:
    """Return the values of an environment that are secret by their names (``…_KEY``, ``…_TOKEN``, ``…_SECRET``, ``…_PASSWORD``)."""
    return [value for name, value in environ.items() if name.upper().endswith(("KEY", "TOKEN", "SECRET", "PASSWORD"))]


class Redactor:
    """Redacts text and JSON values.

    Args:
        secrets: Texts that are always replaced, also in their percent-encoded and JSON-escaped forms.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        spelled = {secret for secret in secrets if len(secret) >= _SHORTEST}
        spelled |= {spelling for secret in spelled for spelling in (quote(secret), quote(secret, safe=""))}
        for _ in range(2):
            # escaped by JSON and Python, twice: a log line may contain JSON inside JSON
            spelled |= {spelling for secret in spelled for spelling in _spellings(secret)}
        # longest first: one may be a prefix of another
        self._known = re.compile(
            "|".join(re.escape(each) for each in sorted(spelled, key=len, reverse=True)) or r"(?!)"
        )

    def text(self, text: str) -> str:
        """Return `text` with secrets replaced."""
        return redact(self._known.sub(CUT, text))

    def value(self, value: Any, depth: int = 0) -> Any:
        """Return a JSON value with secrets replaced; the value of a field with a secret's name is replaced as a whole."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.text(value)
        if depth < _DEEPEST and isinstance(value, Mapping):
            return {
                self.text(str(name)): CUT if _NAMED.fullmatch(str(name)) else self.value(part, depth + 1)
                for name, part in value.items()
            }
        if depth < _DEEPEST and isinstance(value, list | tuple | set | frozenset):
            return [self.value(part, depth + 1) for part in value]
        if isinstance(value, bytes):
            return self.text(value.decode("utf-8", "replace"))
        return self.text(repr(value))


def _spellings(text: str) -> tuple[str, str, str]:
    return json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]
