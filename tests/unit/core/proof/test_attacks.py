"""Attacks on exports: by somebody without the issuer's key, and by the issuer itself, each with and without a held head."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from agentfield.identity import canonical, leaf_hash
from agentfield.proof import Head, LogTree, Report, issue_credential, parse_head, verify_export
from support.core.proof_runs import (
    START,
    PaperControlPlane,
    PaperRun,
    call_of_a_session,
    fixed_key,
    fixed_salt,
    signed_again,
)

Lines = list[bytes]
KINDS = ("event", "head", "credential", "body")
HELD = (None, 1)
"""Without a held head, and with the second head of the run."""


def _verify(lines: Lines, run: PaperRun, held: int | None, **options: Any) -> Report:
    heads: list[Head] = [] if held is None else [parse_head(run.heads[held])]
    return verify_export(lines, issuer=run.plane.key.did, heads=heads, **options)


def _places(lines: Lines, kind: str) -> list[int]:
    return [at for at, line in enumerate(lines) if line.startswith(b'{"%b"' % kind.encode())]


def _edit(lines: Lines, at: int, other: Lines) -> None:
    """Change one letter inside a value, so that the line stays canonical."""
    line = lines[at]
    place = line.index(b":", 12) + 3
    lines[at] = line[:place] + (b"B" if line[place : place + 1] != b"B" else b"C") + line[place + 1 :]
    if lines[at].startswith(b'{"event"'):
        lines[at] = line.replace(b'"body":"' + line[line.index(b'"body":"') + 8 :][:1], b'"body":"' + _other(line), 1)


def _other(line: bytes) -> bytes:
    first = line[line.index(b'"body":"') + 8 :][:1]
    return b"B" if first != b"B" else b"C"


def _swap(lines: Lines, at: int, other: Lines) -> None:
    lines[at], lines[at + 1] = lines[at + 1], lines[at]


def _delete(lines: Lines, at: int, other: Lines) -> None:
    del lines[at]


def _duplicate(lines: Lines, at: int, other: Lines) -> None:
    lines.insert(at, lines[at])


def _splice(lines: Lines, at: int, other: Lines) -> None:
    kind = lines[at][2 : lines[at].index(b'"', 2)].decode()
    lines[at] = other[_places(other, kind)[_places(lines, kind).index(at)]]


def _truncate(lines: Lines, at: int, other: Lines) -> None:
    del lines[at:-1]


ATTACKS: dict[str, Callable[[Lines, int, Lines], None]] = {
    "edit": _edit,
    "swap": _swap,
    "delete": _delete,
    "duplicate": _duplicate,
    "splice": _splice,
    "truncate": _truncate,
}


def _other_call() -> PaperRun:
    """Return another session of the same control plane."""
    run = PaperRun(run_id="run_other", session_id="ses_other", executions=100)
    for _ in range(9):
        run.execute("tool")
        run.head()
    return run


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_nobody_without_the_key_changes_a_file(attack: str, kind: str, held: int | None) -> None:
    """Each attack on each line of each kind is found."""
    run, other = call_of_a_session(), _other_call().export()
    lines = run.export()
    for at in _places(lines, kind)[:-1]:
        changed = list(lines)
        ATTACKS[attack](changed, at, other)
        report = _verify(changed, run, held)
        assert report.verdict == "wrong"
        assert report.problem is not None
        assert report.problem.item


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("kind", ["event", "credential"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_the_issuer_cannot_keep_its_heads_and_change_the_log(attack: str, kind: str, held: int | None) -> None:
    """Also signed again with the issuer's key, events and credentials must be those that the heads in the file cover."""
    run, other = call_of_a_session(), _other_call().export()
    lines = run.export(bodies=False)
    places = _places(lines, kind)
    for at in places[:-1]:
        changed = list(lines)
        if attack == "truncate":
            del changed[at : places[-1] + 1]
        else:
            ATTACKS[attack](changed, at, other)
        report = _verify(signed_again(changed, run.plane.key), run, held)
        assert report.verdict == "wrong"


