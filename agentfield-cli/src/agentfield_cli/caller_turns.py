"""The terminal caller by recorded turns: posts each recording, and plays the answer that streams back by the clock."""

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
from agentfield_cli.audio import FRAME, RATE, Resampler, Samples, wav
from agentfield_cli.hearing import Call, Ear, Player

__all__ = ["TurnsCall", "place_turns_call"]

_ANSWER: Final = 60.0
_AWAY: Final = 10.0
"""Seconds that an answer which broke off is asked for again."""

_AGAIN: Final = 0.5
_TICK: Final = FRAME / RATE

Post = Callable[[bytes, str, str], AsyncIterator[Mapping[str, Any]]]
"""Posts a recording of a media type under an idempotency key, and yields what is answered."""


class TurnsCall(Call):
    """A call of recorded turns that is up.

    Args:
        post: Posts a recording.
        rate: Samples per second that recordings are sent at.
    """

    def __init__(self, post: Post, rate: int) -> None:
        ear = Ear()
        super().__init__(self, ear, None)
        self._post = post
        self._rate = rate
        self._player = Player(ear)
        self._sources: dict[str, str] = {}
        self._resamplers: dict[str, Resampler] = {}

    async def say(self, samples: Samples) -> float:
        """Post `samples` as one turn, take the answer, and return when it was posted."""
        recording, key = await asyncio.to_thread(wav, samples, self._rate), str(uuid.uuid4())
        at = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER):
                await self._answered(recording, key)
        return at

    async def _answered(self, recording: bytes, key: str) -> None:
        """Take the whole answer; one that breaks off is asked for again with the same key, and comes from its beginning."""
        taken, lost_at, whole = 0, 0.0, False
        while not whole:
            try:
                number = 0
                async for event in self._post(recording, "audio/wav", key):
                    number += 1
                    if number > taken:
                        taken, lost_at = number, 0.0
                        self.take(event, "turn")
                whole = True
            except ControlPlaneUnavailable:
                lost_at = lost_at or time.monotonic()
                if not taken or time.monotonic() - lost_at > _AWAY:
                    raise
                await asyncio.sleep(_AGAIN)

    def take(self, event: Mapping[str, Any], source: str) -> None:
        """Play the audio of an event, if it has any.

        The session's own stream and that of a turn may both carry the audio of a reply: the one that has it first counts.
        """
        match event:
            case {"type": "reply.audio", "reply": str(reply), "data": str(data), "rate": int(rate)}:
                if self._sources.setdefault(reply, source) != source:
                    return
                with suppress(binascii.Error):
                    raw = base64.b64decode(data)
                    heard = np.frombuffer(raw[: len(raw) // 2 * 2], "<i2").astype(np.int16)
                    self._player.add(self._resamplers.setdefault(reply, Resampler(rate, RATE))(heard))
            case {"type": "interrupted", "reply": str(reply)} if reply == next(reversed(self._sources), None):
                self._player.clear()
            case _:
                pass

    async def tick(self) -> None:
        """Hear 20 ms each 20 ms, by the monotonic clock."""
        begun, count = time.monotonic(), 0
        while True:
            await asyncio.sleep(max(0.0, begun + count * _TICK - time.monotonic()))
            count += 1
            self._player.frame()


@asynccontextmanager
async def place_turns_call(post: Post, *, rate: int) -> AsyncIterator[TurnsCall]:
    """Make a call of recorded turns; what the agent says outside of a turn is handed to `TurnsCall.take` by the caller.

    Args:
        post: Posts a recording.
        rate: Samples per second that recordings are sent at.
    """
    call = TurnsCall(post, rate)
    ticking = asyncio.create_task(call.tick())
    try:
        yield call
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
