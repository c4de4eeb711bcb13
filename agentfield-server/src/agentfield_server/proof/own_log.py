"""The control plane's own log: anchors of the last heads of runs, in batches, and rotations of the issuer's key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from agentfield.errors import Unavailable
from agentfield.identity import NodeKey, canonical, tree_root
from agentfield.proof.anchors import anchors_entry, entry_leaf, rotation_entry
from agentfield.proof.heads import CONTROL_PLANE, Coverage, sign_head
from agentfield.proof.trees import LogTree, Place
from agentfield_server.store.proofs import Anchor, OwnLogEntry, ProofStore

__all__ = ["OwnLog"]

_ISSUER = "issuer"
_BATCH = 500
_PAGE = 10_000


class OwnLog:
    """Appends to the control plane's own log, and proves what is in it.

    Args:
        store: Holds the entries.
        key: The issuer's key.
        clock: Seconds since the epoch.
    """

    def __init__(self, store: ProofStore, key: NodeKey, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._key = key
        self._clock = clock
        self._tree = LogTree()
        self.rotations: list[Mapping[str, Any]] = []
        """Entries of type `rotation`, in order."""
        self._lock = asyncio.Lock()

    @classmethod
    async def open(
        cls, store: ProofStore, key: NodeKey, *, clock: Callable[[], float], before: NodeKey | None = None
    ) -> Self:
        """Return the log of a store; record a rotation if the key is another one than that of the last start.

        Args:
            store: The open store.
            key: The issuer's key.
            clock: Seconds since the epoch.
            before: The key that it replaces.

        Raises:
            Unavailable: The store is that of another key, and `before` is not that key, or the key was replaced earlier: an
                export with it twice would verify with neither (code `issuer_changed`).
        """
        log = cls(store, key, clock=clock)
        while entries := await store.own_log(after=len(log._tree), limit=_PAGE):
            for each in entries:
                log._remember(each.leaf, json.loads(each.entry))
        stored = await store.secret(_ISSUER)
        # the log decides: a start may have been cut off between its entry and the stored name
        issuer = log.rotations[-1]["to"] if log.rotations else stored.decode() if stored is not None else None
        if issuer is not None and issuer != key.did:
            if key.did in {rotation["from"] for rotation in log.rotations}:
                raise Unavailable(
                    f"The key of {key.did} was replaced: what it signs counts no more. The store belongs to the issuer {issuer}.",
                    code="issuer_changed",
                    hint="start with the key of that issuer, or rotate to a new one: openssl genpkey -algorithm ed25519 -out FILE",
                )
            if before is None or before.did != issuer:
                raise Unavailable(
                    f"The store belongs to the issuer {issuer}, and the key is that of {key.did}.",
                    code="issuer_changed",
                    hint="start with the key of before, or name it once as AGENTFIELD_IDENTITY_KEY_BEFORE to record a rotation",
                )
            # what the old key signed counts only if it is anchored before its end; a process that was killed left it waiting
            while await log.anchor_waiting():
                pass
            await log._append(rotation_entry(before, key, seq=len(log._tree) + 1, at=clock()))
        if stored is None or stored.decode() != key.did:
            await store.put_secret(_ISSUER, key.did.encode())
        return log

    @property
    def size(self) -> int:
        """Number of its entries."""
        return len(self._tree)

    async def anchor_waiting(self) -> int:
        """Anchor heads that wait, in one entry; return how many."""
        waiting = await self._store.waiting_anchors(limit=_BATCH)
        if waiting:
            root = tree_root([anchor.leaf for anchor in waiting])
            entry = anchors_entry(seq=len(self._tree) + 1, root=root, size=len(waiting), at=self._clock())
            await self._append(entry, waiting)
        return len(waiting)

    def head(self, size: int) -> dict[str, Any]:
        """Return a signed head over the first `size` entries, one at least."""
        coverage = Coverage(size=size, root=self._tree.root(size))
        return sign_head(self._key, log=CONTROL_PLANE, coverage=coverage, at=self._clock())

    def place(self, seq: int, size: int) -> Place:
        """Return the place of an entry in the log of a size."""
        return self._tree.place(seq - 1, size)

    async def entry(self, seq: int) -> Mapping[str, Any]:
        """Return an entry."""
        (found,) = await self._store.own_log(after=seq - 1, limit=1)
        document: Mapping[str, Any] = json.loads(found.entry)
        return document

    async def _append(self, entry: Mapping[str, Any], anchors: Sequence[Anchor] = ()) -> None:
        async with self._lock:
            leaf = entry_leaf(entry)
            if not await self._store.append_to_own_log(OwnLogEntry(entry["seq"], canonical(entry), leaf), anchors):
                raise Unavailable("Another process appended to the control plane's own log.", code="store_failed")
            self._remember(leaf, entry)

    def _remember(self, leaf: bytes, entry: Mapping[str, Any]) -> None:
        self._tree.append(leaf)
        if entry["type"] == "rotation":
            self.rotations.append(entry)
