"""Speech engines and the brain behind worker threads: one thread an engine, a bounded queue each, never the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from agentfield_local.brain.protocol import Brain, BrainRequest, Step
from agentfield_local.speech.protocols import SPEECH_RATE, SpeechEngines

__all__ = ["Busy", "EnginesPool", "Worker"]

T = TypeVar("T")
_END = object()


class Busy(Exception):
    """An engine has more work waiting than it may queue."""


class Worker:
    """One thread with a bounded queue.

    Args:
        name: Name of the thread.
        limit: Jobs that may wait or run at once.
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
        """Run a function in the thread, after what was asked for before.

        Raises:
            Busy: The queue is full.
        """
        if self._jobs >= self._limit:
            raise Busy(f"the {self._name} engine is overloaded: {self._limit} jobs wait")
        self._jobs += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, work, *args)
        future.add_done_callback(self._finished)
        return await future

    def _finished(self, _: object) -> None:
        self._jobs -= 1

    async def close(self) -> None:
        """Let the running job end and drop the rest."""
        await asyncio.to_thread(self._executor.shutdown, wait=True, cancel_futures=True)


class EnginesPool:
    """All engines of a server, shared by its sessions.

    Args:
        engines: The speech engines.
        brain: The brain.
    """

    def __init__(self, engines: SpeechEngines, brain: Brain) -> None:
        self.engines = engines
        self._brain = brain
        self.ears = Worker("vad", limit=512)
        self._stt = Worker("stt")
        self._tts = Worker("tts")
        self._thought = Worker("brain")

    async def warm(self) -> None:
        """Run every engine once, so that the first caller does not wait for it."""
        silence = b"\0" * (SPEECH_RATE // 2 * 2)
        vad = self.engines.vad()
        await self.ears.run(vad.probability, b"\0" * vad.chunk_bytes)
        await self._stt.run(self.engines.stt.transcribe, silence)
        async for _ in self.speak("Ready, one, two."):
            pass

    async def transcribe(self, pcm: bytes) -> str:
        """Return the words in 16 kHz s16le mono audio."""
        return await self._stt.run(self.engines.stt.transcribe, pcm)

    async def transcribe_early(self, pcm: bytes) -> str | None:
        """Return the words so far of a turn that may go on; None at once if that would keep other work waiting."""
        return await self.transcribe(pcm) if self._stt.idle else None

    async def respond(self, request: BrainRequest) -> Sequence[Step]:
        """Return what the brain wants said and called."""
        return await self._thought.run(self._brain.respond, request)

    async def speak(self, text: str) -> AsyncIterator[bytes]:
        """Yield a text's audio a clause at a time; other texts get their turn between clauses."""
        clauses = self.engines.tts.say(text)
        while True:
            clause = await self._tts.run(_next, clauses)
            if clause is None:
                return
            yield clause

    async def close(self) -> None:
        """Stop the threads."""
        async with asyncio.TaskGroup() as group:
            for worker in (self.ears, self._stt, self._tts, self._thought):
                group.create_task(worker.close())


def _next(clauses: Iterator[bytes]) -> bytes | None:
    found = next(clauses, _END)
    return found if isinstance(found, bytes) else None
