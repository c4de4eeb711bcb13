"""Subjects of credentials: what a control plane states about an execution, turn or session, with the proof of the node that ran it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentfield.identity import (
    ResultProof,
    b64url,
    parse_proof,
    result_leaf,
    result_statement,
    root_message,
    verify_signature,
)
from agentfield.proof.heads import Coverage
from agentfield.proof.strict import bad, boolean, hash_of, integer, members, text, time_text, timestamp

__all__ = ["Kind", "NodeProof", "SpeechRecord", "Subject", "execution_subject", "parse_subject"]

Kind = Literal["call", "tool", "turn", "session"]

_KINDS = ("call", "tool", "turn", "session")
_STATUSES = ("succeeded", "failed", "cancelled", "timeout")
_REQUIRED = (
    "attempt",
    "created_at",
    "ended_at",
    "execution_id",
    "input",
    "kind",
    "number",
    "run_id",
    "status",
    "target",
)
_OPTIONAL = (
    *("duration_ms", "log", "node", "output", "parent_id", "problem", "session", "session_id", "speech", "started_at"),
)
_NODE = ("audience", "did", "epoch", "instance_id", "node_id", "result_proof", "retry")
_SESSION = (("provider", "transport"), ("end_reason", "model", "turns", "voice"))
_SPEECH = (("body", "event"), ("heard_method", "heard_ms", "verbatim"))
_MAX_SPEECHES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProof:
    """The proof of the node that ran an execution; with the subject it makes the node's statement."""

    did: str
    node_id: str
    instance_id: str
    audience: str
    epoch: int
    retry: bool
    result_proof: ResultProof

    def document(self) -> dict[str, Any]:
        """Return it as the JSON of `node`."""
        return {
            "did": self.did,
            "node_id": self.node_id,
            "instance_id": self.instance_id,
            "audience": self.audience,
            "epoch": self.epoch,
            "retry": self.retry,
            "result_proof": self.result_proof.document(),
        }

    @classmethod
    def of_record(cls, did: str, statement: Mapping[str, Any], proof: Mapping[str, Any]) -> NodeProof:
        """Return the proof of a recorded result.

        Args:
            did: DID of the node.
            statement: What it stated, parsed.
            proof: Its proof, parsed.

        Raises:
            InvalidInput: The proof is malformed.
        """
        return cls(
            did=did,
            node_id=statement["node_id"],
            instance_id=statement["instance_id"],
            audience=statement["audience"],
            epoch=statement["epoch"],
            retry=statement["retry"],
            result_proof=parse_proof(proof),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRecord:
    """A speech of the agent, named by its `speech.ended` event: asked for, generated and heard are in the event's body."""

    event: int
    """`seq` of the event."""
    body: bytes
    """Commitment to the event's body."""
    verbatim: bool | None = None
    """Whether the generated words are those asked for."""
    heard_ms: int | None = None
    heard_method: str | None = None
    """Source of what is known about how much the caller heard."""

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        known = {"verbatim": self.verbatim, "heard_ms": self.heard_ms, "heard_method": self.heard_method}
        return {"event": self.event, "body": b64url(self.body), **_present(known)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A parsed `credentialSubject`."""

    kind: Kind
    number: int
    execution_id: str
    run_id: str
    session_id: str | None
    parent_id: str | None
    target: str
    status: str
    attempt: int
    input: bytes
    """Commitment to the input."""
    outcome: bytes
    """Commitment to the output or problem."""
    node: NodeProof | None
    speech: tuple[SpeechRecord, ...]
    log: Coverage | None

    @property
    def outcome_name(self) -> Literal["output", "problem"]:
        """The name of what `outcome` commits to."""
        return "output" if self.status == "succeeded" else "problem"

    def verify_node(self) -> bool:
        """Return whether the node that `node` names signed exactly this outcome, for the control plane that `node` names."""
        node = self.node
        if node is None:
            return False
        leaf = result_leaf(
            result_statement(
                audience=node.audience,
                node_id=node.node_id,
                instance_id=node.instance_id,
                execution_id=self.execution_id,
                attempt=self.attempt,
                epoch=node.epoch,
                target=self.target,
                run_id=self.run_id,
                parent_id=self.parent_id,
                session_id=self.session_id,
                status=self.status,
                retry=node.retry,
                input=self.input,
                body=self.outcome_name,
                outcome=self.outcome,
            )
        )
        proof = node.result_proof
        message = root_message(audience=node.audience, did=node.did, root=proof.root, size=proof.size)
        return proof.leads_from(leaf) and verify_signature(node.did, message, proof.signature)


def execution_subject(
    *,
    kind: Kind,
    number: int,
    execution_id: str,
    run_id: str,
    target: str,
    status: str,
    attempt: int,
    created_at: float,
    ended_at: float,
    input: bytes,  # noqa: A002 -- the name of the member
    outcome: bytes,
    started_at: float | None = None,
    session_id: str | None = None,
    parent_id: str | None = None,
    node: NodeProof | None = None,
    speech: Sequence[SpeechRecord] = (),
    session: Mapping[str, Any] | None = None,
    log: Coverage | None = None,
) -> dict[str, Any]:
    """Return the `credentialSubject` of an execution, turn or session.

    Args:
        kind: Kind of the execution.
        number: Its number among the credentials of the run, from 1.
        execution_id: The execution.
        run_id: The run.
        target: The target, ``node.name``.
        status: How it ended.
        attempt: Number of the last attempt.
        created_at: Seconds since the epoch, as the other times; rounded down to whole seconds.
        ended_at: Time of the end.
        input: Commitment to the input; with `node` the one that the node stated.
        outcome: Commitment to the output, or to the problem of what did not succeed; with `node` the one that the node stated.
        started_at: Time of the start, if it started.
        session_id: The session.
        parent_id: The calling execution.
        node: Proof of the node, where one of link version 2 signed the recorded result.
        speech: Speeches of a turn, or those of a session outside of its turns.
        session: Of kind `session`: `provider`, `transport`, and where known `model`, `voice`, `end_reason`, `turns`; members that
            are None are left out.
        log: The head of a run without session, in its last credential.
    """
    duration = None if started_at is None else max(0, round((ended_at - started_at) * 1000))
    optional = {
        "session_id": session_id,
        "parent_id": parent_id,
        "started_at": None if started_at is None else time_text(started_at),
        "duration_ms": duration,
        "node": None if node is None else node.document(),
        "speech": [each.document() for each in speech] or None,
        "session": None if session is None else _present(session),
        "log": None if log is None else log.document(),
    }
    return {
        "kind": kind,
        "number": number,
        "execution_id": execution_id,
        "run_id": run_id,
        "target": target,
        "status": status,
        "attempt": attempt,
        "created_at": time_text(created_at),
        "ended_at": time_text(ended_at),
        "input": b64url(input),
        "output" if status == "succeeded" else "problem": b64url(outcome),
        **_present(optional),
    }


def parse_subject(value: Any) -> Subject:
    """Return the subject that a JSON object states.

    Raises:
        InvalidInput: It is malformed (code ``bad_document``, or ``bad_proof`` for the proof of the node).
    """
    members(value, "credentialSubject", _REQUIRED, _OPTIONAL)
    kind, status = value["kind"], value["status"]
    if kind not in _KINDS:
        bad("its kind is not call, tool, turn or session")
    if status not in _STATUSES:
        bad("its status is not succeeded, failed, cancelled or timeout")
    outcome = "output" if status == "succeeded" else "problem"
    if ("output" in value) == ("problem" in value) or outcome not in value:
        bad(f"a subject that is {status} has exactly one outcome, {outcome}")
    for name in ("created_at", "started_at", "ended_at"):
        if name in value:
            timestamp(value[name], name)
    if ("started_at" in value) != ("duration_ms" in value):
        bad("started_at and duration_ms occur together")
    if "duration_ms" in value:
        integer(value["duration_ms"], "duration_ms")
    if ("session" in value) != (kind == "session"):
        bad("exactly a session has the member session")
    if "session" in value:
        _check_session(value["session"])
    return Subject(
        kind=kind,
        number=integer(value["number"], "number", 1),
        execution_id=text(value["execution_id"], "execution_id"),
        run_id=text(value["run_id"], "run_id"),
        session_id=text(value["session_id"], "session_id") if "session_id" in value else None,
        parent_id=text(value["parent_id"], "parent_id") if "parent_id" in value else None,
        target=text(value["target"], "target"),
        status=status,
        attempt=integer(value["attempt"], "attempt"),
        input=hash_of(value["input"], "input"),
        outcome=hash_of(value[outcome], outcome),
        node=_node(value["node"]) if "node" in value else None,
        speech=_speeches(value["speech"]) if "speech" in value else (),
        log=Coverage.parse(value["log"], "log") if "log" in value else None,
    )


def _node(value: Any) -> NodeProof:
    members(value, "node", _NODE)
    return NodeProof(
        did=text(value["did"], "did"),
        node_id=text(value["node_id"], "node_id"),
        instance_id=text(value["instance_id"], "instance_id"),
        audience=text(value["audience"], "audience"),
        epoch=integer(value["epoch"], "epoch"),
        retry=boolean(value["retry"], "retry"),
        result_proof=parse_proof(value["result_proof"]),
    )


def _speeches(value: Any) -> tuple[SpeechRecord, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MAX_SPEECHES:
        bad(f"speech is not a list of 1 to {_MAX_SPEECHES} objects")
    return tuple([_speech(each) for each in value])


def _speech(value: Any) -> SpeechRecord:
    members(value, "speech", *_SPEECH)
    return SpeechRecord(
        event=integer(value["event"], "event", 1),
        body=hash_of(value["body"], "body"),
        verbatim=boolean(value["verbatim"], "verbatim") if "verbatim" in value else None,
        heard_ms=integer(value["heard_ms"], "heard_ms") if "heard_ms" in value else None,
        heard_method=text(value["heard_method"], "heard_method") if "heard_method" in value else None,
    )


def _check_session(value: Any) -> None:
    members(value, "session", *_SESSION)
    for name, item in value.items():
        if name == "turns":
            integer(item, name)
        else:
            text(item, name)


def _present(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in value.items() if item is not None}
