"""Trees of logs: roots, places and consistency proofs agree with the definitions of RFC 9162."""

from __future__ import annotations

import hashlib

import pytest

from agentfield.errors import InvalidInput
from agentfield.proof import LogTree, Place, verify_consistency

LEAVES = [hashlib.sha256(bytes([number])).digest() for number in range(40)]


def defined_root(leaves: list[bytes]) -> bytes:
    """Return the root by the recursive definition of RFC 9162, section 2.1.1."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + defined_root(leaves[:split]) + defined_root(leaves[split:])).digest()


def test_a_tree_has_the_defined_root_of_each_size() -> None:
    """The roots of all sizes are those of the recursive definition, also after the tree has grown."""
    tree = LogTree(LEAVES)
    for size in range(1, len(LEAVES) + 1):
        assert tree.root(size) == defined_root(LEAVES[:size])


def test_each_place_leads_to_its_root_and_to_no_other() -> None:
    """Each leaf has a place in each size; another leaf at that place leads to another root."""
    tree = LogTree(LEAVES)
    for size in range(1, 20):
        for index in range(size):
            place = tree.place(index, size)
            assert place.root(LEAVES[index]) == tree.root(size)
            assert place.root(LEAVES[(index + 1) % 20]) != tree.root(size)
            assert Place.parse(place.document(), "the place") == place


def test_two_sizes_of_one_log_are_consistent() -> None:
    """Each consistency proof is accepted for its two sizes and refused for a changed root, hash or size."""
    tree = LogTree(LEAVES)
    other = LogTree([*LEAVES[:3], bytes(32), *LEAVES[4:]])
    for new in range(1, 24):
        for old in range(1, new + 1):
            proof = tree.consistency(old, new)
            assert verify_consistency(old, tree.root(old), new, tree.root(new), proof)
            assert not verify_consistency(old, bytes(32), new, tree.root(new), proof)
            assert not verify_consistency(old, tree.root(old), new, bytes(32), proof)
            assert not verify_consistency(old, tree.root(old), new, tree.root(new), [*proof, bytes(32)])
            if proof:
                assert not verify_consistency(old, tree.root(old), new, tree.root(new), proof[:-1])
            if old > 3:
                forked = other.consistency(old, new)
                assert not verify_consistency(old, tree.root(old), new, other.root(new), forked)


@pytest.mark.parametrize("size", [0, 41, -1])
def test_a_tree_has_no_root_of_a_size_that_it_never_had(size: int) -> None:
    """A size outside of the tree is refused."""
    with pytest.raises(ValueError, match="no root of size"):
        LogTree(LEAVES).root(size)


@pytest.mark.parametrize(
    "place",
    [
        None,
        {},
        {"index": 2, "path": [], "size": 2},
        {"index": -1, "path": [], "size": 2},
        {"index": 0, "path": [], "size": 2},
        {"index": 0, "path": ["x"], "size": 2},
        {"index": True, "path": [], "size": 1},
        {"index": 0, "path": [], "size": 1, "more": 1},
        {"index": 0, "path": [], "size": 2**53},
    ],
)
def test_a_malformed_place_is_refused(place: object) -> None:
    """A place has an index below its size, and exactly the hashes that these two demand."""
    with pytest.raises(InvalidInput):
        Place.parse(place, "the place")
