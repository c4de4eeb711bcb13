"""Redaction of what has ended: bodies and salts go with every copy, and the log, heads and credentials still verify."""

from __future__ import annotations

from collections.abc import Sequence

from agentfield.errors import Conflict, InvalidInput, NotFound, Unavailable
from agentfield_server.proof.issuing import Issuer
from agentfield_server.store.proofs import ProofStore

__all__ = ["RunRedactor"]

_PAGE = 500


class RunRedactor:
    """Erases bodies of runs.

    Args:
        store: The store.
        issuer: Signs the head that covers the event of a redaction.
    """

    def __init__(self, store: ProofStore, issuer: Issuer) -> None:
        self._store = store
        self._issuer = issuer

    async def redact(self, run_id: str, *, executions: Sequence[str] | None, reason: str, by: str) -> int:
        """Erase bodies and salts of a run, record that as `log.redacted`, and sign a head over it; return the erased events.

        Args:
            run_id: The run.
            executions: Only the bodies of these executions and of their events; None for all of the run.
            reason: Recorded reason.
            by: Recorded principal.

        Raises:
            NotFound: The run does not exist or was pruned (code `unknown_run`), or has no such execution (code
                `unknown_execution`).
            InvalidInput: The log has format 1 (code `log_format_1`).
            Conflict: The run, or one of the executions, has not ended (code `run_open`).
            Unavailable: Its credentials are not issued yet (code `credentials_pending`).
        """
        log_format = await self._store.log_format(run_id)
        if log_format is None:
            raise NotFound(f"There is no run {run_id!r}.", code="unknown_run")
        if log_format == 1:
            raise InvalidInput(
                f"The log of {run_id} has format 1: its entries hold the bodies, so that none can be erased by itself.",
                code="log_format_1",
                hint="delete old runs as a whole: af store prune --older-than 30d",
            )
        # commitments are made from the bodies, so they come first
        if executions is None:
            await self._check_over(run_id)
            ready = await self._issuer.settle(run_id)
        else:
            await self._check_executions(run_id, executions)
            ready = await self._issuer.issued(executions)
        if not ready:
            raise Unavailable(
                f"The credentials of {run_id} are not issued yet.",
                code="credentials_pending",
                hint="try again in some seconds",
            )
        seqs = None if executions is None else await self._events_of(run_id, executions)
        erased = await self._store.erase_run(run_id, seqs=seqs, execution_ids=executions, reason=reason, by=by)
        # erased pages leave the write-ahead log, which would hold them until its next checkpoint
        await self._store.compact(pages=1)
        await self._issuer.sign_head(run_id)
        return erased or 0

    async def _check_over(self, run_id: str) -> None:
        if not await self._store.has_ended(run_id):
            raise Conflict(
                f"{run_id} has not ended, and what is open still needs its bodies.",
                code="run_open",
                hint="af session end SESSION, or POST /api/v1/workflows/RUN/cancel; then redact again",
            )

    async def _check_executions(self, run_id: str, executions: Sequence[str]) -> None:
        known = {row.id: row.status for row in await self._store.get_executions(executions) if row.run_id == run_id}
        for each in executions:
            if each not in known:
                raise NotFound(f"{run_id} has no execution {each!r}.", code="unknown_execution")
            if known[each] in ("queued", "running", "waiting"):
                raise Conflict(
                    f"{each} has not ended and still needs its bodies.",
                    code="run_open",
                    hint=f"POST /api/v1/executions/{each}/cancel, then redact again",
                )

    async def _events_of(self, run_id: str, executions: Sequence[str]) -> list[int]:
        chosen, seqs, after = set(executions), list[int](), 0
        while rows := await self._store.read_events(run_id, after=after, limit=_PAGE):
            seqs += [row.seq for row in rows if row.execution_id in chosen]
            after = rows[-1].seq
        return seqs
