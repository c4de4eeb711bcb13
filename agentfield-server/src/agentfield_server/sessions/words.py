"""Comparing and measuring words: verbatim, heard text, names with a date. Pure functions."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["CHARS_PER_SECOND", "heard_prefix", "normalised", "rest_of", "same_name", "speaking_seconds", "verbatim"]

CHARS_PER_SECOND = 15.0
"""How fast speech runs when nobody measured it: about 170 English words a minute."""

_NOISE = re.compile(r"[^\w\s]|_")
_DATE = re.compile(r"-\d{4}-?\d{2}-?\d{2}")


def normalised(text: str) -> list[str]:
    """Return the words of a text: NFKC, case folded, apostrophes dropped, other punctuation taken as space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    joined = folded.replace("'", "").replace("\u2019", "")
    return _NOISE.sub(" ", joined).split()


def verbatim(asked: str, generated: str) -> bool:
    """Tell whether two texts are the same words."""
    return normalised(asked) == normalised(generated)


def speaking_seconds(text: str) -> float:
    """Return about how long it takes to speak a text."""
    return len(text) / CHARS_PER_SECOND


def heard_prefix(text: str, heard_ms: int, audio_ms: int | None = None) -> str:
    """Return about what was heard of a text after so many milliseconds, in whole words, never more than there is.

    Args:
        text: All of it.
        heard_ms: How much was heard, milliseconds.
        audio_ms: How long all of it sounds, milliseconds; None goes by how fast people usually speak.
    """
    heard = max(0, heard_ms)
    count = int(heard * len(text) / audio_ms) if audio_ms else int(heard / 1000 * CHARS_PER_SECOND)
    if count >= len(text):
        return text
    if count <= 0:
        return ""
    cut = text.rfind(" ", 0, count + 1)
    return text[:cut].rstrip() if cut > 0 else ""


def rest_of(text: str, heard: str) -> str:
    """Return what is left of a text after its heard beginning, counted in words so that punctuation may differ."""
    words = len(normalised(heard))
    if words == 0:
        return text
    seen = 0
    for match in re.finditer(r"\S+", text):
        seen += len(normalised(match.group()))
        if seen >= words:
            return text[match.end() :].lstrip()
    return ""


def same_name(asked: str, echoed: str) -> bool:
    """Tell whether a provider's name of a model or voice is the one asked for, perhaps with a date behind it."""
    if asked == echoed:
        return True
    return echoed.startswith(asked) and _DATE.fullmatch(echoed[len(asked) :]) is not None
