"""Exports: verdicts of untouched files, keys over time, and what is read with limits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentfield.errors import InvalidInput
from agentfield.identity import canonical, leaf_hash
from agentfield.proof import Coverage, ExportWriter, Report, parse_head, rotation_entry, sign_head, verify_export
from agentfield.proof import export as export_module
from support.core.proof_runs import (
    START,
    PaperControlPlane,
    PaperRun,
    call_of_a_session,
    call_without_session,
    fixed_key,
    signed_again,
)

FIRST = fixed_key("control plane").did


def _verdict(lines: list[bytes], **options: Any) -> Report:
    return verify_export(lines, **{"issuer": FIRST, **options})


def _code(lines: list[bytes], **options: Any) -> str:
    report = _verdict(lines, **options)
    assert report.verdict == "wrong", report
    assert report.problem is not None
    return report.problem.code


@pytest.mark.parametrize("make", [call_of_a_session, call_without_session])
@pytest.mark.parametrize("bodies", [True, False])
def test_an_untouched_export_is_complete(make: Any, bodies: bool) -> None:
    """The export of a run that has ended is complete, with bodies and without, and its counts are those of the run."""
    run: PaperRun = make()
    report = _verdict(run.export(bodies=bodies), nodes=[run.node.did])
    assert report.problem is None
    assert report.verdict == "complete"
    assert report.final
    assert (report.events, report.covered) == (len(run.events), len(run.events))
    assert report.credentials == len(run.credentials)
    assert report.bodies == (len(run.events) + len(run.bodies) if bodies else 0)
    assert report.anchored == 1
    assert set(report.node_proofs) == {run.node.did}


def test_an_erased_body_is_left_out() -> None:
    """Without the bodies that were erased the export is complete."""
    run = call_of_a_session()
    assert _verdict(run.export(without=(2, 5))).verdict == "complete"


def test_a_running_session_is_a_prefix() -> None:
    """Without a final head, or with an event after it, the verdict is prefix, which says what no head covers."""
    run = call_of_a_session(final=False)
    report = _verdict(run.export())
    assert (report.verdict, report.final) == ("prefix", False)
    assert f"events {report.covered + 1} to {report.events}: no head covers them" in report.not_checked
    run = call_of_a_session()
    run.event("approval.requested", {})
    assert _verdict(run.export()).verdict == "prefix"
    run.head(final=True)
    assert _verdict(run.export()).verdict == "complete"


def test_without_an_issuer_it_is_consistent_only() -> None:
    """The issuer is never taken from the file: without one the verdict is not complete."""
    report = _verdict(call_of_a_session().export(), issuer=None)
    assert (report.verdict, report.pinned, report.final) == ("consistent", False, True)


def test_another_issuer_is_wrong() -> None:
    """The file of another issuer is refused, and the reason names both."""
    other = fixed_key("another control plane").did
    report = _verdict(call_of_a_session().export(), issuer=other)
    assert report.problem is not None
    assert report.problem.code == "wrong_issuer"
    assert other in report.problem.why
    assert FIRST in report.problem.why


def test_an_execution_without_a_credential_is_found() -> None:
    """A final head over fewer credentials than executions that ended is wrong: none may be missing."""
    run = call_of_a_session(final=False)
    run.event("execution.ended", {"kind": "tool", "status": "succeeded", "target": "shop.price"}, "exe_lost")
    run.head(final=True)
    report = _verdict(run.export())
    assert report.problem is not None
    assert report.problem.code == "credentials_missing"
    assert "exe_lost" in report.problem.why


def test_a_key_follows_another() -> None:
    """After a rotation the file verifies against the old key and the new one, and the chain travels in it."""
    run = call_of_a_session()
    run.plane.rotate("second key")
    run.plane.rotate("third key")
    lines = run.export()
    for did in (FIRST, fixed_key("second key").did, fixed_key("third key").did):
        assert _verdict(lines, issuer=did).verdict == "complete"
    assert sum(line.startswith(b'{"rotation"') for line in lines) == 2


def test_a_session_lives_through_a_rotation() -> None:
    """Heads and credentials of the old key count where a head of the new key follows them."""
    run = call_of_a_session(final=False)
    run.plane.rotate("second key")
    run.execute("tool", outcome=1, signed=False, status="timeout")
    run.head(final=True)
    run.plane.anchor(run.last or b"")
    assert _verdict(run.export()).verdict == "complete"


def test_the_old_key_signs_nothing_after_the_rotation() -> None:
    """A head of the old key that is not anchored before the rotation is refused, and so is one that is anchored after it."""
    run = call_of_a_session(final=False)
    old = run.plane.key
    run.plane.rotate("second key")
    head = sign_head(old, log=run.run_id, coverage=run.coverage(final=False), at=START + 300)
    run.heads.append(head)
    assert _code(run.export()) == "bad_binding"
    run.plane.anchor(parse_head(head).leaf)
    assert _code(run.export()) == "bad_binding"


def test_the_old_key_signs_no_credential_after_the_rotation() -> None:
    """A credential of the old key that no head covers is refused once the key has ended."""
    run = call_of_a_session()
    old, run.plane.key = run.plane.key, fixed_key("control plane")
    run.plane.rotate("second key")
    new, run.plane.key = run.plane.key, old
    run.execute("tool")
    run.plane.key = new
    assert _code(run.export()) == "bad_binding"


def test_the_old_key_signs_no_export_after_the_rotation() -> None:
    """An export with the rotation in it is signed by the new key only."""
    run = call_of_a_session()
    old = run.plane.key
    run.plane.rotate("second key")
    lines = signed_again(run.export(), old)
    assert _code(lines) == "wrong_issuer"


def test_a_new_key_signs_nothing_before_it_began() -> None:
    """Neither a credential under a head of the old key nor a head that is anchored before the rotation is of the new key."""
    run = call_of_a_session(final=False)
    old, new = run.plane.key, fixed_key("second key")
    run.plane.key = new
    run.execute("tool", signed=False, status="timeout")
    run.plane.key = old
    run.head(final=True)
    run.plane.anchor(run.last or b"")
    run.plane.rotate("second key")
    assert _code(run.export()) == "bad_binding"
    run = call_of_a_session(final=False)
    run.plane.key = new
    run.head(final=True)
    run.plane.key = old
    run.plane.anchor(run.last or b"")
    run.plane.rotate("second key")
    assert _code(run.export()) == "bad_binding"


def test_the_old_key_does_not_follow_the_new_one() -> None:
    """A head of the old key after one of the new key is refused, wherever it is anchored."""
    run = call_of_a_session(final=False)
    old, new = run.plane.key, fixed_key("second key")
    run.plane.key = new
    run.head()
    run.plane.key = old
    run.head(final=True)
    run.plane.anchor(run.last or b"")
    run.plane.rotate("second key")
    assert _code(run.export()) == "bad_binding"


def test_rotations_are_one_line_of_keys() -> None:
    """Rotations that are left out, turned around, out of the order of the log, or of a key to itself are refused."""
    run = call_of_a_session()
    run.plane.rotate("second key")
    run.plane.rotate("third key")
    both = run.plane.rotated
    for rotated in (both[:1], both[1:], both[::-1], [both[0], both[0]]):
        run.plane.rotated = rotated
        # without the first one the chain is whole again, and only the first key is no issuer any more
        expected = "wrong_issuer" if rotated == both[1:] else "bad_document"
        assert _code(run.export()) == expected
    first, second, third = (fixed_key(name) for name in ("control plane", "second key", "third key"))
    for entries in (
        [rotation_entry(second, third, seq=1, at=START), rotation_entry(first, second, seq=2, at=START)],
        [rotation_entry(first, first, seq=1, at=START)],
    ):
        run = PaperRun()
        run.execute("tool")
        run.head()
        for entry in entries:
            run.plane.append(entry)
        run.plane.key = third if len(entries) > 1 else first
        run.plane.rotated = [1, 0] if len(entries) > 1 else [0]
        assert _code(run.export()) == "bad_document"


def test_a_rotation_needs_both_keys() -> None:
    """A rotation that one of the two keys did not sign is refused."""
    for side in ("from", "to"):
        run = call_of_a_session()
        thief = fixed_key("thief")
        run.plane.rotate("second key")
        entry = run.plane.entries[-1]
        entry["signatures"][side] = "A" * 86
        run.plane.tree = type(run.plane.tree)()
        entries, run.plane.entries = run.plane.entries, []
        for each in entries:
            run.plane.append(each)
        assert thief.did != FIRST
        assert _code(run.export()) == "bad_signature"


def test_a_revoked_key_counts_only_for_the_anchored_past() -> None:
    """With a revocation, what is anchored before its size counts, and nothing else of that key."""
    run = call_of_a_session()
    run.plane.anchor(bytes(32))
    assert _code(run.export(), revoked={FIRST: 1}) == "bad_binding"
    run = call_of_a_session()
    assert _verdict(run.export(), revoked={FIRST: 1}).verdict == "complete"
    assert _code(run.export(), revoked={FIRST: 0}) == "bad_binding"
    assert _code(call_of_a_session(final=False).export(), revoked={FIRST: 1}) == "bad_binding"
    run = call_of_a_session()
    run.plane.rotate("second key")
    assert _verdict(run.export(), revoked={FIRST: 1}).verdict == "complete"
    late = call_of_a_session(PaperControlPlane())
    late.plane.anchored.clear()
    late.plane.rotate("second key")
    late.plane.anchor(late.last or b"")
    assert _code(late.export(), revoked={FIRST: 1}) == "bad_binding"


def test_held_heads_are_compared() -> None:
    """Each head of the run is consistent with the file, one of the control plane's log where its size is the same."""
    run = call_of_a_session()
    held = [parse_head(head) for head in [*run.heads, run.plane.head()]]
    report = _verdict(run.export(), heads=held)
    assert report.verdict == "complete"
    assert {each.state for each in report.held} == {"consistent"}
    run.plane.anchor(bytes(32))
    assert _verdict(run.export(), heads=held).held[-1].state == "not checked"


