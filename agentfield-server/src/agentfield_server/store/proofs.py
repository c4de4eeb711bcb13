"""What the store keeps for proofs: issued credentials, signed heads, anchors, the control plane's own log, and wrapped secrets.

An execution that ends is queued for its credential in the transaction that closes it, and leaves the queue in the transaction
that stores the credential. So none is missing after a crash, and none is issued twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agentfield_server.store.operations import Operation
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import EventRow

__all__ = [
    "Anchor",
    "AppendToOwnLog",
    "Ended",
    "EraseRun",
    "IssuedCredential",
    "OwnLogEntry",
    "ProofStore",
    "PutHead",
    "PutSecret",
    "ReplaceWebhookSecret",
    "SignedHead",
    "StoreCredentials",
    "StoredCredential",
]


@dataclass(frozen=True, slots=True)
class Ended:
    """An ended execution that waits for its credential."""

    pos: int
    """Its place in the queue."""
    queued_at: float
    id: str
    run_id: str
    kind: str
    target: str
    status: str
    parent_id: str | None
    session_id: str | None
    actor_id: str | None
    attempt: int
    lease_epoch: int
    created_at: float
    started_at: float | None
    ended_at: float
    input_salt: bytes | None
    output_salt: bytes | None
    input_digest: str | None
    """With `output_digest` and `signature`: what a node of protocol 1 signed."""
    output_digest: str | None
    signature: str | None
    signer: str | None
    statement: str | None
    proof: str | None
    input: Any
    """Input, output and problem are read only where no commitment of the node stands for them."""
    output: Any
    problem: Any
    credentials: int
    """Number of the credentials that the run has already."""
    last: bool
    """Whether the run has no session, and nothing of it is open or waits in the queue after this execution."""


@dataclass(frozen=True, slots=True)
class IssuedCredential:
    """The credential of an execution."""

    pos: int
    """The place of the execution in the queue, which it leaves."""
    execution_id: str
    run_id: str
    number: int
    """Its number among the credentials of the run, from 1."""
    document: bytes
    """The signed credential as canonical JSON."""
    leaf: bytes
    input_salt: bytes | None = None
    """Salt made for the input, where the execution had none."""
    output_salt: bytes | None = None
    """Salt made for the output or problem, where the execution had none."""
    size: int | None = None
    """Number of events, if it has the head of a run without a session: it is anchored."""


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """A credential as it is stored."""

    number: int
    execution_id: str
    document: bytes


@dataclass(frozen=True, slots=True)
class Anchor:
    """A final head of a run (or the credential that has it), as it is recorded in the control plane's own log."""

    run_id: str
    size: int
    """Number of events of the run."""
    leaf: bytes
    """Leaf of the head or credential."""
    entry: int | None = None
    """Number of the entry of the control plane's log; None while it waits."""
    place: int | None = None
    """Place in the batch of that entry."""


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A signed head of the log of a run."""

    run_id: str
    size: int
    final: bool
    document: bytes
    """The head as canonical JSON."""
    leaf: bytes


@dataclass(frozen=True, slots=True)
class OwnLogEntry:
    """An entry of the control plane's own log."""

    seq: int
    """Its number, from 1."""
    entry: bytes
    leaf: bytes


# --- writes


class StoreCredentials(Operation[None], frozen=True):
    """See `ProofStore.store_credentials`."""

    issued: Sequence[IssuedCredential]


class PutHead(Operation[None], frozen=True):
    """See `ProofStore.put_head`."""

    head: SignedHead


class AppendToOwnLog(Operation[bool], frozen=True):
    """See `ProofStore.append_to_own_log`."""

    entry: OwnLogEntry
    anchors: Sequence[Anchor]


class PutSecret(Operation[None], frozen=True):
    """See `ProofStore.put_secret`."""

    name: str
    value: bytes


class ReplaceWebhookSecret(Operation[None], frozen=True):
    """See `ProofStore.replace_webhook_secret`."""

    webhook_id: str
    secret: str


class EraseRun(Operation[int | None], frozen=True):
    """See `ProofStore.erase_run`."""

    run_id: str
    seqs: Sequence[int] | None
    execution_ids: Sequence[str] | None
    reason: str
    by: str


