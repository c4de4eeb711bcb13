"""Stages of the verification of an export, in the order of its lines: keys, events, heads, credentials, anchors, bodies."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from agentfield.identity import b64url, leaf_hash
from agentfield.proof.anchors import Anchor, parse_anchor, parse_rotation
from agentfield.proof.credentials import Credential, read_credential
from agentfield.proof.export import ExportLines, Header, parse_header
from agentfield.proof.heads import CONTROL_PLANE, Head, parse_head
from agentfield.proof.issuers import IssuerKeys, check_bindings, issuer_keys
from agentfield.proof.report import HeldHead, Report
from agentfield.proof.strict import bad, hash_of, members, text, wrong
from agentfield.proof.trees import LogTree

__all__ = [
    "ExportOrigin",
    "Issued",
    "RunLog",
    "check_anchors",
    "check_node",
    "compare_held",
    "read_credentials",
    "read_events",
    "read_heads",
    "read_origin",
]

_ENTRY = ("at", "body", "execution_id", "id", "run_id", "seq", "session_id", "type")
_NODE_KINDS = ("call", "tool")


@dataclass(frozen=True, slots=True)
class ExportOrigin:
    """The issuer's keys, and the head of the control plane's log that shows the rotations."""

    header: Header
    control_plane: Head | None
    keys: IssuerKeys

    def check_signer(self, did: str) -> None:
        """Check that a key is one of the issuer's.

        Raises:
            InvalidInput: It is not (code ``wrong_issuer``).
        """
        if did not in self.keys.dids:
            wrong(f"It is signed by {did}, which is not the issuer.", "wrong_issuer")


def read_origin(lines: ExportLines, issuer: str | None, revoked: Mapping[str, int]) -> ExportOrigin:
    """Read the header, the head of the control plane's log, and the rotations.

    Args:
        lines: The lines.
        issuer: DID of the issuer that is expected.
        revoked: Stolen keys, see `verify_export`.

    Raises:
        InvalidInput: One is wrong, or the issuer is another one (code ``wrong_issuer``).
    """
    header: Header | None = None
    for line in lines.take("header"):
        header = parse_header(line.value)
    if header is None:
        bad("the file has no header")
    control_plane: Head | None = None
    for line in lines.take("control_plane"):
        control_plane = parse_head(line.value)
        if control_plane.log != CONTROL_PLANE or control_plane.coverage.credentials:
            bad("it is not a head of the control plane's log")
        if control_plane.issuer != header.issuer:
            wrong("It is not signed by the issuer of the file.", "wrong_issuer")
    rotations = []
    for line in lines.take("rotation"):
        if control_plane is None:
            bad("a rotation needs the head of the control plane's log")
        rotations.append(parse_rotation(line.value, control_plane))
    keys = issuer_keys(header.issuer, rotations, revoked)
    if issuer is not None and issuer not in keys.dids:
        wrong(f"The file is of the issuer {header.issuer}, not of {issuer}.", "wrong_issuer", item="header 1", line=1)
    return ExportOrigin(header, control_plane, keys)


@dataclass(slots=True)
class RunLog:
    """The events of a run: their tree, and what the other lines refer to."""

    tree: LogTree = field(default_factory=LogTree)
    commitments: list[str | None] = field(default_factory=list)
    """Of the body of each event; None in log format 1."""
    types: list[str] = field(default_factory=list)
    executions: list[str | None] = field(default_factory=list)
    ended: dict[str, int] = field(default_factory=dict)
    """Number of the `execution.ended` event of each execution."""


def read_events(lines: ExportLines, header: Header) -> RunLog:
    """Read the events, numbered from 1 without gaps, all of the run.

    Raises:
        InvalidInput: One is wrong (code ``bad_document`` or ``bad_sequence``), or there is none.
    """
    log = RunLog()
    session = (None, header.session_id)
    for line in lines.take("event"):
        entry = members(line.value, "the event", _ENTRY)
        expected = len(log.types) + 1
        if entry["seq"] != expected or type(entry["seq"]) is not int:
            wrong(f"Event {expected} is expected here, and event {str(entry['seq'])[:20]} stands here.", "bad_sequence")
        if entry["run_id"] != header.run_id or entry["session_id"] not in session:
            wrong("The event is of another run or session.", "foreign_event")
        execution = entry["execution_id"]
        if execution is not None:
            text(execution, "execution_id")
        text(entry["id"], "id")
        if type(entry["at"]) not in (int, float) or entry["at"] < 0:
            bad("at is not a time")
        if header.log_format == 1 and not isinstance(entry["body"], dict):
            bad("its body is not an object, as in log format 1")
        log.commitments.append(None if header.log_format == 1 else b64url(hash_of(entry["body"], "body")))
        log.types.append(text(entry["type"], "type"))
        log.executions.append(execution)
        if entry["type"] == "execution.ended":
            if execution is None or execution in log.ended:
                wrong("The execution ended twice, or the event names none.", "bad_sequence")
            log.ended[execution] = expected
        log.tree.append(leaf_hash(line.content))
    if not log.types:
        bad("the file has no events")
    return log


def read_heads(lines: ExportLines, origin: ExportOrigin, log: RunLog) -> list[Head]:
    """Read the heads, each of which names the one before it, and compare their roots with the events.

    Raises:
        InvalidInput: One is wrong; events that do not fit are named (code ``events_changed``).
    """
    heads: list[Head] = []
    for line in lines.take("head"):
        head = parse_head(line.value)
        origin.check_signer(head.issuer)
        if head.log != origin.header.run_id:
            wrong("The head is of another log.", "foreign_head_line")
        heads.append(head)
        check_order(heads)
        check_events(log, head, f"head {len(heads)}", after=heads[-2].coverage.size if len(heads) > 1 else 0)
    return heads


def check_order(heads: Sequence[Head]) -> None:
    """Check the last of several heads against the one before it.

    Raises:
        InvalidInput: It does not follow that one (code ``bad_sequence``).
    """
    last = heads[-1].coverage
    if len(heads) == 1:
        return
    before = heads[-2].coverage
    if last.size < before.size or last.credentials < before.credentials:
        wrong("The head covers less than the one before it.", "bad_sequence")


def check_events(log: RunLog, head: Head, name: str, *, after: int) -> None:
    """Compare the root of a head with the events.

    Args:
        log: The events.
        head: The head.
        name: Name of the head in the reason.
        after: Number of events whose root is known to be right.

    Raises:
        InvalidInput: It is another one (code ``events_changed``), or there are fewer events (code ``events_missing``).
    """
    size, count = head.coverage.size, len(log.tree)
    if size > count:
        wrong(
            f"{name} covers {size} events, and the file has {count}.",
            "events_missing",
            item=f"event {count + 1}",
            line=None,
        )
    if log.tree.root(size) != head.coverage.root:
        first = min(after + 1, size)
        item = f"event {size}" if first == size else f"events {first} to {size}"
        wrong(f"The root over the events up to {size} is not that of {name}.", "events_changed", item=item, line=None)


@dataclass(slots=True)
class Issued:
    """The credentials of a run, and the heads with those that credentials hold."""

    tree: LogTree = field(default_factory=LogTree)
    by_execution: dict[str, Credential] = field(default_factory=dict)
    heads: list[Head] = field(default_factory=list)
    """All heads in their order."""


def read_credentials(
    lines: ExportLines, origin: ExportOrigin, log: RunLog, heads: Sequence[Head], nodes: Collection[str], report: Report
) -> Issued:
    """Read the credentials, compare them with the events, and the heads with them.

    Raises:
        InvalidInput: One is wrong, or a head covers others (code ``credentials_changed``).
    """
    issued, embedded = Issued(), list[Head]()
    for line in lines.take("credential"):
        credential = read_credential(line.value, line.content)
        origin.check_signer(credential.issuer)
        _check_subject(credential, origin.header, log, issued)
        check_node(credential, origin.keys.dids, nodes, report)
        subject = credential.subject
        if subject.log is not None:
            embedded.append(
                Head(
                    issuer=credential.issuer,
                    log=subject.run_id,
                    at=credential.valid_from,
                    coverage=subject.log,
                    leaf=credential.leaf,
                )
            )
            check_events(log, embedded[-1], "the head in the credential", after=0)
            if subject.log.credentials != subject.number - 1:
                bad("its head does not cover exactly the credentials before it")
        issued.tree.append(credential.leaf)
        issued.by_execution[subject.execution_id] = credential
    issued.heads = sorted([*heads, *embedded], key=lambda head: head.coverage.size)
    _check_covered(issued)
    return issued


def _check_subject(credential: Credential, header: Header, log: RunLog, issued: Issued) -> None:
    subject = credential.subject
    if subject.number != len(issued.tree) + 1:
        wrong(f"Credential {len(issued.tree) + 1} is expected here, not number {subject.number}.", "bad_sequence")
    if subject.run_id != header.run_id or subject.session_id != header.session_id:
        wrong("The credential is of another run or session.", "foreign_credential")
    if subject.execution_id not in log.ended:
        wrong("The log has no event that its execution ended.", "no_event")
    if subject.execution_id in issued.by_execution:
        wrong("Its execution has a credential already.", "bad_sequence")
    for speech in subject.speech:
        known = speech.event <= len(log.types) and log.types[speech.event - 1] == "speech.ended"
        if not known or log.commitments[speech.event - 1] != b64url(speech.body):
            wrong(f"Its speech is not that of event {speech.event}.", "no_event")


def check_node(credential: Credential, issuers: Sequence[str], nodes: Collection[str], report: Report) -> None:
    """Verify the proof of the node in a credential, and count it.

    Args:
        credential: The credential.
        issuers: DIDs of the issuer, for one of which the node must have stated its result.
        nodes: DIDs of the nodes that may have run it; empty accepts every one.
        report: Receives the count.

    Raises:
        InvalidInput: The proof is wrong (code ``bad_node_proof``), of another node (code ``unknown_node``), or missing where a node
            must have signed (code ``no_node_proof``).
    """
    subject = credential.subject
    if subject.node is None:
        if subject.kind in _NODE_KINDS:
            if nodes and subject.status == "succeeded":
                wrong("No node signed its output.", "no_node_proof")
            report.without_node += 1
        return
    did = subject.node.did
    if not subject.verify_node():
        wrong(
            f"The node {did} did not sign this: output, target, status, path or another field differs.",
            "bad_node_proof",
        )
    if subject.node.audience not in issuers:
        wrong("The node stated its result for another control plane.", "bad_node_proof")
    if nodes and did not in nodes:
        wrong(f"The node {did} is none of those that are expected.", "unknown_node")
    report.node_proofs[did] = report.node_proofs.get(did, 0) + 1


def _check_covered(issued: Issued) -> None:
    """Check that each head names the one before it and covers the credentials of the file."""
    previous: bytes | None = None
    for number, head in enumerate(issued.heads, start=1):
        coverage = head.coverage
        if coverage.previous != previous:
            wrong(f"Head {number} does not name the one before it.", "bad_sequence", item=f"head {number}", line=None)
        previous = head.leaf
        if coverage.credentials > len(issued.tree):
            item = f"credential {len(issued.tree) + 1}"
            wrong(
                f"Head {number} covers {coverage.credentials} credentials.", "credentials_missing", item=item, line=None
            )
        if coverage.credentials and issued.tree.root(coverage.credentials) != coverage.credentials_root:
            item = f"credentials up to {coverage.credentials}"
            wrong(f"The root over them is not that of head {number}.", "credentials_changed", item=item, line=None)


def check_anchors(lines: ExportLines, origin: ExportOrigin, issued: Issued, report: Report) -> None:
    """Read the anchors, and check that each document was signed by a key that could sign it.

    Raises:
        InvalidInput: An anchor is wrong, or a document is bound to no part of the log in which its key signed (code
            ``bad_binding``).
    """
    anchors: list[Anchor] = []
    known = {head.leaf for head in issued.heads}
    for line in lines.take("anchor"):
        if origin.control_plane is None:
            bad("an anchor needs the head of the control plane's log")
        anchor = parse_anchor(line.value, origin.control_plane)
        if anchor.leaf not in known:
            wrong("It anchors no head of this file.", "foreign_anchor")
        if anchors and anchor.index <= anchors[-1].index:
            wrong("It stands before the anchor that it follows.", "bad_sequence")
        anchors.append(anchor)
        report.anchored = anchor.index + 1
    check_bindings(origin.keys, issued.heads, anchors)
    _check_signers(origin, issued)


def _check_signers(origin: ExportOrigin, issued: Issued) -> None:
    """Check that each credential is covered by a head of its key or a later one, unless its key is in force."""
    heads = iter([*issued.heads])
    head = next(heads, None)
    for credential in issued.by_execution.values():
        number, leaf = credential.subject.number, credential.leaf
        while head is not None and head.coverage.credentials < number and head.leaf != leaf:
            head = next(heads, None)
        signer = origin.keys.dids.index(credential.issuer)
        if head is None:
            if origin.keys.ends[signer] is not None:
                wrong(
                    "Its key signs no more, and no head covers it.",
                    "bad_binding",
                    item=f"credential {number}",
                    line=None,
                )
        elif origin.keys.dids.index(head.issuer) < signer:
            wrong("A head of an earlier key covers it.", "bad_binding", item=f"credential {number}", line=None)


def compare_held(held: Sequence[Head], origin: ExportOrigin, log: RunLog, issued: Issued, report: Report) -> None:
    """Compare the heads that the verifier holds with the file.

    Raises:
        InvalidInput: The file is shorter than a held head (code ``rollback``) or has another history (code ``fork``), or a held
            head is of another log or issuer (code ``foreign_head``).
    """
    for head in held:
        if head.issuer not in origin.keys.dids or head.log not in (origin.header.run_id, CONTROL_PLANE):
            wrong(f"The held head is of {head.log} and the issuer {head.issuer}, not of this file.", "foreign_head")
        state: Literal["consistent", "not checked"] = "consistent"
        if head.log == CONTROL_PLANE:
            state = _compare_control_plane(head, origin)
        else:
            _compare_tree(head.coverage.size, head.coverage.root, log.tree, "event")
            if head.coverage.credentials_root is not None:
                _compare_tree(head.coverage.credentials, head.coverage.credentials_root, issued.tree, "credential")
        report.held.append(HeldHead(log=head.log, size=head.coverage.size, state=state))


def _compare_tree(size: int, root: bytes, tree: LogTree, name: str) -> None:
    if size > len(tree):
        why = f"The held head covers {size} {name}s, and the file has {len(tree)}: the log was cut back."
        wrong(why, "rollback", item=f"{name} {len(tree) + 1}", line=None)
    if tree.root(size) != root:
        why = f"The first {size} {name}s are not those of the held head: the log was rewritten."
        wrong(why, "fork", item=f"{name}s up to {size}", line=None)


def _compare_control_plane(head: Head, origin: ExportOrigin) -> Literal["consistent", "not checked"]:
    own = origin.control_plane
    if own is None or own.coverage.size != head.coverage.size:
        return "not checked"
    if own.coverage.root != head.coverage.root:
        why = "The control plane's log is not that of the held head: it was rewritten."
        wrong(why, "fork", item="control_plane 1", line=None)
    return "consistent"
