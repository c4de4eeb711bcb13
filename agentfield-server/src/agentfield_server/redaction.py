"""Takes secrets out of what is written for people: by their shape, by their place, and those that are known by heart."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

__all__ = ["Redactor", "known_secrets", "redact"]

CUT: Final = "[redacted]"
_SHORTEST = 8
"""Characters; what is shorter would be found in ordinary words."""
_DEEPEST = 8

# what may stand before a key: no part of a word, but the end of an escape of JSON, of Python or of an address
_EDGE = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=%[0-9A-Fa-f]{2})|(?<=\\x[0-9a-f]{2})|(?<=\\u[0-9a-f]{4}))"
_KEY = r"(?:(?:sk|ek|rk|pk|sess|whsec|code_af|xai|hf|gsk)[-_][A-Za-z0-9_-]{8,}|AIza[A-Za-z0-9_-]{20,})"
_JWT = r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"
_ICE = r"a=(?:ice-pwd|fingerprint):[^\r\n\\\"']+"
_SCHEME = r"(?i:bearer|basic)(?:\s|%20|\+)+[^\s\"'\\,;<>]{6,}"
_USER = r"(?<=://)[^\s/@\"'\\]+(?=@)"
_HEADERS = r"(?:proxy[-_])?authorization|(?:set[-_])?cookie"
_NAMES = r"(?:[a-z0-9]+[-_]){0,4}(?:api[-_]?key|token|secret|password|passwd)|apikey|credential|ice[-_]?pwd|(?:[a-z]+[-_])?signature"
_SECRET = re.compile(f"{_EDGE}(?:{_KEY}|{_JWT})|{_ICE}|{_SCHEME}|{_USER}")
# name=value, name: value, "name": "value", also with the quotes escaped; the value goes, the name stays
_WHOLE = re.compile(
    rf"(?i)(?P<name>(?<![A-Za-z0-9])(?:{_HEADERS})(?:\\*[\"'])?\s*(?:=|:)\s*(?P<open>\\*[\"'])?)[^\r\n\"'\\]+"
)
_PLACED = re.compile(
    rf"(?i)(?P<name>(?<![A-Za-z0-9])(?:{_NAMES}|(?<=[?&#])(?:code|key))(?:\\*[\"'])?\s*(?:=|:|%3D|%3A)\s*)"
    r"(?:(?P<open>\\*[\"'])(?:(?!(?P=open)).)+|(?!\[redacted\]|\\*[\"'])[^\s&\"'\\,;<>}\])]+)"
)
_NAMED = re.compile(rf"(?i)(?:{_HEADERS}|{_NAMES})")


def redact(text: str) -> str:
    """Return `text` without keys, tokens, codes, passwords and what authorises a call."""
    return _PLACED.sub(_cut, _WHOLE.sub(rf"\g<name>{CUT}", _SECRET.sub(CUT, text)))


def _cut(match: re.Match[str]) -> str:
    return f"{match['name']}{match['open'] or ''}{CUT}"


def known_secrets(environ: Mapping[str, str]) -> list[str]:
    """Return the values of an environment that are secret by their names (``…_KEY``, ``…_TOKEN``, ``…_SECRET``, ``…_PASSWORD``)."""
    return [value for name, value in environ.items() if name.upper().endswith(("KEY", "TOKEN", "SECRET", "PASSWORD"))]


class Redactor:
    """Redacts text and whole values.

    Args:
        secrets: Texts that must never be shown, whatever they look like; also as addresses and JSON spell them.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        spelled = {secret for secret in secrets if len(secret) >= _SHORTEST}
        spelled |= {spelling for secret in spelled for spelling in (quote(secret), quote(secret, safe=""))}
        for _ in range(2):
            # as JSON and Python spell it, and as they spell what they had spelled already
            spelled |= {spelling for secret in spelled for spelling in _spellings(secret)}
        # the longest first: one may be the beginning of another
        self._known = re.compile(
            "|".join(re.escape(each) for each in sorted(spelled, key=len, reverse=True)) or r"(?!)"
        )

    def text(self, text: str) -> str:
        """Return `text` without secrets."""
        return redact(self._known.sub(CUT, text))

    def value(self, value: Any, depth: int = 0) -> Any:
        """Return something that JSON can hold, without secrets: of what has a secret's name nothing stays."""
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
