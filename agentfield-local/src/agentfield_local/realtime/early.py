"""Words ahead of time: a turn that may be over is transcribed while its last silence still goes on."""

from __future__ import annotations

import asyncio
import logging

from agentfield_local.engines_pool import EnginesPool
from agentfield_local.tasks import Tasks

__all__ = ["EarlyWords"]

_log = logging.getLogger(__name__)


class EarlyWords:
    """The latest guess of one caller: what was said, should the turn end with the pause that it is in.

    At most one job of a caller is under way, and none is begun while the engine has other work.

    Args:
        pool: The engines.
        tasks: Owns the job.
    """

    def __init__(self, pool: EnginesPool, tasks: Tasks) -> None:
        self._pool = pool
        self._tasks = tasks
        self._paused_ms: int | None = None
        self._job: asyncio.Task[str | None] | None = None

    def begin(self, paused_ms: int, pcm: bytes) -> None:
        """There is a pause: look for the words before it, unless those before an earlier pause are still looked for.

        Args:
            paused_ms: Where in the stream the pause was told of.
            pcm: The turn until there, 16 kHz s16le mono.
        """
        if self._job is None or self._job.done():
            self._paused_ms = paused_ms
            self._job = self._tasks.start(self._transcribe(pcm), "early words")

    async def words(self, paused_ms: int | None) -> str | None:
        """Return the words of the turn that ended with this pause; None if nobody looked for them, or in vain."""
        if self._job is None or paused_ms is None or paused_ms != self._paused_ms:
            return None
        job, self._job = self._job, None
        return await job

    async def _transcribe(self, pcm: bytes) -> str | None:
        try:
            return await self._pool.transcribe_early(pcm)
        except Exception as error:  # noqa: BLE001 - an engine may raise anything; the whole turn is still to be tried
            _log.debug("a turn could not be transcribed early", exc_info=error)
            return None
