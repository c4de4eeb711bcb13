"""Offline verification of exports, and of single credentials and heads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import IO

from agentfield.errors import InvalidInput
from agentfield.proof.bodies import check_bodies
from agentfield.proof.credentials import parse_credential
from agentfield.proof.export import ExportLines, bounded_lines
from agentfield.proof.heads import CONTROL_PLANE, Head, parse_head
from agentfield.proof.report import Problem, Report
from agentfield.proof.stages import (
    ExportOrigin,
    Issued,
    RunLog,
    check_anchors,
    check_node,
    compare_held,
    read_credentials,
    read_events,
    read_heads,
    read_origin,
)
from agentfield.proof.strict import wrong

__all__ = ["verify_credential", "verify_export", "verify_file", "verify_head"]

_CREDENTIAL = b'{"@context":'
_HEAD = b'{"at":'
"""Begins of the canonical forms; an export begins with its header."""


def verify_export(
    lines: Iterable[bytes],
    *,
    issuer: str | None,
    heads: Sequence[Head] = (),
    nodes: Collection[str] = (),
    revoked: Mapping[str, int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Verify an export line by line; no content of the file raises.

    Args:
        lines: The lines with their line feeds, such as `bounded_lines` of an open file.
        issuer: DID of the issuer that is expected, from a source other than the file; None compares with none.
        heads: Heads that the verifier holds, of this run or of the control plane's log; against them a log that was cut back
            or rewritten is found.
        nodes: DIDs of the nodes that may have run something; empty trusts the issuer about them.
        revoked: Stolen keys of the issuer by DID, each with the size of the control plane's log from which nothing of it counts.
        progress: Called for each line with its number.

    Returns:
        The report.

    Raises:
        InvalidInput: A head in `heads` is of another log or issuer than the file (code ``foreign_head``).
    """
    report = Report(kind="export", pinned=issuer is not None)
    source = ExportLines(lines if progress is None else _counted(lines, progress))
    try:
        origin = read_origin(source, issuer, revoked or {})
        report.issuer, report.run_id = origin.header.issuer, origin.header.run_id
        report.session_id = origin.header.session_id
        log = read_events(source, origin.header)
        report.events = len(log.types)
        heads_of_run = read_heads(source, origin, log)
        issued = read_credentials(source, origin, log, heads_of_run, nodes, report)
        report.heads, report.credentials = len(issued.heads), len(issued.tree)
        check_anchors(source, origin, issued, report)
        report.bodies = check_bodies(source, origin.header, log, issued)
        for line in source.take("end"):
            if line.value["issuer"] != origin.header.issuer:
                wrong("The end is signed by another key than that of the header.", "wrong_issuer")
        _check_whole(origin, log, issued, report)
        compare_held(heads, origin, log, issued, report)
    except InvalidInput as error:
        if error.code == "foreign_head":
            raise
        where = {"line": source.number, "item": source.item, **error.data}
        report.problem = Problem(line=where["line"], item=where["item"], why=error.message, code=error.code)
        return report
    report.verdict = "consistent" if issuer is None else "complete" if report.final else "prefix"
    report.not_checked = list(_not_checked(report, heads, nodes))
    return report


