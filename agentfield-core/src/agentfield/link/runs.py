"""Runs of reasoners: started, bounded, timed, cancelled, and their results signed."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from agentfield import context
from agentfield.errors import (
    AgentFieldError,
    ExecutionCancelled,
    ExecutionTimeout,
    InvalidInput,
    LimitExceeded,
    NotFound,
)
from agentfield.identity import NodeKey, b64url, digest, result_message
from agentfield.link.book import LinkBook
from agentfield.link.effects import Effect, Send
from agentfield.link.progress import Reporter
from agentfield.link.room import Room
from agentfield.pausing import Parked, RunState
from agentfield.reasoner import Reasoner, failure
from agentfield.wire.frames import MAX_VALUE_BYTES, Invoke, PauseRequest, Progress, Result

__all__ = ["Runs"]

_log = logging.getLogger("agentfield.node")
_Status = Literal["succeeded", "failed", "cancelled", "timeout", "parked"]
_LARGEST_PAUSE = 64 * 1024
_INLINE_BYTES = 64 * 1024
"""Values up to this size are hashed on the event loop, larger ones in a thread."""


class Runs:
    """The runs of one node.

    Args:
        node_id: The node.
        reasoners: Its functions by name.
        key: Signs results.
        book: Is told what begins and ends.
        apply: Carries out what the book answers.
        concurrency: Runs at a time; further ones wait, not yet accepted.
    """

    def __init__(
        self,
        *,
        node_id: str,
        reasoners: Mapping[str, Reasoner],
        key: NodeKey,
        book: LinkBook,
        apply: Callable[[Sequence[Effect]], None],
        concurrency: int,
    ) -> None:
        self._node_id = node_id
        self._reasoners = reasoners
        self._key = key
        self._book = book
        self._apply = apply
        self.room = Room(concurrency)
        self._threads = ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix=node_id)
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._stopped: dict[tuple[str, int], str] = {}

    def start(self, invoke: Invoke, group: asyncio.TaskGroup) -> None:
        """Begin a run as a task of `group`."""
        key = _key(invoke)
        name = f"{self._node_id}.{invoke.function} {key[0]}"
        self._tasks[key] = group.create_task(self._run(invoke), name=name)
        self._tasks[key].add_done_callback(lambda task: self._ended(invoke, task))

    def stop(self, execution_id: str, attempt: int, reason: str) -> None:
        """Cancel a run; a function in a thread runs on, and what it returns is dropped."""
        if (task := self._tasks.get((execution_id, attempt))) is not None:
            self._stopped[execution_id, attempt] = reason
            task.cancel()

    def reject(self, invoke: Invoke) -> None:
        """Answer an invocation that there is no room for."""
        problem = LimitExceeded(f"{self._node_id} has more work than it may hold.", retry_after=1).to_problem()
        self._apply(self._book.finished(self._signed(invoke, "failed", problem=problem)))

    def cancel(self) -> None:
        """Cut all runs off; the control plane will find them lost."""
        for task in self._tasks.values():
            task.cancel()

    def close(self) -> None:
        """Take no more work in threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, invoke: Invoke) -> None:
        reporter = Reporter(invoke, self._tell)
        with context.use(invoke.context, RunState(invoke, reporter)):
            async with self.room.place(invoke.context.execution_id):
                self._apply(self._book.entered(*_key(invoke)))
                entered = time.monotonic()
                try:
                    result = await self._attempt(invoke)
                finally:
                    reporter.close()
                took = round(time.monotonic() - entered, 6)
                self._apply(self._book.finished(result.model_copy(update={"took": took})))

    def _tell(self, frame: Progress) -> None:
        self._apply([Send(frame)])

    async def _attempt(self, invoke: Invoke) -> Result:
        target = f"{self._node_id}.{invoke.function}"
        seconds, clock = self._seconds(invoke), None
        try:
            async with asyncio.timeout(seconds) as clock:
                output = await self._reasoner(invoke.function).run(invoke.input, self._threads)
            return await self._succeeded(invoke, output)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return self._failed(invoke, target, error)  # nobody cancelled the run: its code raised this
        except Parked as parked:
            return self._parked(invoke, parked)
        except BaseExceptionGroup as group:
            waiting = _parked_in(group)
            return self._failed(invoke, target, group) if waiting is None else self._parked(invoke, waiting)
        except TimeoutError as error:
            if clock is None or not clock.expired():
                return self._failed(invoke, target, error)
            late = ExecutionTimeout(f"{target} was not done in time.", target=target)
            result = self._signed(invoke, "timeout", problem=late.to_problem())
            return self._or_again(invoke, result, error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- whatever its code raises is the run's result
            return self._failed(invoke, target, error)

    async def _succeeded(self, invoke: Invoke, output: Any) -> Result:
        size = len(json.dumps(output, ensure_ascii=False).encode())
        if size > MAX_VALUE_BYTES:
            raise LimitExceeded(
                f"{self._node_id}.{invoke.function} returned {size} bytes of JSON; at most {MAX_VALUE_BYTES} travel.",
                hint="Return a reference to large data instead of the data.",
            )
        if size > _INLINE_BYTES:
            return await asyncio.to_thread(self._signed, invoke, "succeeded", output=output)
        return self._signed(invoke, "succeeded", output=output)

    def _parked(self, invoke: Invoke, parked: Parked) -> Result:
        request = parked.request
        size = len(request.model_dump_json())
        if size > _LARGEST_PAUSE:
            error = LimitExceeded(
                f"What a decision is asked about may be {_LARGEST_PAUSE} bytes of JSON; this is {size}.",
                hint="ask with a reference to large data instead of the data",
            )
            return self._failed(invoke, f"{self._node_id}.{invoke.function}", error)
        return self._signed(invoke, "parked", pause=request)

    def _failed(self, invoke: Invoke, target: str, error: BaseException) -> Result:
        if not isinstance(error, AgentFieldError):
            _log.error("%s raised", target, exc_info=error)
        return self._or_again(invoke, self._signed(invoke, "failed", problem=failure(target, error)), error)

    def _or_again(self, invoke: Invoke, result: Result, error: BaseException) -> Result:
        """Ask for another attempt where the function is declared so; the control plane knows whether one is left."""
        reasoner = self._reasoners.get(invoke.function)
        again = reasoner is not None and reasoner.retries_after(error)
        return result.model_copy(update={"retry": True}) if again else result

    def _signed(
        self,
        invoke: Invoke,
        status: _Status,
        *,
        output: Any = None,
        problem: dict[str, Any] | None = None,
        pause: PauseRequest | None = None,
    ) -> Result:
        execution_id, attempt = _key(invoke)
        try:
            taken = digest(invoke.input)
        except InvalidInput as error:
            taken, status, output, problem = digest(None), "failed", None, error.to_problem()
        given = digest(output) if status == "succeeded" else None
        if pause is not None:
            given = digest(pause.model_dump(mode="json"))
        message = result_message(execution_id, attempt, status, taken, given)
        return Result(
            execution_id=execution_id,
            attempt=attempt,
            epoch=invoke.epoch,
            status=status,
            output=output,
            problem=problem,
            input_digest=taken,
            output_digest=given,
            signature=b64url(self._key.sign(message)),
            pause=pause,
        )

    def _ended(self, invoke: Invoke, task: asyncio.Task[None]) -> None:
        key = _key(invoke)
        if self._tasks.get(key) is task:
            del self._tasks[key]
        reason = self._stopped.pop(key, None)
        if not task.cancelled():
            return
        if reason is not None:
            target = f"{self._node_id}.{invoke.function}"
            problem = ExecutionCancelled(f"{target} was cancelled: {reason}.", target=target, reason=reason)
            self._apply(self._book.finished(self._signed(invoke, "cancelled", problem=problem.to_problem())))
        else:
            self._book.abandoned(*key)

    def _reasoner(self, name: str) -> Reasoner:
        try:
            return self._reasoners[name]
        except KeyError:
            raise NotFound(
                f"This instance of {self._node_id} has no reasoner {name!r}.",
                hint=f"It has: {', '.join(sorted(self._reasoners)) or 'none'}.",
            ) from None

    def _seconds(self, invoke: Invoke) -> float | None:
        reasoner = self._reasoners.get(invoke.function)
        limits = [reasoner.spec.timeout] if reasoner is not None else []
        if invoke.context.deadline is not None:
            limits.append(max(0.0, invoke.context.deadline - time.time()))
        return min((limit for limit in limits if limit is not None), default=None)


def _parked_in(group: BaseExceptionGroup[BaseException]) -> Parked | None:
    """Return the pause among what the tasks of a run ended with."""
    for each in group.exceptions:
        found = _parked_in(each) if isinstance(each, BaseExceptionGroup) else each
        if isinstance(found, Parked):
            return found
    return None


def _key(invoke: Invoke) -> tuple[str, int]:
    return invoke.context.execution_id, invoke.context.attempt
