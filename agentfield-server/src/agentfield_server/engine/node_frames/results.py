"""Results of nodes: verified, recorded, and acknowledged after the commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from agentfield.errors import InvalidInput, error_from_problem
from agentfield.values import Encoded, is_large
from agentfield.wire.frames import PauseRequest, Result, ResultAck
from agentfield_server.engine.approvals import Approvals
from agentfield_server.engine.backoff import backoff_delay
from agentfield_server.engine.dispatch import Dispatcher
from agentfield_server.engine.entries import EntryRecorder
from agentfield_server.engine.results import Outcome, ResultVerifier, commit_input, encode_output
from agentfield_server.engine.tasks import BackgroundTasks
from agentfield_server.engine.waiters import FINAL
from agentfield_server.nodes import AssignedAttempt, Handled, LinkedNode
from agentfield_server.store.operations import CompleteExecution, Then, settling
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import Execution, NewEvent

__all__ = ["NodeResults"]


class NodeResults:
    """Records the results of attempts.

    Args:
        store: The store.
        verifier: Verifies results.
        dispatcher: Dispatches an attempt that follows a failed one.
        entries: The entries that the store does not have yet.
        approvals: Suspends an execution that waits for a decision.
        tasks: Runs what has to wait.
        closed: Called with each execution that is closed by a result, and its link.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        verifier: ResultVerifier,
        dispatcher: Dispatcher,
        entries: EntryRecorder,
        approvals: Approvals,
        tasks: BackgroundTasks,
        *,
        closed: Callable[[Execution, LinkedNode], None],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._verifier = verifier
        self._dispatcher = dispatcher
        self._entries = entries
        self._approvals = approvals
        self._tasks = tasks
        self._closed = closed
        self._clock = clock

    def handle(self, link: LinkedNode, frame: Result, done: Handled) -> None:
        """Record the result of an attempt, notify waiters, then acknowledge it.

        The acknowledgement comes after the commit: an unacknowledged result is sent again over the next link.
        """
        assigned = link.assigned.get(frame.execution_id)
        recorded = partial(self._recorded, link, frame, done)
        if assigned is None:
            self._tasks.start_then(self._is_recorded(link, frame), partial(_acknowledge, link, frame, done))
        elif is_large(frame.output) or (assigned.input_commitment is None and assigned.input_salt is not None):
            self._tasks.start_then(self._read_and_record(link, frame, assigned), recorded)
        else:
            self._record(link, frame, assigned, encode_output(frame), recorded)

    def fail(self, link: LinkedNode, frame: Result, problem: dict[str, Any], done: Handled) -> None:
        """Record a failure instead of a result that the control plane failed at, then acknowledge it."""
        assigned = link.assigned.get(frame.execution_id)
        acknowledge = partial(_acknowledge, link, frame, done)
        if assigned is None:
            acknowledge(None, None)
        else:
            failure = error_from_problem({**problem, "execution_id": frame.execution_id}).to_problem()
            self._complete(link, frame, assigned, Outcome(status="failed", problem=failure), acknowledge)

    async def _read_and_record(self, link: LinkedNode, frame: Result, assigned: AssignedAttempt) -> bool:
        """Record a result whose input was not read, or with a large output."""
        if assigned.input_commitment is None and assigned.input_salt is not None:  # taken over from an earlier link
            row = await self._store.get_execution(frame.execution_id)
            if row is not None:
                assigned.execution = row
                assigned.input_commitment = await commit_input(assigned.input_salt, row.input)
        output = await asyncio.to_thread(encode_output, frame)
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._record(link, frame, assigned, output, settling(future))
        return await future

    def _record(
        self,
        link: LinkedNode,
        frame: Result,
        assigned: AssignedAttempt,
        output: Encoded | InvalidInput,
        then: Then[bool],
    ) -> None:
        outcome = self._verifier.verify(frame, link=link, assigned=assigned, output=output)
        if outcome.status == "waiting" or (frame.retry and outcome.status != "succeeded"):
            self._tasks.start_then(self._continue(link, frame, assigned, outcome), then)
        else:
            self._complete(link, frame, assigned, outcome, then)

    def _complete(
        self, link: LinkedNode, frame: Result, assigned: AssignedAttempt, outcome: Outcome, then: Then[bool]
    ) -> None:
        entered = self._entries.take(frame.execution_id, frame.attempt, frame.epoch)
        operation = CompleteExecution(
            execution_id=frame.execution_id,
            attempt=frame.attempt,
            epoch=frame.epoch,
            status=outcome.status,
            output=outcome.output,
            output_text=outcome.output_text,
            problem=outcome.problem,
            input_digest=outcome.input_digest,
            output_digest=outcome.output_digest,
            signature=outcome.signature,
            signer=outcome.signer,
            statement=outcome.statement,
            proof=outcome.proof,
            entered=entered if entered is None or frame.took is None else frame.took,
            known=assigned.execution,
        )
        self._store.post(operation, partial(self._completed, link, then))

    def _completed(
        self, link: LinkedNode, then: Then[bool], closed: Execution | None, error: BaseException | None
    ) -> None:
        try:
            if closed is not None:
                self._closed(closed, link)
        finally:
            then(closed is not None, error)

    def _recorded(
        self, link: LinkedNode, frame: Result, done: Handled, used: bool | None, error: BaseException | None
    ) -> None:
        """Acknowledge a result; one that was not used may have come before."""
        acknowledge = partial(_acknowledge, link, frame, done)
        if used or error is not None:
            acknowledge(used, error)
        else:
            self._tasks.start_then(self._is_recorded(link, frame), acknowledge)

    async def _is_recorded(self, link: LinkedNode, frame: Result) -> bool:
        row = await self._store.get_execution(frame.execution_id)
        return row is not None and row.status in FINAL and await self._verifier.is_recorded(frame, link=link, row=row)

    # --- an attempt that another one follows

    async def _continue(self, link: LinkedNode, frame: Result, assigned: AssignedAttempt, outcome: Outcome) -> bool:
        self._entries.submit(frame.execution_id)
        if outcome.status == "waiting" and frame.pause is not None:
            return await self._suspend(link, frame, frame.pause)
        if frame.retry and await self._schedule_retry(link, frame, outcome):
            return True
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._complete(link, frame, assigned, outcome, settling(future))
        return await future

    async def _schedule_retry(self, link: LinkedNode, frame: Result, outcome: Outcome) -> bool:
        """Queue another attempt if one is left and the result is signed by the node."""
        row = await self._store.get_execution(frame.execution_id)
        if row is None or row.attempt >= row.max_attempts or outcome.signer is None:
            return False
        at = self._clock() + backoff_delay(row.backoff, row.attempt)
        if row.deadline is not None and at >= row.deadline:
            return False
        body = {"attempt": frame.attempt, "status": outcome.status, "problem": outcome.problem, "not_before": at}
        event = NewEvent(type="execution.retrying", body=body, execution_id=row.id)
        queued = await self._store.requeue_execution(
            row.id, attempt=frame.attempt, epoch=frame.epoch, not_before=at, anew=True, events=(event,)
        )
        if queued:
            self._dispatcher.release(link, row.id)
            self._dispatcher.work_waiting(link.node_id)
        return queued

    async def _suspend(self, link: LinkedNode, frame: Result, request: PauseRequest) -> bool:
        """Suspend an execution until a decision; its slot on the node is free from then on."""
        approval = await self._approvals.suspend(frame.execution_id, request, attempt=frame.attempt, epoch=frame.epoch)
        if approval is not None:
            self._dispatcher.release(link, frame.execution_id)
        return approval is not None


def _acknowledge(
    link: LinkedNode, frame: Result, done: Handled, used: bool | None, error: BaseException | None
) -> None:
    if error is None:
        link.post(ResultAck(execution_id=frame.execution_id, attempt=frame.attempt, accepted=bool(used)))
    done(error)
