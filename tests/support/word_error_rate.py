"""Word error rate, pooled over a set of recordings, with both sides normalised alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from agentfield_local.brain.numbers import fold_numbers

__all__ = ["normalise", "word_error_rate", "word_errors"]

_APOSTROPHES = re.compile("['\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_WORD = re.compile(r"[^\W_]+")
_LONG_FORMS = {"mr": "mister", "mrs": "missus", "dr": "doctor", "wheres": "where is", "whats": "what is"}
"""Words that sound alike and that a transcript may spell either way."""


def normalise(text: str) -> list[str]:
    """Return the words of a text: lower case, hyphens as spaces, no apostrophes, long forms, number words folded to digits."""
    plain = _THOUSANDS.sub("", _APOSTROPHES.sub("", text.lower()))
    words = " ".join(_LONG_FORMS.get(word, word) for word in _WORD.findall(plain))
    return fold_numbers(words.split())


def word_errors(reference: Sequence[str], heard: Sequence[str]) -> int:
    """Return the edit distance of two lists of words."""
    previous = list(range(len(heard) + 1))
    for row, word in enumerate(reference, start=1):
        current = [row]
        for column, other in enumerate(heard, start=1):
            replaced = previous[column - 1] + (word != other)
            current.append(min(replaced, previous[column] + 1, current[-1] + 1))
        previous = current
    return previous[-1]


def word_error_rate(pairs: Iterable[tuple[str, str]]) -> float:
    """Return the errors of all pairs divided by the words of all references; 0.0 if there are no words at all.

    Args:
        pairs: Pairs of reference and transcript.
    """
    errors = words = 0
    for said, heard in pairs:
        reference, hypothesis = normalise(said), normalise(heard)
        errors += word_errors(reference, hypothesis)
        words += len(reference)
    return errors / words if words else float(errors > 0)
