"""Splits text into clauses that are synthesised one after the other, small ones first to start playback early."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["MAX_CLAUSE", "MAX_FIRST_CLAUSE", "split_clauses", "split_text"]

MAX_FIRST_CLAUSE = 60
"""Maximum characters of the first piece: the caller waits for its synthesis."""

_FIRST_JOINED = 40
"""Maximum characters of the first piece after joining a further clause to it."""

MAX_CLAUSE = 140
"""Maximum characters of each later piece; it is synthesised while the piece before it plays."""

_CLOSERS = "[\"')\N{RIGHT DOUBLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}]*"
_ABBREVIATION = re.compile(r"\b(?:dr|mr|mrs|ms|st|jr|sr|vs|etc|[a-z])\.$", re.IGNORECASE)
_END_OF_CLAUSE = re.compile(rf"(?<=[.!?;,:…—]){_CLOSERS}\s+")
_SENTENCE_END = re.compile(rf"[.!?…]{_CLOSERS}$")


def split_clauses(text: str, first: int = MAX_FIRST_CLAUSE, rest: int = MAX_CLAUSE) -> Iterator[str]:
    """Yield the clauses of a text in order, split at punctuation and at the maximum length.

    Clauses of a sentence are joined while they fit, so that the voice keeps its intonation; pieces without a letter or
    digit are omitted.

    Args:
        text: Text to speak.
        first: Maximum characters of the first piece.
        rest: Maximum characters of each further piece.
    """
    piece = ""
    limit, joined = first, min(first, _FIRST_JOINED)
    for clause in _clauses(text):
        for part in _cap(clause, limit, rest):
            if piece and (len(piece) + 1 + len(part) > joined or _is_sentence(piece)):
                yield piece
                piece, limit, joined = "", rest, rest
            piece = f"{piece} {part}" if piece else part
    if piece:
        yield piece


def split_text(text: str) -> list[str]:
    """Split a text where the voice pauses; unlike clauses, the pieces keep all characters and join to the text."""
    pieces: list[str] = []
    start = 0
    for clause in split_clauses(text):
        # Clauses have normalised white space, so count their other characters to find their end in the text.
        end, characters = start, len("".join(clause.split()))
        while end < len(text) and characters:
            characters -= not text[end].isspace()
            end += 1
        pieces.append(text[start:end])
        start = end
    if start < len(text):
        pieces[-1:] = ["".join((*pieces[-1:], text[start:]))]
    return pieces


def _clauses(text: str) -> Iterator[str]:
    """Yield the clauses, each with its punctuation; omit those without words."""
    pending = ""
    for clause in _END_OF_CLAUSE.split(" ".join(text.split())):
        pending = f"{pending} {clause}" if pending else clause
        if _ABBREVIATION.search(pending):
            continue
        if _has_words(pending):
            yield pending
        pending = ""
    if _has_words(pending):
        yield pending


def _cap(clause: str, first: int, rest: int) -> Iterator[str]:
    """Yield a clause in parts of at most `first`, then `rest` characters, split between words where possible."""
    limit = first
    while len(clause) > limit:
        space = clause.rfind(" ", 1, limit + 1)
        end = space if space > 0 else limit
        yield clause[:end]
        clause = clause[end:].strip()
        limit = rest
    if clause:
        yield clause


def _is_sentence(piece: str) -> bool:
    return bool(_SENTENCE_END.search(piece))


def _has_words(text: str) -> bool:
    return any(character.isalnum() for character in text)
