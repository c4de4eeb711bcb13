"""The control plane's own log: entries that anchor the heads of runs in batches, and entries that end one key and begin the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentfield.errors import InvalidInput
from agentfield.identity import NodeKey, b64url, canonical, leaf_hash, verify_signature
from agentfield.proof.heads import Head
from agentfield.proof.strict import bad, hash_of, integer, members, signature_of, text, time_text, timestamp
from agentfield.proof.trees import Place

__all__ = [
    "Anchor",
    "Rotation",
    "anchor_document",
    "anchors_entry",
    "entry_leaf",
    "parse_anchor",
    "parse_rotation",
    "rotation_document",
    "rotation_entry",
]

_ROTATION = b"agentfield/rotation/1\n"


def entry_leaf(entry: Mapping[str, Any]) -> bytes:
    """Return the leaf of an entry of the control plane's log."""
    return leaf_hash(canonical(entry))


def anchors_entry(*, seq: int, root: bytes, size: int, at: float) -> dict[str, Any]:
    """Return an entry of the control plane's log that anchors a batch.

    Args:
        seq: Number of the entry, from 1.
        root: Root of the tree over the leaves of the heads (or of credentials with `log`).
        size: Their number.
        at: Seconds since the epoch; rounded down to whole seconds.
    """
    return {"at": time_text(at), "root": b64url(root), "seq": seq, "size": size, "type": "anchors"}


def rotation_entry(old: NodeKey, new: NodeKey, *, seq: int, at: float) -> dict[str, Any]:
    """Return the entry that ends the old key, signed by both.

    Args:
        old: The key in force.
        new: The key from now on.
        seq: Number of the entry, from 1; it is also the size of the log from which only the new key signs.
        at: Seconds since the epoch; rounded down to whole seconds.
    """
    entry = {"at": time_text(at), "from": old.did, "seq": seq, "size": seq, "to": new.did, "type": "rotation"}
    message = _ROTATION + canonical(entry)
    return {**entry, "signatures": {"from": b64url(old.sign(message)), "to": b64url(new.sign(message))}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """A rotation whose signatures and place were verified."""

    old: str
    """DID of the key that it ends."""
    new: str
    """DID of the key that it begins."""
    size: int
    """Size of the control plane's log from which only the new key signs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """An anchor whose places were verified."""

    leaf: bytes
    """Leaf of the head or credential."""
    index: int
    """Index of its entry in the control plane's log, from 0."""
    at: str


def rotation_document(entry: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """Return the value of a line `rotation` of an export."""
    return {"entry": entry, "place": place.document()}


def anchor_document(leaf: bytes, entry: Mapping[str, Any], *, batch: Place, log: Place) -> dict[str, Any]:
    """Return the value of a line `anchor` of an export.

    Args:
        leaf: Leaf of the head or credential.
        entry: The entry of the control plane's log.
        batch: Place of the leaf in the tree of the entry.
        log: Place of the entry in the control plane's log, at the size of its head in the export.
    """
    return {"batch": batch.document(), "entry": entry, "leaf": b64url(leaf), "log": log.document()}


def parse_rotation(value: Any, head: Head) -> Rotation:
    """Return the rotation that a line of an export states.

    Args:
        value: The value of the line.
        head: Head of the control plane's log.

    Raises:
        InvalidInput: It is malformed, not in that log (code ``bad_document``), or not signed by both keys (code
            ``bad_signature``).
    """
    members(value, "the rotation", ("entry", "place"))
    entry = members(value["entry"], "its entry", ("at", "from", "seq", "signatures", "size", "to", "type"))
    signatures = members(entry["signatures"], "its signatures", ("from", "to"))
    if entry["type"] != "rotation":
        bad("the entry is not a rotation")
    seq = _seq(entry, Place.parse(value["place"], "its place"), head)
    if integer(entry["size"], "size", 1) != seq:
        bad("its size is not that of the log with it")
    old, new = text(entry["from"], "from"), text(entry["to"], "to")
    if old == new:
        bad("it ends the key that it begins")
    message = _ROTATION + canonical({name: item for name, item in entry.items() if name != "signatures"})
    for side, did in (("from", old), ("to", new)):
        if not verify_signature(did, message, signature_of(signatures[side], side)):
            raise InvalidInput(f"The rotation is not signed by the key that it names as {side}.", code="bad_signature")
    return Rotation(old=old, new=new, size=seq)


def parse_anchor(value: Any, head: Head) -> Anchor:
    """Return the anchor that a line of an export states.

    Args:
        value: The value of the line.
        head: Head of the control plane's log.

    Raises:
        InvalidInput: It is malformed, or one of its places does not lead to the root (code ``bad_document``).
    """
    members(value, "the anchor", ("batch", "entry", "leaf", "log"))
    entry = members(value["entry"], "its entry", ("at", "root", "seq", "size", "type"))
    if entry["type"] != "anchors":
        bad("the entry does not anchor heads")
    seq = _seq(entry, Place.parse(value["log"], "its place in the log"), head)
    leaf, batch = hash_of(value["leaf"], "leaf"), Place.parse(value["batch"], "its place in the batch")
    if batch.size != integer(entry["size"], "size", 1) or batch.root(leaf) != hash_of(entry["root"], "root"):
        bad("its place in the batch does not lead to the root of the batch")
    return Anchor(leaf=leaf, index=seq - 1, at=entry["at"])


def _seq(entry: Mapping[str, Any], place: Place, head: Head) -> int:
    """Return the number of an entry, once it is in the log that a head states."""
    timestamp(entry["at"], "at")
    seq = integer(entry["seq"], "seq", 1)
    if place.index != seq - 1:
        bad("its place is not that of its number")
    if place.size != head.coverage.size or place.root(entry_leaf(entry)) != head.coverage.root:
        bad("its place does not lead to the root of the control plane's log")
    return seq
