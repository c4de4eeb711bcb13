"""Verification of an export of a long session, with its signatures and hashes alone as the floor."""

from __future__ import annotations

import hashlib
import json
import time

from agentfield.identity import (
    NodeKey,
    canonical,
    commitment,
    event_frame,
    leaf_hash,
    new_salt,
    result_leaf,
    result_statement,
    sign_results,
    verify_signature,
)
from agentfield.proof import (
    Coverage,
    ExportWriter,
    LogTree,
    NodeProof,
    document_leaf,
    execution_subject,
    issue_credential,
    sign_head,
    verify_export,
)
from benchmarks.rows import Row

EVENTS, CREDENTIALS, EVENTS_OF_A_HEAD = 10_000, 3_000, 100
START = 1_796_000_000.25
RUN, SESSION = "run_01a232b0076b7345a751e2fd5ffa8ce4", "ses_01a232b0076b7345a751e2fd5ffa8ce4"
SECONDS = 8


def measure() -> list[Row]:
    """Verify an export of 10,000 events with 3,000 credentials, node proofs, heads and bodies."""
    issuer, node = NodeKey.generate(), NodeKey.generate()
    lines = _export(issuer, node)
    signatures = 1 + 2 * CREDENTIALS + EVENTS // EVENTS_OF_A_HEAD
    message = b"x" * 64
    signature = issuer.sign(message)
    begin = time.perf_counter()
    for _ in range(signatures):
        verify_signature(issuer.did, message, signature)
    hashlib.sha256(b"".join(lines)).digest()
    floor = time.perf_counter() - begin
    begin = time.perf_counter()
    report = verify_export(lines, issuer=issuer.did, nodes=[node.did])
    seconds = time.perf_counter() - begin
    if report.verdict != "complete":
        raise RuntimeError(report.problem)
    return [
        Row(
            name=f"verifying an export of {EVENTS} events, {CREDENTIALS} credentials, {len(lines)} lines",
            value=seconds,
            unit="s",
            floor=floor,
            goal=SECONDS,
        )
    ]


def _export(issuer: NodeKey, node: NodeKey) -> list[bytes]:
    entries, bodies, log = list[bytes](), list[tuple[int, bytes, bytes]](), LogTree()
    credentials, issued, heads = list[bytes](), LogTree(), list[dict[str, object]]()

    def record(kind: str, body: dict[str, object], execution_id: str | None) -> None:
        seq, salt, encoded = len(entries) + 1, new_salt(), canonical(body)
        frame = event_frame(
            event_id=f"evt_01a232b0076b7345a751e2fd{seq:08x}",
            seq=seq,
            kind=kind,
            at=START + seq / 64,
            run_id=RUN,
            session_id=SESSION,
            execution_id=execution_id,
        )
        entries.append(frame.entry(salt, encoded))
        bodies.append((seq, salt, encoded))
        log.append(leaf_hash(entries[-1]))
        if seq % EVENTS_OF_A_HEAD == 0:
            coverage = Coverage(
                size=seq,
                root=log.root(),
                credentials=len(credentials),
                credentials_root=issued.root() if credentials else None,
                final=seq == EVENTS,
                previous=document_leaf(heads[-1]) if heads else None,
            )
            heads.append(sign_head(issuer, log=RUN, coverage=coverage, at=START + seq / 64))

    for number in range(1, CREDENTIALS + 1):
        execution_id = f"exe_01a232b0076b7345a751e2fd{number:08x}"
        record("execution.created", {"kind": "tool", "target": "shop.price"}, execution_id)
        credentials.append(_credential(issuer, node, number, execution_id))
        issued.append(leaf_hash(credentials[-1]))
        record("execution.ended", {"kind": "tool", "status": "succeeded", "target": "shop.price"}, execution_id)
    while len(entries) < EVENTS:
        record("usage", {"input_tokens": 20, "output_tokens": 40}, None)
    writer = ExportWriter(issuer)
    return [
        writer.header(run_id=RUN, session_id=SESSION, log_format=2, bodies=True, at=START),
        *map(writer.event, entries),
        *map(writer.head, heads),
        *map(writer.credential, credentials),
        *(writer.event_body(*body) for body in bodies),
        writer.end(),
    ]


def _credential(issuer: NodeKey, node: NodeKey, number: int, execution_id: str) -> bytes:
    given, returned = (commitment(new_salt(), canonical({"order": number})) for _ in range(2))
    statement = result_statement(
        audience=issuer.did,
        node_id="shop",
        instance_id="node_01a232b0076b7345a751e2fd5ffa8ce4",
        execution_id=execution_id,
        attempt=1,
        epoch=1,
        target="shop.price",
        run_id=RUN,
        parent_id=None,
        session_id=SESSION,
        status="succeeded",
        retry=False,
        input=given,
        body="output",
        outcome=returned,
    )
    [proof] = sign_results(node, audience=issuer.did, leaves=[result_leaf(statement)])
    subject = execution_subject(
        kind="tool",
        number=number,
        execution_id=execution_id,
        run_id=RUN,
        session_id=SESSION,
        target="shop.price",
        status="succeeded",
        attempt=1,
        created_at=START,
        started_at=START,
        ended_at=START + 1,
        input=given,
        outcome=returned,
        node=NodeProof.of_record(node.did, json.loads(statement), proof.document()),
    )
    return issue_credential(issuer, subject, at=START + 2)