def test_a_fork_of_the_control_planes_log_is_found() -> None:
    """Another head of the same size in the file than the held one is a fork."""
    run = call_of_a_session()
    held = parse_head(run.plane.head())
    forked = call_of_a_session(PaperControlPlane())
    forked.plane.anchored.clear()
    forked.plane.entries.clear()
    forked.plane.tree = type(forked.plane.tree)()
    forked.plane.anchor(forked.last or b"")
    assert _code(forked.export(), heads=[held]) == "fork"


def test_a_head_of_another_log_is_no_verdict() -> None:
    """A held head of another run or issuer says nothing about the file: it is refused as input."""
    run, lines = call_of_a_session(), call_of_a_session().export()
    coverage = Coverage(size=1, root=bytes(32))
    foreign = sign_head(run.plane.key, log="run_other", coverage=coverage, at=START)
    thief = sign_head(fixed_key("thief"), log=run.run_id, coverage=coverage, at=START)
    for head in (foreign, thief):
        with pytest.raises(InvalidInput) as caught:
            _verdict(lines, heads=[parse_head(head)])
        assert caught.value.code == "foreign_head"


def test_progress_is_reported_for_each_line() -> None:
    """The caller learns of each line."""
    lines, seen = call_of_a_session().export(), list[int]()
    _verdict(lines, progress=seen.append)
    assert seen == list(range(1, len(lines) + 1))


