"""Several frames in one message of the node link, one a line: under load there are fewer messages than frames."""

from __future__ import annotations

import asyncio

__all__ = ["MESSAGE_CHARACTERS", "frames_of", "message_of"]

MESSAGE_CHARACTERS = 64 * 1024
"""A message that is this long takes no further frame."""


def message_of(first: str, waiting: asyncio.Queue[str]) -> str:
    """Return a message with a frame and what waits behind it, in order.

    Args:
        first: The frame to be sent next.
        waiting: What follows; frames that go with the message are taken out of it.
    """
    frames, length = [first], len(first)
    while length < MESSAGE_CHARACTERS and not waiting.empty():
        frames.append(waiting.get_nowait())
        length += len(frames[-1])
    return "\n".join(frames)


def frames_of(message: str) -> list[str]:
    """Return the frames of a message, in order."""
    return message.split("\n")
