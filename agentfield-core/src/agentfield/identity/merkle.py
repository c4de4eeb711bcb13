"""Merkle trees over few leaves, with the shape of RFC 9162, section 2.1: roots, paths, and the root that a path leads to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

__all__ = ["HASH_BYTES", "inclusion_paths", "path_length", "root_from_path", "tree_root"]

HASH_BYTES = 32

_INNER = b"\x01"


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes.

    Raises:
        ValueError: There is no leaf.
    """
    return _levels(leaves)[-1][0]


def inclusion_paths(leaves: Sequence[bytes]) -> tuple[bytes, list[tuple[bytes, ...]]]:
    """Return the root over leaf hashes, and for each leaf its path: the siblings from the leaf up to the root.

    Raises:
        ValueError: There is no leaf.
    """
    levels = _levels(leaves)
    paths = []
    for leaf in range(len(leaves)):
        path, index = [], leaf
        for level in levels[:-1]:
            if (sibling := index ^ 1) < len(level):
                path.append(level[sibling])
            index >>= 1
        paths.append(tuple(path))
    return levels[-1][0], paths


def path_length(index: int, size: int) -> int:
    """Return the number of hashes that the path of a leaf has in a tree of `size` leaves.

    Raises:
        ValueError: The tree has no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    length, last = 0, size - 1
    while last:
        length += index ^ 1 <= last
        index, last = index >> 1, last >> 1
    return length


def root_from_path(leaf: bytes, index: int, path: Sequence[bytes], size: int) -> bytes:
    """Return the root that a leaf and its path lead to.

    Raises:
        ValueError: The tree has no such leaf, or the path is longer or shorter than that of this leaf.
    """
    if len(path) != path_length(index, size):
        raise ValueError(f"the path of leaf {index} of {size} has {path_length(index, size)} hashes, not {len(path)}")
    root, last, siblings = leaf, size - 1, iter(path)
    while last:
        if index & 1:
            root = _parent(next(siblings), root)
        elif index < last:
            root = _parent(root, next(siblings))
        index, last = index >> 1, last >> 1
    return root


def _levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Return the levels of a tree, the leaves first. The last node of an odd level has no sibling and moves up as it is.

    This gives the shape of RFC 9162: the left part of each inner node is the largest full tree that leaves something over.
    """
    if not leaves:
        raise ValueError("a tree has at least one leaf")
    levels = [list(leaves)]
    while len(below := levels[-1]) > 1:
        pairs = [_parent(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)]
        levels.append(pairs + below[-1:] if len(below) % 2 else pairs)
    return levels


def _parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_INNER + left + right).digest()