def test_lines_have_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is too long, too many lines and an empty file are refused."""
    lines = call_of_a_session().export()
    assert _code([]) == "bad_document"
    monkeypatch.setattr(export_module, "MAX_LINES", 5)
    assert _code(lines) == "bad_document"
    monkeypatch.undo()
    monkeypatch.setattr(export_module, "MAX_LINE", 100)
    assert _code(lines) == "bad_document"


def test_the_writer_keeps_the_order() -> None:
    """The writer refuses a line at a place where no reader accepts it."""
    run = call_of_a_session()
    writer = ExportWriter(run.plane.key)
    writer.header(run_id=run.run_id, session_id=None, log_format=2, bodies=True, at=START)
    writer.head(run.heads[0])
    with pytest.raises(ValueError, match="cannot follow head"):
        writer.event(run.events[0][0])


def test_a_log_of_format_1_has_its_bodies_in_the_entries() -> None:
    """The export of an old run is verified by its entries; what a header says otherwise is found."""
    run = PaperRun()
    entry = json.loads(run.events[run.event("execution.created", {"text": "hello"}) - 1][0])
    entry["body"] = {"text": "hello"}
    run.events.clear()
    run.tree = type(run.tree)()
    encoded = canonical(entry)
    run.tree.append(leaf_hash(encoded))
    run.head()
    for log_format, verdict in ((1, "prefix"), (2, "wrong")):
        writer = ExportWriter(run.plane.key)
        lines = [
            writer.header(run_id=run.run_id, session_id=run.session_id, log_format=log_format, bodies=True, at=START),
            writer.event(encoded),
            writer.head(run.heads[0]),
            writer.end(),
        ]
        assert _verdict(lines).verdict == verdict
