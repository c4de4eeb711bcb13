"""Subjects of credentials, from rows of the store: what is stated about an execution, turn or session."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec.json import decode

from agentfield.identity import canonical, commitment, new_salt, unb64url
from agentfield.proof.documents import Kind, SpeechRecord, execution_subject
from agentfield.proof.heads import Coverage
from agentfield_server.store.proofs import Ended
from agentfield_server.store.records import EventRow, SessionRow

__all__ = ["Stated", "session_facts", "speech_record", "state"]


class Stated(NamedTuple):
    """A subject, and the salts that were made for it."""

    subject: dict[str, Any]
    input_salt: bytes | None
    output_salt: bytes | None


def state(
    row: Ended,
    *,
    number: int,
    speech: Sequence[SpeechRecord] = (),
    session: dict[str, Any] | None = None,
    log: Coverage | None = None,
) -> Stated:
    """Return the subject of an ended execution.

    Commitments that its node stated are taken as they are. The others are made from the recorded bodies, with new salts where the
    execution has none.

    Args:
        row: The execution.
        number: Number of its credential in the run.
        speech: Its speeches, of a turn or session.
        session: Facts of a session.
        log: The head of a run without session, in its last credential.
    """
    node, input_salt, output_salt = None, None, None
    if row.statement is not None and row.proof is not None and row.signer is not None:
        stated = decode(row.statement)
        # checked when the result was recorded
        names = ("node_id", "instance_id", "audience", "epoch", "retry")
        node = {"did": row.signer, "result_proof": decode(row.proof), **{name: stated[name] for name in names}}
        given = unb64url(stated["input"])
        outcome = unb64url(stated["output" if row.status == "succeeded" else "problem"])
    else:
        input_salt = None if row.input_salt is not None else new_salt()
        output_salt = None if row.output_salt is not None else new_salt()
        given = commitment(row.input_salt or input_salt or b"", canonical(row.input))
        body = row.output if row.status == "succeeded" else row.problem
        outcome = commitment(row.output_salt or output_salt or b"", canonical(body))
    subject = execution_subject(
        kind=_KINDS[row.kind],
        number=number,
        execution_id=row.id,
        run_id=row.run_id,
        target=row.target,
        status=row.status,
        attempt=row.attempt,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        input=given,
        outcome=outcome,
        session_id=row.session_id,
        parent_id=row.parent_id,
        speech=speech,
        session=session,
        log=log,
    )
    if node is not None:
        subject["node"] = node
    return Stated(subject, input_salt, output_salt)


_KINDS: dict[str, Kind] = {"call": "call", "tool": "tool", "turn": "turn", "session": "session"}


def speech_record(event: EventRow) -> SpeechRecord:
    """Return what is stated about a speech; nothing but its commitment is left of an erased one."""
    known = {} if event.body is None else json.loads(event.body)
    heard_ms = known.get("heard_ms")
    return SpeechRecord(
        event=event.seq,
        body=unb64url(json.loads(event.entry)["body"]),
        verbatim=known.get("verbatim"),
        heard_ms=None if heard_ms is None else max(0, int(heard_ms)),
        heard_method=known.get("heard_method"),
    )


def session_facts(row: SessionRow) -> dict[str, Any]:
    """Return the facts of a session: the pair, model and voice as resolved at its start, and its end."""
    declaration = row.config.get("declaration", {})
    return {
        "provider": declaration.get("provider") or "unknown",
        "transport": declaration.get("transport") or "unknown",
        "model": row.config.get("model"),
        "voice": row.config.get("voice"),
        "end_reason": row.end_reason,
        "turns": row.turns,
    }