def verify_file(
    file: IO[bytes],
    *,
    issuer: str | None,
    heads: Sequence[Head] = (),
    nodes: Collection[str] = (),
    revoked: Mapping[str, int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Verify a file: an export, or one credential or head on a line of its own.

    Args:
        file: The open binary file, at its begin.
        issuer: As in `verify_export`, like the other arguments.
        heads: For an export.
        nodes: For an export or credential.
        revoked: Stolen keys of the issuer.
        progress: For an export.

    Raises:
        InvalidInput: A head in `heads` is of another log or issuer than the export (code ``foreign_head``).
    """
    lines = bounded_lines(file)
    first = next(lines, b"")
    if first.startswith((_CREDENTIAL, _HEAD)):
        data = first.removesuffix(b"\n") + next(lines, b"")  # a second line belongs to no canonical form
        if first.startswith(_CREDENTIAL):
            return verify_credential(data, issuer=issuer, nodes=nodes, revoked=revoked or {})
        return verify_head(data, issuer=issuer, revoked=revoked or {})
    return verify_export(
        itertools.chain([first] if first else [], lines),
        issuer=issuer,
        heads=heads,
        nodes=nodes,
        revoked=revoked,
        progress=progress,
    )


def verify_credential(
    data: bytes, *, issuer: str | None, nodes: Collection[str] = (), revoked: Collection[str] = ()
) -> Report:
    """Verify one credential by itself; no content raises.

    Args:
        data: Its canonical bytes, without a line feed.
        issuer: DID of the issuer that is expected; None compares with none.
        nodes: DIDs of the nodes that may have run it; empty trusts the issuer about them.
        revoked: DIDs of stolen keys. A credential by itself is bound to no log, so one of such a key is refused.
    """
    report = Report(kind="credential", pinned=issuer is not None)
    try:
        credential = parse_credential(data)
        report.issuer, report.credentials = credential.issuer, 1
        report.run_id, report.session_id = credential.subject.run_id, credential.subject.session_id
        _check_issuer(credential.issuer, issuer, revoked)
        check_node(credential, (credential.issuer,), nodes, report)
    except InvalidInput as error:
        report.problem = Problem(line=None, item="the credential", why=error.message, code=error.code)
        return report
    report.verdict = "valid" if report.pinned else "consistent"
    report.not_checked = ["whether the log of the run covers it: verify an export"]
    return report


def verify_head(data: bytes, *, issuer: str | None, revoked: Collection[str] = ()) -> Report:
    """Verify one head by itself; no content raises.

    Args:
        data: Its canonical bytes, without a line feed.
        issuer: DID of the issuer that is expected; None compares with none.
        revoked: DIDs of stolen keys. A head by itself is bound to no log, so one of such a key is refused.
    """
    report = Report(kind="head", pinned=issuer is not None)
    try:
        head = parse_head(data)
        report.issuer, report.heads, report.covered = head.issuer, 1, head.coverage.size
        report.run_id = None if head.log == CONTROL_PLANE else head.log
        report.final = head.coverage.final
        _check_issuer(head.issuer, issuer, revoked)
    except InvalidInput as error:
        report.problem = Problem(line=None, item="the head", why=error.message, code=error.code)
        return report
    report.verdict = "valid" if report.pinned else "consistent"
    report.not_checked = ["the events that it covers: verify an export"]
    return report


def _check_issuer(signer: str, issuer: str | None, revoked: Collection[str]) -> None:
    if issuer is not None and signer != issuer:
        wrong(f"It is signed by {signer}, not by {issuer}.", "wrong_issuer")
    if signer in revoked:
        wrong("Its key is revoked, and it is bound to no log by itself.", "bad_binding")


def _check_whole(origin: ExportOrigin, log: RunLog, issued: Issued, report: Report) -> None:
    """Decide whether a final head covers everything, and check what must then be there."""
    if issued.heads:
        last = issued.heads[-1]
        report.covered = last.coverage.size
        embedded = any(credential.leaf == last.leaf for credential in issued.by_execution.values())
        covers_all = last.coverage.credentials + embedded == len(issued.tree) and report.covered == report.events
        report.final = last.coverage.final and covers_all
    if report.final and len(log.ended) != len(issued.by_execution):
        execution = next(each for each in log.ended if each not in issued.by_execution)
        why = f"Execution {execution} ended with event {log.ended[execution]} and has no credential."
        wrong(why, "credentials_missing", item=f"credential {len(issued.tree) + 1}", line=None)
    end = origin.keys.ends[-1]
    if end is None:
        return
    if origin.control_plane is not None and origin.control_plane.coverage.size > end:
        wrong("The control plane's log is signed by a revoked key.", "bad_binding", item="control_plane 1", line=None)
    if not report.final:
        wrong("The lines after the last head are signed by a revoked key only.", "bad_binding", item="the end")


def _not_checked(report: Report, heads: Sequence[Head], nodes: Collection[str]) -> Iterator[str]:
    """Yield what was not checked, for the reader of a report that is not `wrong`."""
    if not report.pinned:
        yield "the issuer: give its DID, from another source than the file, with --issuer"
    if not heads:
        yield "rollback and fork: give a head that you hold with --head"
    elif any(held.state == "not checked" for held in report.held):
        yield "a held head of the control plane's log: the file has one of another size"
    if not nodes:
        yield "the nodes: an issuer can invent one; give the DIDs of yours with --node"
    if report.anchored is None:
        yield "the time of the heads: none is anchored in the control plane's log"
    if report.events > report.covered:
        yield f"events {report.covered + 1} to {report.events}: no head covers them"


def _counted(lines: Iterable[bytes], progress: Callable[[int], None]) -> Iterator[bytes]:
    for number, line in enumerate(lines, start=1):
        progress(number)
        yield line
