"""Credentials, heads, anchors and the control plane's own log: the methods of the `ProofStore` protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentfield_server.store.json_text import dump, load
from agentfield_server.store.proofs import (
    Anchor,
    AppendToOwnLog,
    Ended,
    EraseRun,
    IssuedCredential,
    OwnLogEntry,
    PutHead,
    PutSecret,
    ReplaceWebhookSecret,
    SignedHead,
    StoreCredentials,
    StoredCredential,
)
from agentfield_server.store.records import EventRow
from agentfield_server.store.sqlite.database import SqliteDatabase
from agentfield_server.store.sqlite.rows import EVENT_COLUMNS, KNOWN_RUN, event_row

__all__ = ["ProofMethods"]


def _unstated(name: str) -> str:
    """Return a body where no commitment of the node stands for it."""
    return (
        f"CASE WHEN e.statement IS NOT NULL AND e.status = 'succeeded' THEN NULL WHEN e.{name}_payload IS NULL THEN e.{name} "  # noqa: S608
        f"ELSE (SELECT body FROM payloads WHERE digest = e.{name}_payload) END"
    )


# All SQL below is built from constants; values are always bound.
_ENDED = f"""
SELECT q.pos, q.at, e.id, e.run_id, e.kind, e.target, e.status, e.parent_id, e.session_id, e.actor_id, e.attempt,
    e.lease_epoch, e.created_at, e.started_at, COALESCE(e.ended_at, q.at), e.input_salt, e.output_salt, e.input_digest, e.output_digest,
    e.signature, e.signer, e.statement, e.proof, {_unstated("input")}, {_unstated("output")}, e.problem,
    COALESCE((SELECT MAX(number) FROM credentials c WHERE c.run_id = q.run_id), 0),
    r.session_id IS NULL
    AND NOT EXISTS (SELECT 1 FROM credential_queue l WHERE l.run_id = q.run_id AND l.pos > q.pos)
    AND NOT EXISTS (SELECT 1 FROM executions o WHERE o.run_id = q.run_id AND o.status IN ('queued', 'running', 'waiting'))
FROM credential_queue q JOIN executions e ON e.id = q.execution_id JOIN runs r ON r.id = q.run_id ORDER BY q.pos LIMIT ?
"""  # noqa: S608
_JSON = slice(23, 26)
_ENDED_RUN = """
NOT EXISTS (SELECT 1 FROM executions WHERE run_id = runs.id AND status IN ('queued', 'running', 'waiting'))
    AND NOT EXISTS (SELECT 1 FROM sessions WHERE run_id = runs.id AND state <> 'ended')
"""
_OVER = f"{_ENDED_RUN} AND NOT EXISTS (SELECT 1 FROM credential_queue WHERE run_id = runs.id)"  # noqa: S608
_WITHOUT_HEAD = f"""
SELECT id FROM runs WHERE id > ? AND pruned_at IS NULL AND CASE WHEN session_id IS NOT NULL
    THEN NOT EXISTS (SELECT 1 FROM heads WHERE run_id = runs.id AND size = runs.seq AND final)
    ELSE seq > (SELECT MAX(size) FROM anchors WHERE run_id = runs.id) END AND {_OVER} ORDER BY id LIMIT ?
