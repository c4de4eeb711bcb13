"""Comparison and measurement of text: same words, heard prefix, model names with a date. Pure functions."""

from __future__ import annotations

import re
import unicodedata

__all__ = [
    "CHARS_PER_SECOND",
    "heard_prefix",
    "is_beginning",
    "is_same_model",
    "is_verbatim",
    "normalised_words",
    "speaking_seconds",
    "unheard_rest",
]

CHARS_PER_SECOND = 15.0
"""Assumed speaking rate where none was measured: about 170 English words a minute."""

_NOISE = re.compile(r"[^\w\s]|_")
_DATE = re.compile(r"-\d{4}-?\d{2}-?\d{2}")


def normalised_words(text: str) -> list[str]:
    """Return the words of a text: NFKC, case-folded, without apostrophes, other punctuation read as space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    joined = folded.replace("'", "").replace("\u2019", "")
    return _NOISE.sub(" ", joined).split()


def is_verbatim(asked: str, generated: str) -> bool:
    """Return whether two texts consist of the same words."""
    return normalised_words(asked) == normalised_words(generated)


def is_beginning(asked: str, generated: str) -> bool:
    """Return whether the generated words are a beginning of the words asked for; the last one may be incomplete."""
    wanted, said = normalised_words(asked), normalised_words(generated)
    if len(said) > len(wanted):
        return False
    return said[:-1] == wanted[: max(0, len(said) - 1)] and (not said or wanted[len(said) - 1].startswith(said[-1]))


def speaking_seconds(text: str) -> float:
    """Estimate how many seconds it takes to speak a text."""
    return len(text) / CHARS_PER_SECOND


def heard_prefix(text: str, heard_ms: int, audio_ms: int | None = None) -> str:
    """Estimate which beginning of a text was heard after some milliseconds, in whole words.

    Args:
        text: The whole text.
        heard_ms: How much was heard, milliseconds.
        audio_ms: Duration of the whole text, milliseconds; None uses `CHARS_PER_SECOND`.
    """
    heard = max(0, heard_ms)
    count = int(heard * len(text) / audio_ms) if audio_ms else int(heard / 1000 * CHARS_PER_SECOND)
    if count >= len(text):
        return text
    if count <= 0:
        return ""
    cut = text.rfind(" ", 0, count + 1)
    return text[:cut].rstrip() if cut > 0 else ""


def unheard_rest(text: str, heard: str) -> str:
    """Return the rest of a text after its heard beginning, counted in words because punctuation may differ."""
    words = len(normalised_words(heard))
    if words == 0:
        return text
    seen = 0
    for match in re.finditer(r"\S+", text):
        seen += len(normalised_words(match.group()))
        if seen >= words:
            return text[match.end() :].lstrip()
    return ""


def is_same_model(asked: str, echoed: str) -> bool:
    """Return whether the provider's name of a model or voice is the one asked for, possibly with a date appended."""
    if asked == echoed:
        return True
    return echoed.startswith(asked) and _DATE.fullmatch(echoed[len(asked) :]) is not None
