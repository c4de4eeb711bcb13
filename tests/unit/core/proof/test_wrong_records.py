"""Files that an issuer signs correctly and that contradict themselves: each rule of docs/proof-formats.md is enforced."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from agentfield.identity import canonical, leaf_hash
from agentfield.proof import (
    CONTROL_PLANE,
    Coverage,
    ExportWriter,
    LogTree,
    anchor_document,
    issue_credential,
    sign_head,
    verify_export,
)
from support.core.proof_runs import (
    START,
    PaperRun,
    call_of_a_session,
    call_without_session,
    fixed_key,
    signed_again,
)

Lines = list[bytes]


def _at(lines: Lines, kind: str, number: int = 1) -> int:
    """Return the place of a line among all."""
    return [at for at, line in enumerate(lines) if line.startswith(b'{"%b"' % kind.encode())][number - 1]


def _line(kind: str, value: Any) -> bytes:
    return canonical({kind: value}) + b"\n"


def _subject(run: PaperRun, number: int) -> dict[str, Any]:
    subject: dict[str, Any] = json.loads(run.credentials[number - 1])["credentialSubject"]
    return subject


def _with_subject(place: int, /, **changes: Any) -> Callable[[PaperRun, Lines], None]:
    def change(run: PaperRun, lines: Lines) -> None:
        subject = {**_subject(run, place), **changes}
        credential = issue_credential(run.plane.key, subject, at=START + 2)
        lines[_at(lines, "credential", place)] = b'{"credential":%b}\n' % credential

    return change


def _with_value(kind: str, place: int, /, **changes: Any) -> Callable[[PaperRun, Lines], None]:
    def change(_run: PaperRun, lines: Lines) -> None:
        at = _at(lines, kind, place)
        lines[at] = _line(kind, {**json.loads(lines[at])[kind], **changes})

    return change


def _with_entry(kind: str, **changes: Any) -> Callable[[PaperRun, Lines], None]:
    def change(_run: PaperRun, lines: Lines) -> None:
        at = _at(lines, kind)
        value = json.loads(lines[at])[kind]
        lines[at] = _line(kind, {**value, "entry": {**value["entry"], **changes}})

    return change


def _without(kind: str) -> Callable[[PaperRun, Lines], None]:
    def change(_run: PaperRun, lines: Lines) -> None:
        lines[:] = [line for line in lines if not line.startswith(b'{"%b"' % kind.encode())]

    return change


def _swapped(kind: str) -> Callable[[PaperRun, Lines], None]:
    def change(_run: PaperRun, lines: Lines) -> None:
        at = _at(lines, kind)
        lines[at], lines[at + 1] = lines[at + 1], lines[at]

    return change


def _repeated(kind: str) -> Callable[[PaperRun, Lines], None]:
    def change(_run: PaperRun, lines: Lines) -> None:
        lines.insert(_at(lines, kind), lines[_at(lines, kind)])

    return change


def _head(run: PaperRun, *, by: str = "control plane", **changes: Any) -> dict[str, Any]:
    coverage = {"size": 4, "root": run.tree.root(4), "final": False, **changes}
    log = coverage.pop("log", run.run_id)
    return sign_head(fixed_key(by), log=log, coverage=Coverage(**coverage), at=START + 3)


def _with_head(kind: str, **changes: Any) -> Callable[[PaperRun, Lines], None]:
    def change(run: PaperRun, lines: Lines) -> None:
        lines[_at(lines, kind)] = _line(kind, _head(run, **changes))

    return change


def _run_head_as_own(run: PaperRun, lines: Lines) -> None:
    """Put the head of a run where that of the control plane's log belongs; no anchor needs it."""
    _without("anchor")(run, lines)
    _with_head("control_plane")(run, lines)


def _foreign_anchor(run: PaperRun, lines: Lines) -> None:
    """Put the anchor of the other run of the batch, right in itself, in place of that of this run."""
    [(index, leaves)] = run.plane.anchored
    places = {"batch": LogTree(leaves).place(0), "log": run.plane.tree.place(index)}
    lines[_at(lines, "anchor")] = _line("anchor", anchor_document(leaves[0], run.plane.entries[index], **places))


def _rotation_without_log(run: PaperRun, lines: Lines) -> None:
    run.plane.rotate("second key")
    rotated = run.export()
    run.plane.key = fixed_key("control plane")
    lines.insert(1, rotated[_at(rotated, "rotation")])
    _without("control_plane")(run, lines)


def _signed_by_a_thief(run: PaperRun, lines: Lines) -> None:
    credential = issue_credential(fixed_key("thief"), _subject(run, 1), at=START + 2)
    lines[_at(lines, "credential")] = b'{"credential":%b}\n' % credential


def _same_execution_twice(run: PaperRun, lines: Lines) -> None:
    _with_subject(2, **{**_subject(run, 1), "number": 2})(run, lines)


def _other_audience(run: PaperRun, lines: Lines) -> None:
    other = PaperRun(plane=type(run.plane)(key=fixed_key("another control plane")))
    other.execute("tool", value={"order": 1}, outcome={"price": "1 €"}, parent_id=_subject(run, 1)["parent_id"])
    _with_subject(1, node=_subject(other, 1)["node"])(run, lines)


def _speech(**changes: Any) -> Callable[[PaperRun, Lines], None]:
    def change(run: PaperRun, lines: Lines) -> None:
        [speech] = _subject(run, 2)["speech"]
        _with_subject(2, speech=[{**speech, **changes}])(run, lines)

    return change


