"""Verbatim text in the instructions of a response."""

from __future__ import annotations

import re
from html import unescape

__all__ = ["verbatim_text"]

_OPEN, _CLOSE = "<say>", "</say>"
_AT_LINE_START = re.compile(rf"^[ \t]*{_OPEN}", re.MULTILINE)
_UNESCAPED = re.compile(r"<|&(?!(?:amp|lt|gt|quot|apos|#\d{1,7}|#x[0-9a-fA-F]{1,6});)")


def verbatim_text(instructions: str) -> str | None:
    """Return the text between <say> and </say>, unescaped if it was escaped as XML; None if there is no such block.

    The first block at the start of a line counts, since instructions before it may mention the tags; otherwise the last
    block.
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
