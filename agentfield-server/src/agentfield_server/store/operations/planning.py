"""Operations, and their division into groups that may be executed together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar, cast

from msgspec import Struct

__all__ = ["Operation", "Then", "Touched", "plan", "settling"]

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Touched(NamedTuple):
    """Names of what an operation depends on or changes: executions, `op_id`s, idempotency keys, sessions, queues."""

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    queue: Literal["joins", "leaves"] | None = None
    """Whether it puts an execution into a queue, where its place depends on the others, or may take one out."""


class Then(Protocol[T_contra]):
    """What follows a write: called on the event loop once it is committed or has failed."""

    def __call__(self, result: T_contra | None, error: BaseException | None, /) -> None:
        """Take the result, or None and the error."""


def settling(future: asyncio.Future[T]) -> Then[T]:
    """Return what settles a future, unless its caller has given up."""

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(cast("T", result))
        else:
            future.set_exception(error)

    return settle


class Operation(Struct, Generic[T], frozen=True):
    """A write whose result is a `T`."""

    def touches(self) -> Touched | None:
        """Return what it touches; None when it is executed alone."""
        return None


def plan(operations: Sequence[Operation[Any]]) -> Iterator[tuple[int, int]]:
    """Divide operations into groups; yield the begin and end of each.

    A group ends where an operation touches something that an earlier one of the group changes, or changes something that an
    earlier one reads, or where queues are joined after they were left, or the reverse. Operations of one run may share a group, because the numbers of its events are assigned in the order of
    submission after the rows of the group are changed.
    """
    begin, reads, writes, queue = 0, set[str](), set[str](), None
    for at, operation in enumerate(operations):
        touched = operation.touches()
        if (
            touched is None
            or (touched.queue is not None and queue is not None and touched.queue != queue)
            or not writes.isdisjoint(touched.writes)
            or not writes.isdisjoint(touched.reads)
            or not reads.isdisjoint(touched.writes)
        ):
            if at > begin:
                yield begin, at
            begin, queue = at, None
            reads.clear()
            writes.clear()
        if touched is None:
            yield at, at + 1
            begin = at + 1
        else:
            queue = queue or touched.queue
            reads.update(touched.reads)
            writes.update(touched.writes)
    if len(operations) > begin:
        yield begin, len(operations)
