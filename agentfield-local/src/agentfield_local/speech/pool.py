"""Worker threads of the speech engines and the brain: one thread and one bounded queue per engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from agentfield_local.brain.protocol import Brain, BrainRequest, Step
from agentfield_local.speech.protocols import SPEECH_RATE, SpeechEngines

__all__ = ["EngineBusy", "EnginePool", "EngineWorker"]

T = TypeVar("T")
_END = object()


class EngineBusy(Exception):
    """The queue of an engine is full."""


class EngineWorker:
    """One thread with a bounded queue.

    Args:
        name: Name of the engine, for the thread and for errors.
        limit: Maximum number of jobs that wait or run.
    """

    def __init__(self, name: str, limit: int = 64) -> None:
        self._name = name
        self._limit = limit
        self._jobs = 0
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"agentfield-{name}")

    @property
    def idle(self) -> bool:
        """Whether no job runs or waits."""
        return not self._jobs

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Run a function in the thread, after all earlier jobs.

        Raises:
            EngineBusy: The queue is full.
        """
        if self._jobs >= self._limit:
            raise EngineBusy(f"the {self._name} engine is overloaded: {self._limit} jobs wait")
        self._jobs += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, work, *args)
        # Counted down by the future, not by this coroutine: a job runs on when its caller is cancelled.
        future.add_done_callback(self._finished)
        return await future

    def _finished(self, _: object) -> None:
        self._jobs -= 1

    async def close(self) -> None:
        """Wait for the running job and cancel the queued ones."""
        await asyncio.to_thread(self._executor.shutdown, wait=True, cancel_futures=True)


class EnginePool:
    """All engines of a server, shared by its sessions.

    Args:
        engines: The speech engines.
        brain: The brain.
    """

    def __init__(self, engines: SpeechEngines, brain: Brain) -> None:
        self.engines = engines
        self._brain = brain
        self.vad_worker = EngineWorker("vad", limit=512)
        self._stt_worker = EngineWorker("stt")
        self._tts_worker = EngineWorker("tts")
        self._brain_worker = EngineWorker("brain")

    async def warm(self) -> None:
        """Run every engine once, so that the first caller does not wait for lazy initialisation."""
        silence = b"\0" * (SPEECH_RATE // 2 * 2)
        vad = self.engines.vad()
        await self.vad_worker.run(vad.probability, b"\0" * vad.chunk_bytes)
        await self._stt_worker.run(self.engines.stt.transcribe, silence)
        async for _ in self.speak("Ready, one, two."):
            pass

    async def transcribe(self, pcm: bytes) -> str:
        """Return the words in 16 kHz s16le mono audio."""
        return await self._stt_worker.run(self.engines.stt.transcribe, pcm)

    async def transcribe_early(self, pcm: bytes) -> str | None:
        """Return the words so far of a turn that may continue; None at once if the engine has other work."""
        return await self.transcribe(pcm) if self._stt_worker.idle else None

    async def respond(self, request: BrainRequest) -> Sequence[Step]:
        """Return the brain's answer."""
        return await self._brain_worker.run(self._brain.respond, request)

    async def speak(self, text: str) -> AsyncIterator[bytes]:
        """Yield the audio of a text clause by clause; between clauses, other texts get their turn."""
        clauses = self.engines.tts.say(text)
        while True:
            clause = await self._tts_worker.run(_next, clauses)
            if clause is None:
                return
            yield clause

    async def close(self) -> None:
        """Stop the threads."""
        async with asyncio.TaskGroup() as group:
            for worker in (self.vad_worker, self._stt_worker, self._tts_worker, self._brain_worker):
                group.create_task(worker.close())


def _next(clauses: Iterator[bytes]) -> bytes | None:
    # StopIteration cannot pass through a future: the end is a value.
    found = next(clauses, _END)
    return found if isinstance(found, bytes) else None
