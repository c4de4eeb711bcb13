"""Terminal caller of recorded turns: posts each recording and plays the streamed answer in real time."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import numpy as np

from agentfield.errors import ControlPlaneUnavailable
from agentfield_cli.call.audio_io import AudioSink, PlayoutBuffer, TerminalCall
from agentfield_cli.call.recordings import FRAME, RATE, Resampler, Samples, turn_wav

__all__ = ["RecordedTurnsCall", "place_recorded_turns_call"]

_ANSWER_TIMEOUT: Final = 60.0
_RETRY_WINDOW: Final = 10.0
"""Seconds during which a broken answer stream is requested again."""

_RETRY_INTERVAL: Final = 0.5
_TICK: Final = FRAME / RATE

Post = Callable[[bytes, str, str], AsyncIterator[Mapping[str, Any]]]
"""Posts a recording with its media type and an idempotency key, and yields the events of the answer."""


class RecordedTurnsCall(TerminalCall):
    """An established call of recorded turns.

    Args:
        post: Posts a recording.
        rate: Samples per second of the posted recordings.
    """

    def __init__(self, post: Post, rate: int) -> None:
        sink = AudioSink()
        super().__init__(self, sink, None)
        self._post = post
        self._rate = rate
        self._player = PlayoutBuffer(sink)
        self._sources: dict[str, str] = {}
        self._resamplers: dict[str, Resampler] = {}

    async def say(self, samples: Samples) -> float:
        """Post `samples` as one turn, play the answer, and return the time of the post."""
        recording, key = await asyncio.to_thread(turn_wav, samples, self._rate), str(uuid.uuid4())
        at = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                await self._take_answer(recording, key)
        return at

    async def _take_answer(self, recording: bytes, key: str) -> None:
        """Take the whole answer.

        A broken stream is requested again with the same key. The control plane then repeats the answer from its
        beginning, so events that were taken already are skipped by their number.
        """
        taken, lost_at, complete = 0, 0.0, False
        while not complete:
            try:
                number = 0
                async for event in self._post(recording, "audio/wav", key):
                    number += 1
                    if number > taken:
                        taken, lost_at = number, 0.0
                        self.take(event, "turn")
                complete = True
            except ControlPlaneUnavailable:
                lost_at = lost_at or time.monotonic()
                if not taken or time.monotonic() - lost_at > _RETRY_WINDOW:
                    raise
                await asyncio.sleep(_RETRY_INTERVAL)

    def take(self, event: Mapping[str, Any], source: str) -> None:
        """Play the audio of an event, if it has any.

        The session's event stream and the stream of a turn may both carry the audio of a reply; the stream that
        delivers its first piece is used for the whole reply.

        Args:
            event: The event.
            source: The stream that delivered it.
        """
        match event:
            case {"type": "reply.audio", "reply": str(reply), "data": str(data), "rate": int(rate)}:
                if self._sources.setdefault(reply, source) != source:
                    return
                with suppress(binascii.Error):
                    raw = base64.b64decode(data)
                    samples = np.frombuffer(raw[: len(raw) // 2 * 2], "<i2").astype(np.int16)
                    self._player.add(self._resamplers.setdefault(reply, Resampler(rate, RATE))(samples))
            case {"type": "interrupted", "reply": str(reply)} if reply == next(reversed(self._sources), None):
                self._player.clear()
            case _:
                pass

    async def tick(self) -> None:
        """Play one frame every 20 ms of the monotonic clock."""
        started, count = time.monotonic(), 0
        while True:
            await asyncio.sleep(max(0.0, started + count * _TICK - time.monotonic()))
            count += 1
            self._player.frame()


@asynccontextmanager
async def place_recorded_turns_call(post: Post, *, rate: int) -> AsyncIterator[RecordedTurnsCall]:
    """Place a call of recorded turns.

    The user of the call passes the events of the session to `RecordedTurnsCall.take`: they carry what the agent says
    outside of a turn.

    Args:
        post: Posts a recording.
        rate: Samples per second of the posted recordings.
    """
    call = RecordedTurnsCall(post, rate)
    ticking = asyncio.create_task(call.tick())
    try:
        yield call
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