@pytest.mark.parametrize(("attack", "number"), [("delete", 5), ("duplicate", 5), ("swap", 5), ("splice", 5)])
def test_the_first_wrong_event_is_named(attack: str, number: int) -> None:
    """The report names the first wrong event and its line."""
    run, other = call_of_a_session(), _other_call().export()
    lines = run.export()
    at = _places(lines, "event")[number - 1]
    ATTACKS[attack](lines, at, other)
    problem = _verify(lines, run, None).problem
    assert problem is not None
    expected = number + 1 if attack == "duplicate" else number
    assert problem.item == f"event {expected}"
    assert problem.line == _places(lines, "event")[0] + expected


def test_an_edited_event_is_named_by_the_heads_around_it() -> None:
    """An edited entry is between the last head that fits and the first that does not."""
    run = call_of_a_session()
    lines = run.export()
    at = _places(lines, "event")[run.coverage().size - 2]
    _edit(lines, at, [])
    problem = _verify(lines, run, None).problem
    assert problem is not None
    assert problem.code == "events_changed"
    before, after = (head["size"] for head in run.heads[-2:])
    assert problem.item == f"events {before + 1} to {after}"


def test_a_rollback_by_the_issuer_needs_a_held_head() -> None:
    """A log that the issuer cuts back to an earlier head is a prefix; whoever holds a later head finds the rollback."""
    whole, cut = call_of_a_session(), call_of_a_session(tools=1, final=False)
    assert _verify(cut.export(), whole, None).verdict == "prefix"
    report = _verify(cut.export(), whole, 2)
    assert report.problem is not None
    assert report.problem.code == "rollback"
    closed = call_of_a_session(tools=1)
    assert _verify(closed.export(), whole, None).verdict == "complete"
    report = _verify(closed.export(), whole, 2)
    assert report.problem is not None
    assert report.problem.code == "rollback"


def test_a_fork_by_the_issuer_needs_a_held_head() -> None:
    """A log that the issuer writes anew with its real key is complete; whoever holds a head of the first one finds the fork."""
    first, forked = call_of_a_session(), PaperRun(plane=PaperControlPlane())
    forked.event("session.created", {"target": "shop.voice", "caller": "another"})
    for _ in range(9):
        forked.execute("tool", outcome="another price")
    forked.head(final=True)
    lines = forked.export()
    assert _verify(lines, first, None).verdict == "complete"
    for held in (0, 1, 2):
        report = _verify(lines, first, held)
        assert report.problem is not None
        assert report.problem.code == "fork"


def test_an_old_export_shown_again_is_a_rollback() -> None:
    """An untouched export of an earlier time is refused by whoever holds a later head."""
    early, late = call_of_a_session(tools=2, final=False), call_of_a_session(tools=3)
    lines = early.export()
    assert _verify(lines, late, None).verdict == "prefix"
    report = _verify(lines, late, -1)
    assert report.problem is not None
    assert report.problem.code == "rollback"


def _rewritten(change: Callable[[dict[str, Any]], None], *, keep_proof: bool) -> PaperRun:
    """Return a call of which the issuer changed the first tool's credential, and signed everything again with its real key."""
    run = call_of_a_session(final=False)
    subject = json.loads(run.credentials[0])["credentialSubject"]
    change(subject)
    if not keep_proof:
        del subject["node"]
    credentials = [issue_credential(run.plane.key, subject, at=START + 2), *run.credentials[1:]]
    run.credentials, run.issued, run.heads, run.last = [], LogTree(), [], None
    run.bodies = run.bodies[2:]
    for credential in credentials:
        run.add(credential)
    run.head(final=True)
    run.plane.anchor(run.last or leaf_hash(b""))
    return run


def _fail(subject: dict[str, Any]) -> None:
    subject["status"] = "failed"
    subject["problem"] = subject.pop("output")


