"""Framing of the node link: one or more frames in a WebSocket message, one per line, so that load does not multiply messages."""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from typing import TypeVar

__all__ = ["MESSAGE_CHARACTERS", "MESSAGE_FRAMES", "split_frames", "take_frames"]

T = TypeVar("T", bound=Sized)

MESSAGE_CHARACTERS = 64 * 1024
"""Length at which a message takes no further frame."""

MESSAGE_FRAMES = 256
"""Frames of a message; as many results may share a signature."""


def take_frames(first: T, waiting: asyncio.Queue[T]) -> list[T]:
    """Return the frames of the next message, in order; they are joined with newlines.

    Args:
        first: The next frame: its text, or what becomes its text.
        waiting: The queue of further frames; those in the message are removed from it.
    """
    frames, length = [first], len(first)
    while length < MESSAGE_CHARACTERS and len(frames) < MESSAGE_FRAMES and not waiting.empty():
        frames.append(waiting.get_nowait())
        length += len(frames[-1])
    return frames


def split_frames(message: str) -> list[str]:
    """Return the frames of a message, in order."""
    return message.split("\n")
