"""Erasure of the bodies of a run: every copy that the store has, with the salts of their commitments."""

from __future__ import annotations

from collections.abc import Sequence

from agentfield_server.store.json_text import dump
from agentfield_server.store.operations import EraseBodies
from agentfield_server.store.proofs import EraseRun
from agentfield_server.store.records import NewEvent
from agentfield_server.store.sqlite.operations import events, payloads
from agentfield_server.store.sqlite.writer import Transaction

__all__ = ["erase_run"]

_CHOSEN = "run_id = ?1 AND (?2 IS NULL OR id IN (SELECT value FROM json_each(?2)))"
# All SQL below is built from constants; values are always bound.
_PAYLOADS = f"SELECT input_payload, output_payload FROM executions WHERE {_CHOSEN}"  # noqa: S608
_EXECUTIONS = f"""
UPDATE executions SET input = 'null', output = NULL, problem = NULL, progress = NULL, input_salt = NULL,
    output_salt = NULL, input_digest = CASE WHEN signature IS NULL THEN NULL ELSE input_digest END,
    input_payload = NULL, input_size = NULL, output_payload = NULL, output_size = NULL,
    actor_id = CASE WHEN ?2 IS NULL THEN NULL ELSE actor_id END
WHERE {_CHOSEN} AND status NOT IN ('queued', 'running', 'waiting')
"""  # noqa: S608
_APPROVALS = f"""
UPDATE approvals SET title = '', details = 'null', note = NULL, data = NULL, decided_by = NULL
WHERE status <> 'pending' AND execution_id IN (SELECT id FROM executions WHERE {_CHOSEN})
"""  # noqa: S608
_SESSION = """
UPDATE sessions SET caller = NULL, metadata = '{}', handler_state = '{}', call_ref = NULL, end_detail = NULL
WHERE run_id = ?
"""


def erase_run(transaction: Transaction, operation: EraseRun) -> int | None:
    """Erase bodies of a run, see `ProofStore.erase_run`."""
    run_id = operation.run_id
    seqs = operation.seqs
    if seqs is None:
        found = transaction.many(
            "SELECT seq FROM events WHERE run_id = ? AND salt IS NOT NULL AND type <> 'log.redacted'", [(run_id,)]
        )
        seqs = [seq for (seq,) in found]
    erased = events.erase(transaction, EraseBodies(run_id, seqs))
    if erased is None:
        return None
    chosen = None if operation.execution_ids is None else dump(list(operation.execution_ids))
    separate = transaction.many(_PAYLOADS, [(run_id, chosen)])
    executions = transaction.run(_EXECUTIONS, run_id, chosen)
    transaction.run(_APPROVALS, run_id, chosen)
    payloads.sweep(transaction, {digest for row in separate for digest in row if digest is not None})
    if chosen is None:
        transaction.run(_SESSION, run_id)
    body = {"reason": operation.reason, "by": operation.by, "events": erased, "executions": executions}
    # the numbers of the erased events, so that the gap in the record is itself on record
    body["seqs"] = _ranges(seqs)
    events.record(transaction, run_id, [NewEvent(type="log.redacted", body=body)])
    return erased


def _ranges(numbers: Sequence[int]) -> list[list[int]]:
    """Return sorted numbers as ranges of first and last."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges
