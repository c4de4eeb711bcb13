"""Interim transcript: the words of a turn that may be over, transcribed while its final silence still lasts."""

from __future__ import annotations

import asyncio
import logging

from agentfield_local.runtime.tasks import TaskSet
from agentfield_local.speech.pool import EnginePool

__all__ = ["InterimTranscript"]

_log = logging.getLogger(__name__)


class InterimTranscript:
    """The latest interim transcript of one caller: the words of its turn if the turn ends with the current pause.

    At most one transcription of a caller runs at a time, and none starts while the engine has other work.

    Args:
        pool: The engines.
        tasks: Owner of the transcription task.
    """

    def __init__(self, pool: EnginePool, tasks: TaskSet) -> None:
        self._pool = pool
        self._tasks = tasks
        self._paused_ms: int | None = None
        self._job: asyncio.Task[str | None] | None = None

    def start(self, paused_ms: int, pcm: bytes) -> None:
        """Transcribe a turn up to a pause, unless a transcription for an earlier pause still runs.

        Args:
            paused_ms: Position of the pause in the stream, which identifies it.
            pcm: The turn up to the pause, 16 kHz s16le mono.
        """
        if self._job is None or self._job.done():
            self._paused_ms = paused_ms
            self._job = self._tasks.start(self._transcribe(pcm), "interim transcript")

    async def result(self, paused_ms: int | None) -> str | None:
        """Return the words of the turn that ended with this pause; None if there is no transcript for it."""
        if self._job is None or paused_ms is None or paused_ms != self._paused_ms:
            return None
        job, self._job = self._job, None
        return await job

    async def _transcribe(self, pcm: bytes) -> str | None:
        try:
            return await self._pool.transcribe_early(pcm)
        except Exception as error:  # noqa: BLE001 - an engine may raise anything; the whole turn is transcribed later
            _log.debug("a turn could not be transcribed early", exc_info=error)
            return None
