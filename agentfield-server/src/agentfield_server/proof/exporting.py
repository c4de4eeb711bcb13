"""Exports: the record of a run as signed lines that others verify offline (docs/proof-formats.md)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentfield.errors import NotFound
from agentfield.identity import canonical, commitment, unb64url
from agentfield.proof import ExportWriter, LogTree
from agentfield_server.proof.issuing import Issuer
from agentfield_server.store.proofs import Anchor, ProofStore, SignedHead, StoredCredential
from agentfield_server.store.records import Execution

__all__ = ["Exporter"]

_PAGE = 500


@dataclass(frozen=True, slots=True)
class _Extent:
    """The part of a run that is exported; each covers the one before it, so that a live run may grow meanwhile."""

    heads: Sequence[SignedHead]
    credentials: int
    events: int


class Exporter:
    """Writes exports.

    Args:
        store: The store.
        issuer: Issues what is exported, and signs the export.
    """

    def __init__(self, store: ProofStore, issuer: Issuer) -> None:
        self._store = store
        self._issuer = issuer

    async def export(
        self, run_id: str, *, session_id: str | None, bodies: bool, at: float
    ) -> AsyncIterator[list[bytes]]:
        """Yield the lines of an export, some at a time.

        A run that has ended is exported with its final head and anchor; the first lines wait for them, ten seconds at most.

        Args:
            run_id: The run.
            session_id: Its session, if it has one.
            bodies: Whether bodies and salts are exported, as far as they are not erased.
            at: Time of the export, in seconds since the epoch.

        Raises:
            NotFound: The run does not exist or was pruned (code `unknown_run`).
        """
        if await self._store.has_ended(run_id):
            await self._issuer.settle(run_id)
        extent = _Extent(
            await self._store.heads(run_id),
            len(await self._store.credential_leaves(run_id)),
            await self._store.log_size(run_id),
        )
        log_format = await self._store.log_format(run_id)
        if log_format is None or not extent.events:
            raise NotFound(f"There is no run {run_id!r}.", code="unknown_run")
        writer = ExportWriter(self._issuer.key)
        lines = [
            writer.header(
                run_id=run_id,
                session_id=session_id,
                log_format=log_format,
                bodies=bodies and log_format > 1,
                at=at,
            )
        ]
        log = self._issuer.own_log
        size = log.size
        if size:
            lines.append(writer.control_plane(log.head(size)))
            lines += [writer.rotation(entry, log.place(entry["seq"], size)) for entry in log.rotations]
        yield lines
        async for page in self._events(writer, run_id, extent):
            yield page
        yield [writer.head(json.loads(head.document)) for head in extent.heads]
        async for credentials in self._credentials(run_id, extent.credentials):
            yield [writer.credential(each.document) for each in credentials]
        yield await self._anchors(writer, run_id, size)
        if bodies and log_format > 1:
            async for page in self._bodies(writer, run_id, extent):
                yield page
        yield [writer.end()]

    async def _events(self, writer: ExportWriter, run_id: str, extent: _Extent) -> AsyncIterator[list[bytes]]:
        after = 0
        while after < extent.events:
            rows = await self._store.read_events(run_id, after=after, limit=min(_PAGE, extent.events - after))
            if not rows:
                raise NotFound(f"The run {run_id!r} was pruned meanwhile.", code="unknown_run")
            yield [writer.event(row.entry) for row in rows]
            after = rows[-1].seq

    async def _credentials(self, run_id: str, count: int) -> AsyncIterator[list[StoredCredential]]:
        after = 0
        while after < count:
            page = await self._store.credentials(run_id, after=after, limit=min(_PAGE, count - after))
            if not page:
                return
            yield page
            after = page[-1].number

    async def _anchors(self, writer: ExportWriter, run_id: str, size: int) -> list[bytes]:
        """Return the lines of the anchors of a run, as far as the control plane's log is exported."""
        # of several heads in one entry the last one is enough: it binds those before it
        last = {anchor.entry: anchor for anchor in await self._store.anchors(run_id)}
        return [
            await self._anchor(writer, anchor, entry, anchor.place, size)
            for entry, anchor in last.items()
            if entry is not None and anchor.place is not None and entry <= size
        ]

    async def _anchor(self, writer: ExportWriter, anchor: Anchor, entry: int, place: int, size: int) -> bytes:
        log = self._issuer.own_log
        batch = LogTree(each.leaf for each in await self._store.batch(entry))
        return writer.anchor(anchor.leaf, await log.entry(entry), batch=batch.place(place), log=log.place(entry, size))

    async def _bodies(self, writer: ExportWriter, run_id: str, extent: _Extent) -> AsyncIterator[list[bytes]]:
        after = 0
        while after < extent.events and (
            rows := await self._store.read_events(run_id, after=after, limit=min(_PAGE, extent.events - after))
        ):
            yield [
                writer.event_body(row.seq, row.salt, row.body)
                for row in rows
                if row.salt is not None and row.body is not None
            ]
            after = rows[-1].seq
        async for page in self._credentials(run_id, extent.credentials):
            lines: list[bytes] = []
            for each in page:
                row = await self._store.get_execution(each.execution_id)
                if row is not None:
                    lines += _execution_bodies(writer, row, json.loads(each.document)["credentialSubject"])
            yield lines


def _execution_bodies(writer: ExportWriter, row: Execution, subject: Mapping[str, Any]) -> list[bytes]:
    """Return the bodies of an execution that open the commitments of its credential.

    A problem document that the control plane completed, and a body that was erased, do not.
    """
    outcome: Literal["output", "problem"] = "output" if row.status == "succeeded" else "problem"
    parts: list[tuple[Literal["input", "output", "problem"], bytes | None, Any]] = [
        ("input", row.input_salt, row.input),
        (outcome, row.output_salt, row.output if outcome == "output" else row.problem),
    ]
    lines = []
    for part, salt, value in parts:
        if salt is not None and commitment(salt, body := canonical(value)) == unb64url(subject[part]):
            lines.append(writer.execution_body(row.id, part, salt, body))
    return lines