RESIGNED: dict[str, Callable[[dict[str, Any]], None]] = {
    "output": lambda subject: subject.update(output="A" * 43),
    "input": lambda subject: subject.update(input="A" * 43),
    "target": lambda subject: subject.update(target="shop.refund"),
    "status": _fail,
    "attempt": lambda subject: subject.update(attempt=2),
    "path": lambda subject: subject["node"]["result_proof"]["path"].reverse(),
    "root": lambda subject: subject["node"]["result_proof"].update(root="A" * 43),
    "audience": lambda subject: subject["node"].update(audience=fixed_key("another").did),
    "did": lambda subject: subject["node"].update(did=fixed_key("another").did),
}


@pytest.mark.parametrize("change", RESIGNED)
@pytest.mark.parametrize("pinned", [False, True])
def test_the_issuer_cannot_change_a_signed_result(change: str, pinned: bool) -> None:
    """A credential that differs from what its node signed is wrong, though the issuer signed it and all heads again."""
    run = _rewritten(RESIGNED[change], keep_proof=True)
    report = _verify(run.export(), run, None, nodes=[run.node.did] if pinned else ())
    assert report.problem is not None
    assert report.problem.code == "bad_node_proof"
    assert report.problem.item == "credential 1"


def test_the_issuer_cannot_drop_the_proof_of_an_output() -> None:
    """With pinned nodes, an output without the proof of a node is wrong; without them the issuer is believed."""
    run = _rewritten(RESIGNED["output"], keep_proof=False)
    assert _verify(run.export(), run, None).verdict == "complete"
    report = _verify(run.export(), run, None, nodes=[run.node.did])
    assert report.problem is not None
    assert report.problem.code == "no_node_proof"


def test_the_issuer_cannot_invent_a_pinned_node() -> None:
    """A result signed by a node that the issuer made up is wrong with pinned nodes; without them the issuer is believed."""
    run = PaperRun(node=fixed_key("invented"))
    run.execute("tool", outcome="invented")
    run.head(final=True)
    assert _verify(run.export(), run, None).verdict == "complete"
    report = _verify(run.export(), run, None, nodes=[fixed_key("node").did])
    assert report.problem is not None
    assert report.problem.code == "unknown_node"


def test_a_body_that_contradicts_its_credential_is_wrong() -> None:
    """The body of the end of an execution says how it ended: the credential says the same."""
    run = call_of_a_session(final=False)
    run.event("execution.ended", {"kind": "tool", "status": "failed", "target": "shop.price"}, "exe_x")
    run.credential("exe_x", kind="tool", target="shop.price", outcome=1)
    report = _verify(run.export(), run, None)
    assert report.problem is not None
    assert report.problem.code == "contradiction"


def test_a_body_of_another_salt_is_wrong() -> None:
    """A body with the salt of another one does not open its commitment."""
    run = call_of_a_session()
    entry, _, body = run.events[0]
    run.events[0] = (entry, fixed_salt("another"), body)
    report = _verify(run.export(), run, None)
    assert report.problem is not None
    assert (report.problem.code, report.problem.item) == ("body_changed", "event 1")


def test_an_event_line_keeps_every_byte() -> None:
    """Lines that mean the same in other bytes are refused: another order, escapes, white space, a missing line feed."""
    run = call_of_a_session()
    lines = run.export(bodies=False)
    at = _places(lines, "event")[0]
    value = json.loads(lines[at])
    other = [
        json.dumps(value).encode() + b"\n",
        lines[at].replace(b'"seq":1,', b'"seq":1.0,'),
        lines[at].replace(b"session.created", b"session\\u002ecreated"),
        lines[at].replace(b"\n", b"\r\n"),
        lines[at][:-1] + b" \n",
        canonical({"event": dict(reversed(value["event"].items()))})[:-1] + b",}\n",
    ]
    for line in other:
        changed = [*lines[:at], line, *lines[at + 1 :]]
        assert _verify(signed_again(changed, run.plane.key), run, None).verdict == "wrong"
    for changed in ([*lines[:-1], lines[-1][:-1]], [*lines, b"\n"], [*lines, lines[-1]]):
        assert _verify(changed, run, None).verdict == "wrong"
