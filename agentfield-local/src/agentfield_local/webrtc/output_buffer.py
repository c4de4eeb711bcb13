"""Output audio buffer of a WebRTC caller: a queue of replies that plays to its end unless it is cleared. Sans-I/O.

It is the `output_audio_buffer` of the Realtime protocol.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from agentfield_local.audio.pcm import WEBRTC_RATE

__all__ = ["ClearedResponse", "OutputAudioBuffer", "PlaybackEvent"]

_BYTES_PER_MS = WEBRTC_RATE * 2 // 1000


@dataclass(frozen=True, slots=True)
class PlaybackEvent:
    """The first or the last sound of a response was played."""

    kind: Literal["started", "stopped"]
    response_id: str


@dataclass(frozen=True, slots=True)
class ClearedResponse:
    """A response whose playback was cut.

    Attributes:
        response_id: Its id.
        started: Whether any of it was played.
        heard: Milliseconds that were played, by item id.
    """

    response_id: str
    started: bool
    heard: dict[str, int]


@dataclass(slots=True)
class _Reply:
    response_id: str
    chunks: deque[tuple[str, bytes]] = field(default_factory=deque)
    offset: int = 0
    """Bytes of the first chunk that were played."""
    heard: dict[str, int] = field(default_factory=dict)
    """Bytes that were played, by item id."""
    started: bool = False
    complete: bool = False


class OutputAudioBuffer:
    """Replies in the order of their first audio, pulled frame by frame (48 kHz s16le mono)."""

    def __init__(self) -> None:
        self._replies: deque[_Reply] = deque()
        self._accepting = True
        self.buffered_bytes = 0

    @property
    def playing(self) -> bool:
        """Whether any reply is unfinished."""
        return bool(self._replies)

    def holds(self, response_id: str) -> bool:
        """Whether audio of this response waits or plays."""
        return any(reply.response_id == response_id for reply in self._replies)

    @property
    def buffered_ms(self) -> int:
        """Milliseconds that wait to be played."""
        return self.buffered_bytes // _BYTES_PER_MS

    def close(self) -> None:
        """Drop all audio, now and later: the caller is gone."""
        self._accepting = False
        self._replies.clear()
        self.buffered_bytes = 0

    def push(self, response_id: str, item_id: str, pcm: bytes) -> None:
        """Queue audio of an item of a response."""
        if not self._accepting or not pcm:
            return
        reply = next((r for r in self._replies if r.response_id == response_id), None)
        if reply is None:
            reply = _Reply(response_id)
            self._replies.append(reply)
        reply.chunks.append((item_id, pcm))
        reply.heard.setdefault(item_id, 0)
        self.buffered_bytes += len(pcm)

    def finish(self, response_id: str) -> None:
        """Mark the audio of a response as complete."""
        for reply in self._replies:
            if reply.response_id == response_id:
                reply.complete = True

    def pull(self, size: int) -> tuple[bytes, list[PlaybackEvent]]:
        """Return the next `size` bytes to play, padded with silence, and the playback events in them."""
        out = bytearray()
        events: list[PlaybackEvent] = []
        while self._replies and len(out) < size:
            reply = self._replies[0]
            if reply.chunks:
                if not reply.started:
                    reply.started = True
                    events.append(PlaybackEvent("started", reply.response_id))
                self._take(reply, out, size)
            elif reply.complete:
                self._replies.popleft()
                if reply.started:
                    events.append(PlaybackEvent("stopped", reply.response_id))
            else:
                break  # synthesis is slower than playback: wait, later replies must not overtake this one
        self.buffered_bytes -= len(out)
        return bytes(out).ljust(size, b"\0"), events

    @staticmethod
    def _take(reply: _Reply, out: bytearray, size: int) -> None:
        item_id, chunk = reply.chunks[0]
        piece = chunk[reply.offset : reply.offset + size - len(out)]
        out += piece
        reply.heard[item_id] += len(piece)
        reply.offset += len(piece)
        if reply.offset >= len(chunk):
            reply.chunks.popleft()
            reply.offset = 0

    def clear(self, matches: Callable[[str], bool]) -> list[ClearedResponse]:
        """Drop the replies whose response id matches, and return how much of each was played."""
        dropped = [reply for reply in self._replies if matches(reply.response_id)]
        self._replies = deque(reply for reply in self._replies if not matches(reply.response_id))
        for reply in dropped:
            self.buffered_bytes -= sum(len(chunk) for _, chunk in reply.chunks) - reply.offset
        return [
            ClearedResponse(r.response_id, r.started, {item: count // _BYTES_PER_MS for item, count in r.heard.items()})
            for r in dropped
        ]
