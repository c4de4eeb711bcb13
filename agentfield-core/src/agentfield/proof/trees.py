"""Merkle trees of logs (RFC 9162, section 2.1): roots of every size, places of leaves, and consistency of two sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agentfield.errors import InvalidInput
from agentfield.identity import b64url, canonical, leaf_hash, path_length, root_from_path
from agentfield.proof.strict import bad, hash_of, integer, members

__all__ = ["LogTree", "Place", "document_leaf", "verify_consistency"]

MAX_PATH = 53
"""Hashes of the longest path, since a tree has at most 2^53 - 1 leaves."""


def document_leaf(document: Any) -> bytes:
    """Return the leaf of a signed document: SHA-256(0x00 ‖ JCS(document)), with its signature.

    Raises:
        InvalidInput: It has no canonical JSON form.
    """
    return leaf_hash(canonical(document))


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a leaf in a tree, an inclusion proof."""

    index: int
    size: int
    path: tuple[bytes, ...]
    """Siblings from the leaf up to the root."""

    @classmethod
    def parse(cls, value: Any, name: str) -> Place:
        """Return the place that a JSON object states.

        Raises:
            InvalidInput: It is none (code ``bad_document``).
        """
        members(value, name, ("index", "path", "size"))
        index, size = integer(value["index"], f"index of {name}"), integer(value["size"], f"size of {name}", 1)
        path = value["path"]
        if index >= size or not isinstance(path, list) or len(path) > MAX_PATH or len(path) != path_length(index, size):
            bad(f"{name} is not a path of leaf {index} of {size}")
        return cls(index, size, tuple(hash_of(each, f"a hash of {name}") for each in path))

    def document(self) -> dict[str, Any]:
        """Return the place as JSON, as `parse` reads it."""
        return {"index": self.index, "path": [b64url(each) for each in self.path], "size": self.size}

    def root(self, leaf: bytes) -> bytes:
        """Return the root that a leaf at this place leads to.

        Raises:
            InvalidInput: The path is longer or shorter than that of this place (code ``bad_document``).
        """
        try:
            return root_from_path(leaf, self.index, self.path, self.size)
        except ValueError as error:
            raise InvalidInput(f"The document is malformed: {error}.", code="bad_document") from error


class LogTree:
    """A tree that grows by its leaves, with the root, places and consistency proofs of every size it has had.

    It keeps the hashes of all full subtrees, so that an answer takes a logarithmic number of them. A tree of n leaves has
    about 2 n hashes.

    Args:
        leaves: Its first leaves.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.append(leaf)

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Add a leaf."""
        levels, node, height = self._levels, leaf, 0
        levels[0].append(node)
        while len(levels[height]) % 2 == 0:
            node = _parent(levels[height][-2], node)
            height += 1
            if height == len(levels):
                levels.append([])
            levels[height].append(node)

    def root(self, size: int | None = None) -> bytes:
        """Return the root over the first leaves.

        Args:
            size: Their number; all by default.

        Raises:
            ValueError: The tree has fewer leaves, or the number is below 1.
        """
        return self._subtree(0, self._checked(len(self) if size is None else size))

    def place(self, index: int, size: int | None = None) -> Place:
        """Return the place of a leaf in the tree over the first leaves (RFC 9162, section 2.1.3.1).

        Args:
            index: Index of the leaf, from 0.
            size: Number of the leaves; all by default.

        Raises:
            ValueError: There is no such leaf.
        """
        size = self._checked(len(self) if size is None else size)
        if not 0 <= index < size:
            raise ValueError(f"a tree of {size} leaves has no leaf {index}")
        path: list[bytes] = []
        start, end = 0, size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._subtree(middle, end))
                end = middle
            else:
                path.append(self._subtree(start, middle))
                start = middle
        return Place(index, size, tuple(reversed(path)))

    def consistency(self, old: int, new: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that the tree over the first leaves is a prefix of a larger one (RFC 9162, section 2.1.4.1).

        Args:
            old: Size of the smaller tree, at least 1.
            new: Size of the larger one; all leaves by default.

        Raises:
            ValueError: The sizes are not of two such trees.
        """
        new = self._checked(len(self) if new is None else new)
        if not 1 <= old <= new:
            raise ValueError(f"a tree of {new} leaves has no smaller tree of {old}")
        path: list[bytes] = []
        start, end, whole = 0, new, True
        while old != end:
            middle = start + _split(end - start)
            if old <= middle:
                path.append(self._subtree(middle, end))
                end = middle
            else:
                path.append(self._subtree(start, middle))
                start, whole = middle, False
        if not whole:
            path.append(self._subtree(start, end))
        return tuple(reversed(path))

    def _checked(self, size: int) -> int:
        if not 1 <= size <= len(self):
            raise ValueError(f"a tree of {len(self)} leaves has no root of size {size}")
        return size

    def _subtree(self, start: int, end: int) -> bytes:
        """Return the hash over the leaves from `start` to `end`; `start` is a multiple of the largest power of two within."""
        parts: list[bytes] = []
        while start < end:
            height = (end - start).bit_length() - 1
            parts.append(self._levels[height][start >> height])
            start += 1 << height
        node = parts.pop()
        while parts:
            node = _parent(parts.pop(), node)
        return node


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Return whether a proof shows that one tree is a prefix of another (RFC 9162, section 2.1.4.2).

    Args:
        old_size: Number of leaves of the first tree, at least 1.
        old_root: Its root.
        new_size: Number of leaves of the second tree, at least as many.
        new_root: Its root.
        proof: The proof, as `LogTree.consistency` makes it.
    """
    if not 1 <= old_size <= new_size:
        return False
    if old_size == new_size:
        return not proof and old_root == new_root
    hashes = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    if not hashes:
        return False
    first, last = old_size - 1, new_size - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    old = new = hashes[0]
    for node in hashes[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            old, new = _parent(node, old), _parent(node, new)
            while first and not first & 1:
                first, last = first >> 1, last >> 1
        else:
            new = _parent(new, node)
        first, last = first >> 1, last >> 1
    return last == 0 and old == old_root and new == new_root


def _split(size: int) -> int:
    """Return the largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
