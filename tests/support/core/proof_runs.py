"""A small control plane on paper: runs with events, credentials, heads and anchors, made with fixed keys, and their exports."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentfield.identity import (
    NodeKey,
    canonical,
    commitment,
    event_frame,
    leaf_hash,
    result_leaf,
    result_statement,
    sign_results,
)
from agentfield.proof import (
    CONTROL_PLANE,
    Coverage,
    ExportWriter,
    LogTree,
    NodeProof,
    SpeechRecord,
    anchors_entry,
    document_leaf,
    entry_leaf,
    execution_subject,
    issue_credential,
    rotation_entry,
    sign_head,
)

START = 1_796_000_000.25
"""Seconds since the epoch of the first event."""


def fixed_key(name: str) -> NodeKey:
    """Return the key of a name, the same in each process."""
    return NodeKey(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


def fixed_salt(name: str) -> bytes:
    return hashlib.sha256(b"salt of " + name.encode()).digest()


@dataclass
class PaperControlPlane:
    """The issuer: its key in force, and its own log."""

    key: NodeKey = field(default_factory=lambda: fixed_key("control plane"))
    entries: list[dict[str, Any]] = field(default_factory=list)
    heads: list[dict[str, Any]] = field(default_factory=list)
    tree: LogTree = field(default_factory=LogTree)
    anchored: list[tuple[int, list[bytes]]] = field(default_factory=list)
    """Index of an entry, and the leaves that it anchors."""
    rotated: list[int] = field(default_factory=list)

    def append(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)
        self.tree.append(entry_leaf(entry))

    def anchor(self, *leaves: bytes) -> None:
        entry = anchors_entry(seq=len(self.entries) + 1, root=LogTree(leaves).root(), size=len(leaves), at=START + 60)
        self.anchored.append((len(self.entries), list(leaves)))
        self.append(entry)

    def rotate(self, name: str) -> None:
        new = fixed_key(name)
        self.rotated.append(len(self.entries))
        self.append(rotation_entry(self.key, new, seq=len(self.entries) + 1, at=START + 90))
        self.key = new

    def head(self) -> dict[str, Any]:
        coverage = Coverage(size=len(self.tree), root=self.tree.root())
        return sign_head(self.key, log=CONTROL_PLANE, coverage=coverage, at=START + 100)


@dataclass
class PaperRun:
    """A run of a session (or of none) with its log, its credentials and its heads."""

    plane: PaperControlPlane = field(default_factory=PaperControlPlane)
    node: NodeKey = field(default_factory=lambda: fixed_key("node"))
    run_id: str = "run_0193e2a0000070008000000000000001"
    session_id: str | None = "ses_0193e2a0000070008000000000000001"
    events: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    """Entry, salt and body."""
    tree: LogTree = field(default_factory=LogTree)
    credentials: list[bytes] = field(default_factory=list)
    issued: LogTree = field(default_factory=LogTree)
    heads: list[dict[str, Any]] = field(default_factory=list)
    last: bytes | None = None
    """Leaf of the last head, or of the credential that holds one."""
    bodies: list[tuple[str, str, bytes, bytes]] = field(default_factory=list)
    executions: int = 0

    def event(self, kind: str, body: dict[str, Any], execution_id: str | None = None) -> int:
        seq = len(self.events) + 1
        frame = event_frame(
            event_id=f"evt_0193e2a0000070008{seq:015x}",
            seq=seq,
            kind=kind,
            at=START + seq / 64,
            run_id=self.run_id,
            session_id=self.session_id,
            execution_id=execution_id,
        )
        salt, encoded = fixed_salt(f"{self.run_id} {seq}"), canonical(body)
        entry = frame.entry(salt, encoded)
        self.events.append((entry, salt, encoded))
        self.tree.append(leaf_hash(entry))
        return seq

    def execute(
        self,
        kind: Any = "tool",
        *,
        target: str = "shop.price",
        status: str = "succeeded",
        value: Any = None,
        outcome: Any = None,
        signed: bool = True,
        parent_id: str | None = None,
        **credential: Any,
    ) -> str:
        """Record an execution and issue its credential; return its id."""
        self.executions += 1
        execution_id = f"exe_0193e2a0000070008{self.executions:015x}"
        self.event("execution.created", {"kind": kind, "target": target}, execution_id)
        self.event("execution.ended", {"kind": kind, "status": status, "target": target}, execution_id)
        self.credential(
            execution_id,
            kind=kind,
            target=target,
            status=status,
            value=value,
            outcome=outcome,
            signed=signed,
            parent_id=parent_id,
            **credential,
        )
        return execution_id

    def credential(
        self,
        execution_id: str,
        *,
        kind: Any,
        target: str,
        status: str = "succeeded",
        value: Any = None,
        outcome: Any = None,
        signed: bool = True,
        parent_id: str | None = None,
        **more: Any,
    ) -> None:
        name = "output" if status == "succeeded" else "problem"
        salts = [fixed_salt(f"{execution_id} {part}") for part in ("input", name)]
        texts = [canonical(value), canonical(outcome)]
        commitments = [commitment(salt, text) for salt, text in zip(salts, texts, strict=True)]
        for part, salt, text in zip(("input", name), salts, texts, strict=True):
            self.bodies.append((execution_id, part, salt, text))
        number = len(self.credentials) + 1
        fields: dict[str, Any] = {"execution_id": execution_id, "run_id": self.run_id, "target": target}
        fields |= {"session_id": self.session_id, "parent_id": parent_id, "status": status, "attempt": 1}
        node = None
        if signed:
            stated = {
                **fields,
                "audience": self.plane.key.did,
                "node_id": target.split(".", maxsplit=1)[0],
                "instance_id": "node_0193e2a0000070008000000000000001",
                "epoch": 1,
                "retry": False,
            }
            statement = result_statement(**stated, input=commitments[0], body=name, outcome=commitments[1])  # type: ignore[arg-type]
            leaves = [result_leaf(statement), fixed_salt("leaf of another result"), fixed_salt("and of another")]
            proof = sign_results(self.node, audience=self.plane.key.did, leaves=leaves)[0]
            node = NodeProof.of_record(self.node.did, json.loads(statement), proof.document())
        subject = execution_subject(
            **{
                "kind": kind,
                "number": number,
                **fields,
                "created_at": START,
                "started_at": START + 0.5,
                "ended_at": START + 1.312,
                "input": commitments[0],
                "outcome": commitments[1],
                "node": node,
                **more,
            }
        )
        self.add(issue_credential(self.plane.key, subject, at=START + 2), holds_head="log" in subject)

    def add(self, credential: bytes, *, holds_head: bool = False) -> None:
        self.credentials.append(credential)
        self.issued.append(leaf_hash(credential))
        if holds_head:
            self.last = leaf_hash(credential)

    def coverage(self, *, final: bool = False) -> Coverage:
        count = len(self.credentials)
        return Coverage(
            size=len(self.tree),
            root=self.tree.root(),
            credentials=count,
            credentials_root=self.issued.root() if count else None,
            final=final,
            previous=self.last,
        )

    def head(self, *, final: bool = False) -> dict[str, Any]:
        head = sign_head(self.plane.key, log=self.run_id, coverage=self.coverage(final=final), at=START + 3)
        self.heads.append(head)
        self.last = document_leaf(head)
        return head

    def export(self, *, bodies: bool = True, without: tuple[int, ...] = ()) -> list[bytes]:
        """Return the lines of the export; `without` are the numbers of events whose bodies were erased."""
        writer, plane = ExportWriter(self.plane.key), self.plane
        lines = [
            writer.header(run_id=self.run_id, session_id=self.session_id, log_format=2, bodies=bodies, at=START + 200)
        ]
        if plane.entries:
            lines.append(writer.control_plane(plane.head()))
        lines += [writer.rotation(plane.entries[at], plane.tree.place(at)) for at in plane.rotated]
        lines += [writer.event(entry) for entry, _, _ in self.events]
        lines += [writer.head(head) for head in self.heads]
        lines += [writer.credential(each) for each in self.credentials]
        own = {document_leaf(head) for head in self.heads} | {leaf_hash(each) for each in self.credentials}
        for index, leaves in plane.anchored:
            for at, leaf in enumerate(leaves):
                if leaf in own:
                    places = {"batch": LogTree(leaves).place(at), "log": plane.tree.place(index)}
                    lines.append(writer.anchor(leaf, plane.entries[index], **places))
        if bodies:
            for seq, (_, salt, body) in enumerate(self.events, start=1):
                if seq not in without:
                    lines.append(writer.event_body(seq, salt, body))
            lines += [writer.execution_body(*body) for body in self.bodies]  # type: ignore[arg-type]
        return [*lines, writer.end()]


def call_of_a_session(plane: PaperControlPlane | None = None, *, tools: int = 3, final: bool = True) -> PaperRun:
    """Return the run of a call: a session with turns, tools, speeches and heads, anchored if it has ended."""
    run = PaperRun(plane=plane or PaperControlPlane())
    root = "exe_0193e2a0000070008fffffffffffffff"
    run.event("session.created", {"target": "shop.voice"})
    run.event("execution.created", {"kind": "session", "target": "shop.voice"}, root)
    for number in range(1, tools + 1):
        run.execute("tool", value={"order": number}, outcome={"price": f"{number} €"}, parent_id=root)
        run.head()
        words = {"asked": "It is cheap.", "generated": "It is cheap!", "heard_text": "It is"}
        said = run.event("speech.ended", {"speech_id": f"spk_{number}", **words})
        body = commitment(fixed_salt(f"{run.run_id} {said}"), canonical({"speech_id": f"spk_{number}", **words}))
        speech = SpeechRecord(event=said, body=body, verbatim=False, heard_ms=640, heard_method="marks")
        words = {"turn": {"text": "How much is it?"}}
        run.execute("turn", target="shop.voice", value=words, signed=False, parent_id=root, speech=[speech])
    if final:
        run.event("execution.ended", {"kind": "session", "status": "succeeded", "target": "shop.voice"}, root)
        session = {"provider": "local", "transport": "webrtc", "model": "rules", "voice": "joe", "turns": tools}
        run.credential(
            root,
            kind="session",
            target="shop.voice",
            signed=False,
            session={**session, "end_reason": "caller_hangup"},
        )
        run.head(final=True)
        run.plane.anchor(fixed_salt("head of another run"), run.last or b"")
    return run


def call_without_session(plane: PaperControlPlane | None = None) -> PaperRun:
    """Return a run of two executions, whose last credential holds its one head."""
    run = PaperRun(plane=plane or PaperControlPlane(), session_id=None)
    root = "exe_0193e2a0000070008fffffffffffffff"
    run.event("execution.created", {"kind": "call", "target": "shop.order"}, root)
    run.execute("call", value=1, outcome=2, parent_id=root)
    run.event("execution.ended", {"kind": "call", "status": "succeeded", "target": "shop.order"}, root)
    run.credential(root, kind="call", target="shop.order", value=[1], outcome=[2], log=run.coverage(final=True))
    run.plane.anchor(run.last or b"")
    return run


def signed_again(lines: list[bytes], key: NodeKey) -> list[bytes]:
    """Return lines with a new end, signed with the real key of the issuer; the last one is replaced."""
    writer = ExportWriter(key)
    writer._lines = len(lines) - 1
    writer._digest.update(b"".join(lines[:-1]))
    return [*lines[:-1], writer.end()]