WRONG: dict[str, tuple[Callable[[PaperRun, Lines], None], str]] = {
    "no events": (_without("event"), "bad_document"),
    "event of another run": (_with_value("event", 1, run_id="run_other"), "foreign_event"),
    "event of another session": (_with_value("event", 1, session_id="ses_other"), "foreign_event"),
    "event with a text as its time": (_with_value("event", 1, at="now"), "bad_document"),
    "event with a negative time": (_with_value("event", 1, at=-1), "bad_document"),
    "event with a truth value as its number": (_with_value("event", 1, seq=True), "bad_sequence"),
    "event with a body": (_with_value("event", 1, body={}), "bad_document"),
    "end without its execution": (_with_value("event", 4, execution_id=None), "bad_sequence"),
    "second end": (_with_value("event", 3, type="execution.ended"), "bad_sequence"),
    "head of another log": (_with_head("head", log="run_other"), "foreign_head_line"),
    "head of a thief": (_with_head("head", by="thief"), "wrong_issuer"),
    "heads in another order": (_swapped("head"), "bad_sequence"),
    "head over no events of the file": (_with_head("head", size=400, root=bytes(32)), "events_missing"),
    "head over more credentials": (
        _with_head("head", credentials=400, credentials_root=bytes(32)),
        "bad_sequence",
    ),
    "first head with a previous one": (_with_head("head", previous=bytes(32)), "bad_sequence"),
    "credential of a thief": (_signed_by_a_thief, "wrong_issuer"),
    "credential with another number": (_with_subject(1, number=2), "bad_sequence"),
    "credential of another run": (_with_subject(2, run_id="run_other"), "foreign_credential"),
    "credential of another session": (_with_subject(2, session_id="ses_other"), "foreign_credential"),
    "credential without an end": (_with_subject(2, execution_id="exe_other"), "no_event"),
    "second credential of an execution": (_same_execution_twice, "bad_sequence"),
    "credential that is issued anew": (_with_subject(2, duration_ms=1), "credentials_changed"),
    "result for another control plane": (_other_audience, "bad_node_proof"),
    "speech of another event": (_speech(event=1), "no_event"),
    "speech of no event": (_speech(event=4000), "no_event"),
    "speech of another body": (_speech(body="A" * 43), "no_event"),
    "no head of the control plane's log": (_without("control_plane"), "bad_document"),
    "head of the run in its place": (_run_head_as_own, "bad_document"),
    "rotation without that head": (_rotation_without_log, "bad_document"),
    "head of a thief in its place": (_with_head("control_plane", by="thief", log=CONTROL_PLANE), "wrong_issuer"),
    "anchor of another head": (_with_value("anchor", 1, leaf="A" * 43), "bad_document"),
    "anchor of another run": (_foreign_anchor, "foreign_anchor"),
    "anchor with another time": (_with_entry("anchor", at="2026-11-30T00:54:21Z"), "bad_document"),
    "anchor with another number": (_with_entry("anchor", seq=2), "bad_document"),
    "anchor that is a rotation": (_with_entry("anchor", type="rotation"), "bad_document"),
    "anchor twice": (_repeated("anchor"), "bad_sequence"),
    "body of no event": (_with_value("body", 1, event=4000), "no_event"),
    "body of another event": (_with_value("body", 1, event=2), "body_changed"),
    "body twice": (_repeated("body"), "bad_sequence"),
    "bodies in another order": (_swapped("body"), "bad_sequence"),
    "body of no execution": (_with_value("body", 19, execution="exe_other"), "no_credential"),
    "body of an outcome that there is not": (_with_value("body", 20, part="problem"), "bad_document"),
    "bodies that the header denies": (_with_value("header", 1, bodies=False), "bad_document"),
    "header of another version": (_with_value("header", 1, v=2), "bad_document"),
    "header with another version of the log": (_with_value("header", 1, log_format=3), "bad_document"),
    "format 1 with commitments": (_with_value("header", 1, log_format=1, bodies=False), "bad_document"),
    "header with an unknown member": (_with_value("header", 1, note="x"), "bad_document"),
    "two headers": (_repeated("header"), "bad_document"),
    "two heads of the control plane's log": (_repeated("control_plane"), "bad_document"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_contradicts_itself_is_wrong(name: str) -> None:
    """A wrong line is found by its own rule, though the issuer signed the file as a whole."""
    change, code = WRONG[name]
    run = call_of_a_session()
    lines = run.export()
    change(run, lines)
    report = verify_export(signed_again(lines, run.plane.key), issuer=run.plane.key.did)
    assert report.problem is not None, report
    assert report.problem.code == code, report.problem


def test_the_end_counts_the_lines() -> None:
    """The number of lines is that before the end, also where the rest fits."""
    run = call_of_a_session()
    lines = run.export()
    writer = ExportWriter(run.plane.key)
    writer._lines = len(lines)
    writer._digest.update(b"".join(lines[:-1]))
    report = verify_export([*lines[:-1], writer.end()], issuer=run.plane.key.did)
    assert report.problem is not None
    assert report.problem.code == "bad_document"


def test_a_head_in_a_credential_covers_what_is_before_it() -> None:
    """The head of a run without session covers exactly the credentials before its own, and the events of the file."""
    for changes, code in (
        ({"credentials": 0, "credentials_root": None}, "bad_document"),
        ({"root": bytes(32)}, "events_changed"),
    ):
        run = call_without_session()
        values: dict[str, Any] = {"size": len(run.tree), "root": run.tree.root(), "final": True}
        values |= {"credentials": 1, "credentials_root": leaf_hash(run.credentials[0])}
        coverage = Coverage(**{**values, **changes})
        subject = {**_subject(run, 2), "log": coverage.document()}
        run.credentials[1] = issue_credential(run.plane.key, subject, at=START + 2)
        run.plane.anchored.clear()
        report = verify_export(run.export(), issuer=run.plane.key.did)
        assert report.problem is not None
        assert report.problem.code == code
