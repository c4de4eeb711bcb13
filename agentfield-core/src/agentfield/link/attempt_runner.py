"""Runs attempts of reasoners: concurrency, time limits, cancellation, and their results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from agentfield import context
from agentfield.attempt_state import AttemptState, ExecutionSuspended
from agentfield.declarations.reasoner import Reasoner
from agentfield.errors import (
    ExecutionCancelled,
    ExecutionTimeout,
    LimitExceeded,
    NotFound,
)
from agentfield.link.concurrency_limiter import ConcurrencyLimiter
from agentfield.link.effects import Effect, Send
from agentfield.link.failures import is_cancelled, log_failure, reasoner_problem, suspension_in
from agentfield.link.progress_reporter import ProgressReporter
from agentfield.link.results import Outcome, ResultSigner
from agentfield.link.state import GIVEN_BACK, LinkState
from agentfield.link.thread_calls import ThreadCalls
from agentfield.values import Encoded
from agentfield.wire.frames import MAX_PAUSE_BYTES, MAX_VALUE_BYTES, Invoke, Progress

__all__ = ["AttemptRunner"]


class AttemptRunner:
    """The attempts that run on one node.

    Args:
        node_id: The node.
        reasoners: Its reasoners by name.
        signer: Makes their results.
        state: Receives the start and the result of each attempt.
        apply: Carries out the effects that `state` returns.
        enter: Reports the entry of an attempt; returns once the kernel has the report, False if it was given back.
        concurrency: Attempts that may run at a time; further ones wait and are not accepted yet.
        max_threads: Threads for functions that are not coroutines. More than `concurrency`, because a function that waits for
            a call gives up its slot but not its thread.
        thread_calls: The calls of those functions.
    """

    def __init__(
        self,
        *,
        node_id: str,
        reasoners: Mapping[str, Reasoner],
        signer: ResultSigner,
        state: LinkState,
        apply: Callable[[Sequence[Effect]], None],
        enter: Callable[[Invoke], Awaitable[bool]],
        concurrency: int,
        max_threads: int,
        thread_calls: ThreadCalls,
    ) -> None:
        self._node_id = node_id
        self._reasoners = reasoners
        self._signer = signer
        self._state = state
        self._apply = apply
        self._enter = enter
        self.limiter = ConcurrencyLimiter(concurrency)
        self._thread_calls = thread_calls
        self._threads = ThreadPoolExecutor(max_workers=max_threads, thread_name_prefix=node_id)
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._stopped: dict[tuple[str, int], str] = {}

    def start(self, invoke: Invoke, group: asyncio.TaskGroup) -> None:
        """Run an attempt as a task of `group`."""
        key = _key(invoke)
        name = f"{self._node_id}.{invoke.function} {key[0]}"
        self._tasks[key] = group.create_task(self._run(invoke), name=name)
        self._tasks[key].add_done_callback(lambda task: self._ended(invoke, task))

    def stop(self, execution_id: str, attempt: int, reason: str) -> None:
        """Cancel an attempt; a function in a thread keeps running and its result is dropped."""
        if (task := self._tasks.get((execution_id, attempt))) is not None:
            self._stopped[execution_id, attempt] = reason
            task.cancel()

    def reject(self, invoke: Invoke) -> None:
        """Answer an `Invoke` that exceeds the number of waiting attempts with a failure."""
        problem = LimitExceeded(f"{self._node_id} has too many attempts waiting.", retry_after=1).to_problem()
        self._report(invoke, Outcome("failed", problem=problem))

    def cancel(self) -> None:
        """Cancel all attempts without a result; the control plane will find them lost."""
        for task in self._tasks.values():
            task.cancel()

    def close(self) -> None:
        """Shut the thread pool down without waiting for functions that still run."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, invoke: Invoke) -> None:
        reporter = ProgressReporter(invoke, self._send_progress)
        state = AttemptState(invoke, reporter)
        with context.use(invoke.context, state):
            async with self.limiter.slot(invoke.context.execution_id):
                if not await self._enter(invoke):
                    return
                started_at = time.monotonic()
                try:
                    outcome = await self._outcome_of(invoke)
                finally:
                    self._thread_calls.release(state)
                    reporter.close()
                self._report(invoke, outcome, took=round(time.monotonic() - started_at, 6))

    def _send_progress(self, frame: Progress) -> None:
        self._apply([Send(frame)])

    def _report(self, invoke: Invoke, outcome: Outcome, *, took: float | None = None) -> None:
        self._apply(self._state.attempt_finished(*self._signer.result(invoke, outcome, took=took)))

    async def _outcome_of(self, invoke: Invoke) -> Outcome:
        """Run the function and return its outcome."""
        target = f"{self._node_id}.{invoke.function}"
        seconds, deadline = self._seconds(invoke), None
        try:
            async with asyncio.timeout(seconds) as deadline:
                output = await self._reasoner(invoke.function).run(invoke.input, self._threads)
            _require_awaited()
            return self._succeeded(invoke, output)
        except ExecutionSuspended as suspension:
            return self._suspended(invoke, suspension)
        except TimeoutError as error:
            if deadline is None or not deadline.expired():  # the function's own TimeoutError
                return self._failed(invoke, target, error)
            late = ExecutionTimeout(f"{target} exceeded its time limit.", target=target)
            return Outcome("timeout", problem=late.to_problem(), retry=self._retries(invoke, error))
        except BaseException as error:  # whatever user code raises, also SystemExit, is the attempt's result
            if is_cancelled(error):
                raise
            # A pause inside a task group arrives wrapped together with the cancellations of its siblings.
            suspension_inside = suspension_in(error) if isinstance(error, BaseExceptionGroup) else None
            if suspension_inside is not None:
                return self._suspended(invoke, suspension_inside)
            return self._failed(invoke, target, error)

    def _succeeded(self, invoke: Invoke, output: Encoded) -> Outcome:
        size = len(output)
        if size > MAX_VALUE_BYTES:
            raise LimitExceeded(
                f"{self._node_id}.{invoke.function} returned {size} bytes of JSON; the maximum is {MAX_VALUE_BYTES}.",
                hint="Return a reference to large data instead of the data.",
            )
        return Outcome("succeeded", output=output)

    def _suspended(self, invoke: Invoke, suspension: ExecutionSuspended) -> Outcome:
        request = suspension.request
        size = request.size
        if size > MAX_PAUSE_BYTES:
            error = LimitExceeded(
                f"A pause request may be {MAX_PAUSE_BYTES} bytes of JSON; this one is {size}.",
                hint="Pass a reference to large data instead of the data.",
            )
            return self._failed(invoke, f"{self._node_id}.{invoke.function}", error)
        return Outcome("parked", pause=request)

    def _failed(self, invoke: Invoke, target: str, error: BaseException) -> Outcome:
        log_failure(target, error, invoke.context)
        problem = reasoner_problem(target, error)
        return Outcome("failed", problem=problem, retry=self._retries(invoke, error))

    def _retries(self, invoke: Invoke, error: BaseException) -> bool:
        """Return whether the reasoner declares retries for an error; the control plane decides whether an attempt is left."""
        reasoner = self._reasoners.get(invoke.function)
        try:
            return reasoner is not None and reasoner.retries_after(error)
        except Exception:  # noqa: BLE001 -- the class and code of an exception are user code
            return False

    def _ended(self, invoke: Invoke, task: asyncio.Task[None]) -> None:
        key = _key(invoke)
        if self._tasks.get(key) is task:
            del self._tasks[key]
        reason = self._stopped.pop(key, None)
        if not task.cancelled() or reason == GIVEN_BACK:
            return
        if reason is not None:
            target = f"{self._node_id}.{invoke.function}"
            problem = ExecutionCancelled(f"{target} was cancelled: {reason}.", target=target, reason=reason)
            self._report(invoke, Outcome("cancelled", problem=problem.to_problem()))
        else:  # the node stops, or the attempt was superseded before its function began
            self._state.attempt_abandoned(*key)

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


def _require_awaited() -> None:
    """Raise the error of a call that the function forgot to await: its result is not what it seems."""
    if (state := context.run()) is not None and state.forgotten is not None:
        raise state.forgotten


def _key(invoke: Invoke) -> tuple[str, int]:
    return invoke.context.execution_id, invoke.context.attempt
