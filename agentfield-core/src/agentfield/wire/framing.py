"""Framing of the node link: one or more frames in a WebSocket message, one per line, so that load does not multiply messages."""

from __future__ import annotations

import asyncio

__all__ = ["MESSAGE_CHARACTERS", "join_frames", "split_frames"]

MESSAGE_CHARACTERS = 64 * 1024
"""Length at which a message takes no further frame."""


def join_frames(first: str, waiting: asyncio.Queue[str]) -> str:
    """Return a message of a frame and the frames queued behind it, in order.

    Args:
        first: The next frame.
        waiting: The queue of further frames; those in the message are removed from it.
    """
    frames, length = [first], len(first)
    while length < MESSAGE_CHARACTERS and not waiting.empty():
        frames.append(waiting.get_nowait())
        length += len(frames[-1])
    return "\n".join(frames)


def split_frames(message: str) -> list[str]:
    """Return the frames of a message, in order."""
    return message.split("\n")
