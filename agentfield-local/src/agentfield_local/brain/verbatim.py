"""Reads a verbatim `say` out of a response's instructions."""

from __future__ import annotations

import re
from html import unescape

__all__ = ["verbatim_text"]

_OPEN, _CLOSE = "<say>", "</say>"
_AT_LINE_START = re.compile(rf"^[ \t]*{_OPEN}", re.MULTILINE)
_UNESCAPED = re.compile(r"<|&(?!(?:amp|lt|gt|quot|apos|#\d{1,7}|#x[0-9a-fA-F]{1,6});)")


def verbatim_text(instructions: str) -> str | None:
    """Return what is between <say> and </say>, unescaped if it was escaped as XML; None where there is no such block.

    The block is the one that starts a line, since the instructions before it may speak of the tags; else the last.
    """
    end = instructions.rfind(_CLOSE)
    if end < 0:
        return None
    opening = _AT_LINE_START.search(instructions, 0, end)
    start = opening.end() if opening else instructions.rfind(_OPEN, 0, end) + len(_OPEN)
    if not opening and start < len(_OPEN):
        return None
    text = instructions[start:end]
    return text if _UNESCAPED.search(text) else unescape(text)
