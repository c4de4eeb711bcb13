"""Spoken numbers: "four two seven", "four twenty seven" and "427" are read as the same number."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["fold_numbers", "spoken_numbers"]

_UNITS = {
    word: value
    for value, word in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
}
_TEENS = {
    word: value
    for value, word in enumerate(
        ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"],
        start=10,
    )
}
_TENS = {
    word: value * 10
    for value, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )
}
_SCALES = {"thousand": 1_000, "million": 1_000_000}
_HUNDRED = "hundred"
_LETTER_O = ("o", "oh")
_WORD = re.compile(r"[a-z0-9]+")


class _Group:
    """Parser of one number: "four hundred and twenty seven" is one group, "four two" are two."""

    def __init__(self) -> None:
        self.total = 0
        self.current = 0
        self.last = ""

    def take(self, word: str) -> bool:
        """Extend the number by a word; return False if the word begins another number."""
        if word in _UNITS:
            return self._add(_UNITS[word], "unit", after=("", _HUNDRED, "scale", "tens") if word != "zero" else ("",))
        if word in _TEENS:
            return self._add(_TEENS[word], "teen", after=("", _HUNDRED, "scale"))
        if word in _TENS:
            return self._add(_TENS[word], "tens", after=("", _HUNDRED, "scale"))
        if word.isdigit():
            return self._add(int(word), "digits", after=("",))
        return self._multiply(word)

    def _add(self, value: int, kind: str, *, after: tuple[str, ...]) -> bool:
        if self.last not in after:
            return False
        self.current += value
        self.last = kind
        return True

    def _multiply(self, word: str) -> bool:
        if word == _HUNDRED and self.last in {"unit", "teen", "tens", "digits"}:
            self.current *= 100
            self.last = _HUNDRED
            return True
        if word in _SCALES and self.last in {"unit", "teen", "tens", "digits", _HUNDRED}:
            self.total += self.current * _SCALES[word]
            self.current = 0
            self.last = "scale"
            return True
        return False

    @property
    def value(self) -> int:
        """Value of the words so far."""
        return self.total + self.current


def fold_numbers(words: Sequence[str]) -> list[str]:
    """Return lower-case words with each run of number words and digits replaced by one string of digits.

    "four two seven", "four twenty seven" and "4 27" all become "427"; "four hundred and five" becomes "405".
    """
    folded: list[str] = []
    run = ""
    index = 0
    while index < len(words):
        digits, after = _read(words, index)
        if digits:
            run += digits
        elif run and words[index] in _LETTER_O and _begins(words, index + 1):
            run, after = run + "0", index + 1
        else:
            folded += [run, words[index]] if run else [words[index]]
            run, after = "", index + 1
        index = after
    return [*folded, run] if run else folded


def spoken_numbers(text: str) -> list[str]:
    """Return the numbers in a text, in order, each as a string of digits."""
    return [word for word in fold_numbers(_WORD.findall(text.lower())) if word.isdigit()]


def _read(words: Sequence[str], index: int) -> tuple[str, int]:
    """Return the digits of the number that begins at `index` ("" if there is none), and the index after it."""
    if not _begins(words, index):
        return "", index
    group, first = _Group(), index
    while index < len(words):
        joined = words[index] == "and" and group.last in {_HUNDRED, "scale"} and _begins(words, index + 1)
        if not joined and not group.take(words[index]):
            break
        index += 1
    literal = index == first + 1 and words[first].isdigit()
    return (words[first] if literal else str(group.value)), index


def _begins(words: Sequence[str], index: int) -> bool:
    if index >= len(words):
        return False
    word = words[index]
    return word in _UNITS or word in _TEENS or word in _TENS or word.isdigit()
