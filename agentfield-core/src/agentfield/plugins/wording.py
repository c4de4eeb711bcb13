"""Helpers for messages: suggestions and lists."""

from __future__ import annotations

from collections.abc import Iterable

from agentfield.arguments import did_you_mean

__all__ = ["did_you_mean", "listed"]


def listed(words: Iterable[str]) -> str:
    """Return the sorted words with commas, or "none"."""
    return ", ".join(sorted(words)) or "none"
