"""Names of voices that clients may ask for."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["accepted_voices"]

_OPENAI_VOICES = ("alloy", "ash", "ballad", "cedar", "coral", "echo", "marin", "sage", "shimmer", "verse")
"""Voices that clients of the protocol ask for by default; the engine's own voice speaks all of them."""


def accepted_voices(engine_voices: Iterable[str]) -> tuple[str, ...]:
    """Return the voices that may be asked for: those of the engine first, then the usual ones of the protocol."""
    return tuple(dict.fromkeys((*engine_voices, *_OPENAI_VOICES)))
