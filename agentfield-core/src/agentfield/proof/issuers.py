"""The keys of an issuer over time, and which documents each of them could sign: rotations, revocations and anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentfield.errors import InvalidInput
from agentfield.proof.anchors import Anchor, Rotation
from agentfield.proof.heads import Head
from agentfield.proof.strict import bad

__all__ = ["IssuerKeys", "check_bindings", "issuer_keys"]


@dataclass(frozen=True, slots=True)
class IssuerKeys:
    """The keys of an issuer in their order, and the part of the control plane's log in which each signs."""

    dids: tuple[str, ...]
    starts: tuple[int, ...]
    """Index of the first entry after each key's begin."""
    ends: tuple[int | None, ...]
    """Size of the log from which each key signs no more; None for the key in force."""

    def position(self, did: str) -> int | None:
        """Return the place of a key in the order, None if it is none of the issuer's."""
        return self.dids.index(did) if did in self.dids else None


def issuer_keys(current: str, rotations: Sequence[Rotation], revoked: Mapping[str, int]) -> IssuerKeys:
    """Return the keys of an issuer.

    Args:
        current: DID of the key in force.
        rotations: The rotations up to that key, in their order.
        revoked: Stolen keys by DID, each with the size of the control plane's log from which nothing of it counts.

    Raises:
        InvalidInput: The rotations do not lead to that key (code ``bad_document``).
    """
    dids, starts, ends = [rotations[0].old if rotations else current], [0], list[int | None]()
    for rotation in rotations:
        if rotation.old != dids[-1] or rotation.new in dids:
            bad("the rotation does not follow the one before it")
        if rotation.size <= starts[-1]:
            bad("the rotation stands before the one that it follows")
        dids.append(rotation.new)
        starts.append(rotation.size)
        ends.append(rotation.size)
    if dids[-1] != current:
        bad("the rotations do not lead to the issuer of the file")
    ends.append(None)
    for at, did in enumerate(dids):
        if did in revoked:
            limit = ends[at]
            ends[at] = revoked[did] if limit is None else min(limit, revoked[did])
    return IssuerKeys(tuple(dids), tuple(starts), tuple(ends))


def check_bindings(keys: IssuerKeys, heads: Sequence[Head], anchors: Sequence[Anchor]) -> None:
    """Check that each head was signed by a key that could sign it.

    A key that signs no more must have signed a head before its end: the head, or a later one of the same key, is anchored before the
    end, or a valid head of a later key follows.

    Args:
        keys: The keys of the issuer; all signers are among them.
        heads: The heads of a run in their order, with the coverage that a credential has as the last one.
        anchors: The anchors of any of them.

    Raises:
        InvalidInput: A head was not (code ``bad_binding``).
    """
    at = {anchor.leaf: anchor.index for anchor in anchors}
    bound: int | None = None
    vouched, later = False, len(keys.dids)
    for number in range(len(heads), 0, -1):
        head = heads[number - 1]
        signer = keys.dids.index(head.issuer)
        if signer > later:
            _refuse(number, "an earlier key signed a later head")
        if signer < later:
            vouched, later = number < len(heads), signer
        index = at.get(head.leaf)
        if index is not None:
            bound = index if bound is None else min(bound, index)
            if index < keys.starts[signer]:
                _refuse(number, "it is anchored before its key began")
        end = keys.ends[signer]
        if end is not None and not vouched and (bound is None or bound >= end):
            _refuse(
                number,
                f"its key signs nothing from size {end} of the control plane's log on, and it is not anchored before",
            )


def _refuse(number: int, why: str) -> None:
    raise InvalidInput(
        f"Its key could not sign it: {why}.",
        code="bad_binding",
        item=f"head {number}",
        line=None,
    )