"""  # noqa: S608
_ANCHOR = "SELECT run_id, size, leaf, entry, place FROM anchors"
_HEAD = "SELECT run_id, size, final, document, leaf FROM heads"
_SPEECHES = f"""
SELECT {EVENT_COLUMNS} FROM events WHERE run_id = {KNOWN_RUN} AND type = 'speech.ended' AND execution_id IS ? ORDER BY seq
"""  # noqa: S608


class ProofMethods(SqliteDatabase):
    """Reads and writes of what the control plane signs."""

    async def secret(self, name: str) -> bytes | None:
        """Return a secret of the store."""
        rows = await self._read("SELECT value FROM secrets WHERE name = ?", name)
        return bytes(rows[0][0]) if rows else None

    async def put_secret(self, name: str, value: bytes) -> None:
        """Store a secret."""
        await self._write(PutSecret(name, value))

    async def replace_webhook_secret(self, webhook_id: str, secret: str) -> None:
        """Replace the stored form of a webhook's secret."""
        await self._write(ReplaceWebhookSecret(webhook_id, secret))

    async def ended_without_credential(self, *, limit: int) -> list[Ended]:
        """Return executions that wait for their credential, see `ProofStore.ended_without_credential`."""
        found = []
        for row in await self._read(_ENDED, limit):
            values = [*row[: _JSON.start], *map(load, row[_JSON]), row[-2], bool(row[-1])]
            found.append(Ended(*values))
        return found

    async def oldest_without_credential(self) -> float | None:
        """Return when the first of the waiting executions ended."""
        rows = await self._read("SELECT at FROM credential_queue ORDER BY pos LIMIT 1")
        return rows[0][0] if rows else None

    async def store_credentials(self, issued: Sequence[IssuedCredential]) -> None:
        """Store credentials, see `ProofStore.store_credentials`."""
        await self._write(StoreCredentials(issued))

    async def credentials(self, run_id: str, *, after: int = 0, limit: int = 500) -> list[StoredCredential]:
        """Return credentials of a run, see `ProofStore.credentials`."""
        rows = await self._read(
            f"SELECT number, execution_id, document FROM credentials WHERE run_id = {KNOWN_RUN} AND number > ? "  # noqa: S608
            "ORDER BY number LIMIT ?",
            run_id,
            after,
            limit,
        )
        return [StoredCredential(*row) for row in rows]

    async def credential(self, execution_id: str) -> bytes | None:
        """Return the credential of an execution."""
        rows = await self._read(
            "SELECT document FROM credentials WHERE run_id = (SELECT run_id FROM executions WHERE id = ?1) "
            "AND execution_id = ?1",
            execution_id,
        )
        return bytes(rows[0][0]) if rows else None

    async def credential_leaves(self, run_id: str, *, after: int = 0) -> list[bytes]:
        """Return leaves of the credentials of a run."""
        rows = await self._read(
            "SELECT leaf FROM credentials WHERE run_id = ? AND number > ? ORDER BY number", run_id, after
        )
        return [bytes(leaf) for (leaf,) in rows]

    async def log_format(self, run_id: str) -> int | None:
        """Return the format of the log of a run."""
        rows = await self._read("SELECT format FROM runs WHERE id = ? AND pruned_at IS NULL", run_id)
        return int(rows[0][0]) if rows else None

    async def session_of_run(self, run_id: str) -> str | None:
        """Return the session of a run."""
        rows = await self._read("SELECT session_id FROM runs WHERE id = ?", run_id)
        return rows[0][0] if rows else None

    async def log_size(self, run_id: str) -> int:
        """Return the number of events of a run."""
        rows = await self._read("SELECT seq FROM runs WHERE id = ?", run_id)
        return int(rows[0][0]) if rows else 0

    async def logs(self, run_ids: Sequence[str]) -> dict[str, list[bytes]]:
        """Return the leaves of the logs of several runs, each in order."""
        found: dict[str, list[bytes]] = {}
        for run_id, leaf in await self._read(
            "SELECT run_id, leaf FROM events WHERE run_id IN (SELECT value FROM json_each(?)) ORDER BY run_id, seq",
            dump(list(run_ids)),
        ):
            found.setdefault(run_id, []).append(bytes(leaf))
        return found

    async def speech_ends(self, run_id: str, turn_id: str | None) -> list[EventRow]:
        """Return the ends of speeches, see `ProofStore.speech_ends`."""
        return [event_row(row) for row in await self._read(_SPEECHES, run_id, turn_id)]

    async def leaves(self, run_id: str, *, after: int = 0) -> list[bytes]:
        """Return leaves of the log of a run."""
        rows = await self._read(
            f"SELECT leaf FROM events WHERE run_id = {KNOWN_RUN} AND seq > ? ORDER BY seq",  # noqa: S608
            run_id,
            after,
        )
        return [bytes(leaf) for (leaf,) in rows]

    async def put_head(self, head: SignedHead) -> None:
        """Store a head, see `ProofStore.put_head`."""
        await self._write(PutHead(head))

    async def heads(self, run_id: str) -> list[SignedHead]:
        """Return the heads of a run, the smallest first."""
        rows = await self._read(f"{_HEAD} WHERE run_id = {KNOWN_RUN} ORDER BY size, final", run_id)
        return [_head(row) for row in rows]

    async def last_head(self, run_id: str) -> SignedHead | None:
        """Return the largest head of a run."""
        rows = await self._read(f"{_HEAD} WHERE run_id = ? ORDER BY size DESC, final DESC LIMIT 1", run_id)
        return _head(rows[0]) if rows else None

    async def runs_without_head(self, *, after: str = "", limit: int = 500) -> list[str]:
        """Return runs of sessions without a final head, see `ProofStore.runs_without_head`."""
        return [str(run_id) for (run_id,) in await self._read(_WITHOUT_HEAD, after, limit)]

    async def has_ended(self, run_id: str) -> bool:
        """Return whether a run has ended."""
        return bool(await self._read(f"SELECT 1 FROM runs WHERE id = ? AND {_ENDED_RUN}", run_id))  # noqa: S608

    async def is_over(self, run_id: str) -> bool:
        """Return whether a run has ended and has its credentials, see `ProofStore.is_over`."""
        return bool(await self._read(f"SELECT 1 FROM runs WHERE id = ? AND {_OVER}", run_id))  # noqa: S608

    async def waiting_anchors(self, *, limit: int) -> list[Anchor]:
        """Return anchors that wait for their batch."""
        return [
            Anchor(*row)
            for row in await self._read(f"{_ANCHOR} WHERE entry IS NULL ORDER BY place, run_id, size LIMIT ?", limit)
        ]

    async def anchors(self, run_id: str) -> list[Anchor]:
        """Return the anchors of a run."""
        return [Anchor(*row) for row in await self._read(f"{_ANCHOR} WHERE run_id = ? ORDER BY size", run_id)]

    async def last_anchor(self, run_id: str) -> Anchor | None:
        """Return the anchor of the largest head of a run."""
        rows = await self._read(f"{_ANCHOR} WHERE run_id = ? ORDER BY size DESC LIMIT 1", run_id)
        return Anchor(*rows[0]) if rows else None

    async def batch(self, entry: int) -> list[Anchor]:
        """Return the anchors of an entry, in their places."""
        return [Anchor(*row) for row in await self._read(f"{_ANCHOR} WHERE entry = ? ORDER BY place", entry)]

    async def append_to_own_log(self, entry: OwnLogEntry, anchors: Sequence[Anchor] = ()) -> bool:
        """Append an entry, see `ProofStore.append_to_own_log`."""
        return await self._write(AppendToOwnLog(entry, anchors))

    async def own_log(self, *, after: int = 0, limit: int = 10_000) -> list[OwnLogEntry]:
        """Return entries of the control plane's own log."""
        rows = await self._read(
            "SELECT seq, entry, leaf FROM control_plane_log WHERE seq > ? ORDER BY seq LIMIT ?", after, limit
        )
        return [OwnLogEntry(seq, bytes(entry), bytes(leaf)) for seq, entry, leaf in rows]

    async def erase_run(
        self,
        run_id: str,
        *,
        seqs: Sequence[int] | None,
        execution_ids: Sequence[str] | None,
        reason: str,
        by: str,
    ) -> int | None:
        """Erase bodies of a run, see `ProofStore.erase_run`."""
        return await self._write(EraseRun(run_id, seqs, execution_ids, reason, by))


def _head(row: tuple[Any, ...]) -> SignedHead:
    run_id, size, final, document, leaf = row
    return SignedHead(run_id, size, bool(final), bytes(document), bytes(leaf))