class ProofStore(Store, Protocol):
    """The methods of a store for proofs."""

    async def secret(self, name: str) -> bytes | None:
        """Return a secret of the store, None if there is none of this name."""

    async def put_secret(self, name: str, value: bytes) -> None:
        """Store a secret, which is encrypted already."""

    async def replace_webhook_secret(self, webhook_id: str, secret: str) -> None:
        """Replace the stored form of a webhook's secret."""

    # --- credentials

    async def ended_without_credential(self, *, limit: int) -> list[Ended]:
        """Return ended executions that wait for their credential, in the order of their ends."""

    async def oldest_without_credential(self) -> float | None:
        """Return when the first of the waiting executions ended, None if none waits."""

    async def store_credentials(self, issued: Sequence[IssuedCredential]) -> None:
        """Store credentials and take their executions from the queue; keep the salts that were made for them."""

    async def credentials(self, run_id: str, *, after: int = 0, limit: int = 500) -> list[StoredCredential]:
        """Return credentials of a run with a larger number, in order."""

    async def credential(self, execution_id: str) -> bytes | None:
        """Return the credential of an execution, None while it waits."""

    async def credential_leaves(self, run_id: str, *, after: int = 0) -> list[bytes]:
        """Return the leaves of the credentials of a run with a larger number, in order."""

    async def speech_ends(self, run_id: str, turn_id: str | None) -> list[EventRow]:
        """Return the ends of the speeches of a turn, or with None of those of a run outside of turns, in order."""

    async def log_format(self, run_id: str) -> int | None:
        """Return the format of the log of a run, None for an unknown or pruned run."""

    async def session_of_run(self, run_id: str) -> str | None:
        """Return the session of a run, if it has one."""

    async def log_size(self, run_id: str) -> int:
        """Return the number of events of a run, 0 for an unknown one."""

    async def logs(self, run_ids: Sequence[str]) -> dict[str, list[bytes]]:
        """Return the leaves of the logs of several runs, each in order."""

    # --- heads and anchors

    async def leaves(self, run_id: str, *, after: int = 0) -> list[bytes]:
        """Return the leaves of the log of a run with a larger `seq`, in order."""

    async def put_head(self, head: SignedHead) -> None:
        """Store a signed head; a final one waits for its anchor. One of the same size that is there already stays."""

    async def heads(self, run_id: str) -> list[SignedHead]:
        """Return the heads of a run, the smallest first."""

    async def last_head(self, run_id: str) -> SignedHead | None:
        """Return the largest head of a run."""

    async def runs_without_head(self, *, after: str = "", limit: int = 500) -> list[str]:
        """Return runs that ended and have no final head over all their events, in the order of their ids.

        A run without a session is among them only if events followed its last credential, which holds its head.
        """

    async def has_ended(self, run_id: str) -> bool:
        """Return whether a run has ended: its session, and all of its executions."""

    async def is_over(self, run_id: str) -> bool:
        """Return whether a run has ended, and each of its executions that waited for a credential has it."""

    async def waiting_anchors(self, *, limit: int) -> list[Anchor]:
        """Return anchors that wait for their batch."""

    async def anchors(self, run_id: str) -> list[Anchor]:
        """Return the anchors of a run, the smallest first."""

    async def last_anchor(self, run_id: str) -> Anchor | None:
        """Return the anchor of the largest head of a run."""

    async def batch(self, entry: int) -> list[Anchor]:
        """Return the anchors of an entry of the control plane's log, in their places."""

    # --- the control plane's own log

    async def append_to_own_log(self, entry: OwnLogEntry, anchors: Sequence[Anchor] = ()) -> bool:
        """Append an entry and give its anchors their places; False when another entry has this number."""

    async def own_log(self, *, after: int = 0, limit: int = 10_000) -> list[OwnLogEntry]:
        """Return entries of the control plane's own log with a larger number, in order."""

    # --- redaction

    async def erase_run(
        self,
        run_id: str,
        *,
        seqs: Sequence[int] | None,
        execution_ids: Sequence[str] | None,
        reason: str,
        by: str,
    ) -> int | None:
        """Erase bodies and salts of events and executions with every copy, and append `log.redacted`, in one transaction.

        Args:
            run_id: The run.
            seqs: Events; None for all.
            execution_ids: Executions whose input, output, problem, progress and approvals are erased; None for all.
            reason: Recorded reason.
            by: Recorded principal.

        Returns:
            The number of erased events; None when the run has format 1.

        Raises:
            NotFound: The run does not exist or was pruned (code `unknown_run`).
        """
