"""Cuts text into pieces that are spoken one after the other: small, so that the first is heard early."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["FIRST_CLAUSE", "LATER_CLAUSE", "split_clauses"]

FIRST_CLAUSE = 60
"""Characters of the first piece, at most: its synthesis is what the caller waits for."""

_FIRST_JOINED = 40
"""Characters of the first piece beyond which no further clause is joined to it."""

LATER_CLAUSE = 140
"""Characters of each later piece, at most; it is made while the one before is heard."""

_CLOSERS = "[\"')\N{RIGHT DOUBLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}]*"
_ABBREVIATION = re.compile(r"\b(?:dr|mr|mrs|ms|st|jr|sr|vs|etc|[a-z])\.$", re.IGNORECASE)
_END_OF_CLAUSE = re.compile(rf"(?<=[.!?;,:…—]){_CLOSERS}\s+")
_SENTENCE_END = re.compile(rf"[.!?…]{_CLOSERS}$")


def split_clauses(text: str, first: int = FIRST_CLAUSE, later: int = LATER_CLAUSE) -> Iterator[str]:
    """Yield the text in order, cut at punctuation and where a clause is too long for one piece.

    Clauses of a sentence are joined while they fit, so that the voice keeps its melody; pieces without a letter or
    digit are left out.

    Args:
        text: what is to be spoken.
        first: the most characters of the first piece.
        later: the most characters of each later piece.
    """
    piece = ""
    limit, joined = first, min(first, _FIRST_JOINED)
    for clause in _clauses(text):
        for part in _cap(clause, limit, later):
            if piece and (len(piece) + 1 + len(part) > joined or _is_sentence(piece)):
                yield piece
                piece, limit, joined = "", later, later
            piece = f"{piece} {part}" if piece else part
    if piece:
        yield piece


def _clauses(text: str) -> Iterator[str]:
    """Yield the clauses, each with its punctuation; those without words are left out."""
    held = ""
    for clause in _END_OF_CLAUSE.split(" ".join(text.split())):
        held = f"{held} {clause}" if held else clause
        if _ABBREVIATION.search(held):
            continue
        if _has_words(held):
            yield held
        held = ""
    if _has_words(held):
        yield held


def _cap(clause: str, first: int, later: int) -> Iterator[str]:
    """Yield a clause in parts of at most `first`, then `later` characters, cut between words where possible."""
    limit = first
    while len(clause) > limit:
        cut = clause.rfind(" ", 1, limit + 1)
        cut = cut if cut > 0 else limit
        yield clause[:cut]
        clause = clause[cut:].strip()
        limit = later
    if clause:
        yield clause


def _is_sentence(piece: str) -> bool:
    return bool(_SENTENCE_END.search(piece))


def _has_words(text: str) -> bool:
    return any(character.isalnum() for character in text)
