"""Bodies in an export: each opens the commitment of an event or of an execution, and contradicts no credential."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentfield.identity import b64url, canonical, commitment
from agentfield.proof.export import ExportLines, Header
from agentfield.proof.stages import Issued, RunLog
from agentfield.proof.strict import bad, hash_of, integer, members, text, wrong

__all__ = ["check_bodies"]


def check_bodies(lines: ExportLines, header: Header, log: RunLog, issued: Issued) -> int:
    """Read the bodies, each of which must open its commitment; return their number.

    Raises:
        InvalidInput: One does not (code ``body_changed``), is out of order, or contradicts a credential.
    """
    order: tuple[int, int, int] = (0, 0, 0)
    count = 0
    for line in lines.take("body"):
        if not header.bodies:
            bad("the header says that there are no bodies")
        is_event = isinstance(line.value, dict) and "event" in line.value
        place = _event_body(line.value, log, issued) if is_event else _execution_body(line.value, issued)
        if place <= order:
            wrong("The body stands behind its place.", "bad_sequence")
        order = place
        count += 1
    return count


def _event_body(value: Any, log: RunLog, issued: Issued) -> tuple[int, int, int]:
    members(value, "the body", ("event", "salt", "value"))
    seq = integer(value["event"], "event", 1)
    if seq > len(log.commitments) or log.commitments[seq - 1] is None:
        wrong(f"There is no event {seq} with a commitment.", "no_event")
    _open(value, log.commitments[seq - 1], f"event {seq}")
    body, execution = value["value"], log.executions[seq - 1]
    if log.types[seq - 1] == "execution.ended" and (credential := issued.by_execution.get(execution or "")) is not None:
        subject = credential.subject
        stated = {"kind": subject.kind, "status": subject.status, "target": subject.target}
        if not isinstance(body, dict) or any(body.get(name) != item for name, item in stated.items()):
            item = f"credential {subject.number}"
            wrong(f"Event {seq} says that the execution ended otherwise.", "contradiction", item=item, line=None)
    return (1, seq, 0)


def _execution_body(value: Any, issued: Issued) -> tuple[int, int, int]:
    members(value, "the body", ("execution", "part", "salt", "value"))
    credential = issued.by_execution.get(text(value["execution"], "execution"))
    if credential is None:
        wrong("The execution of the body has no credential.", "no_credential")
    subject = credential.subject
    if value["part"] not in ("input", subject.outcome_name):
        bad(f"part is not input or {subject.outcome_name}")
    is_input = value["part"] == "input"
    _open(value, b64url(subject.input if is_input else subject.outcome), f"{value['part']} of {subject.execution_id}")
    return (2, subject.number, 0 if is_input else 1)


def _open(value: Mapping[str, Any], committed: str | None, name: str) -> None:
    salt = hash_of(value["salt"], "salt")
    if b64url(commitment(salt, canonical(value["value"]))) != committed:
        wrong("Body and salt do not open the commitment.", "body_changed", item=name)
