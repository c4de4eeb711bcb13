"""Entries of the event log, format 2: an event is logged with a commitment in place of its body, so that the body can be erased.

The entry of an event is the canonical JSON of `{id, seq, type, at, run_id, session_id, execution_id, body}`. In format 1 `body`
is the object itself, in format 2 the commitment to it as base64url; that is how the two are told apart. The leaf of an event in
the Merkle tree of its run is `leaf_hash` of the entry, in both formats. docs/event-log.md describes them, with test vectors.
"""

from __future__ import annotations

import functools
import re
from json.encoder import encode_basestring
from typing import NamedTuple

from agentfield.errors import InvalidInput
from agentfield.identity.canonical import b64url, canonical
from agentfield.identity.commitments import commitment

__all__ = ["EventFrame", "event_frame", "event_frame_of"]

_COMMITTED = re.compile(rb'(\{"at":[^,"]+,"body":)"[A-Za-z0-9_-]{43}"')
_ERASED = b'{},"erased":true'


class EventFrame(NamedTuple):
    """The canonical JSON of an event, before and after its body."""

    head: bytes
    tail: bytes

    def entry(self, salt: bytes, body: bytes) -> bytes:
        """Return the entry of format 2 for a body in canonical form."""
        return self.head + b'"' + b64url(commitment(salt, body)).encode() + b'"' + self.tail

    def shown(self, body: bytes | None) -> bytes:
        """Return the event as it is served: with its body, or with an empty one and `"erased": true`."""
        return self.head + (_ERASED if body is None else body) + self.tail


def event_frame(
    *, event_id: str, seq: int, kind: str, at: float, run_id: str, session_id: str | None, execution_id: str | None
) -> EventFrame:
    """Return the canonical JSON of an event without its body.

    Raises:
        InvalidInput: A value has no canonical JSON form.
    """
    tail = (
        f',"execution_id":{_text(execution_id)},"id":{_text(event_id)},"run_id":{_text(run_id)},"seq":{seq},'
        f'"session_id":{_text(session_id)},"type":{_text(kind)}}}'
    )
    try:
        return EventFrame(_head(at), tail.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(f"This event has no canonical JSON form: {error}.") from error


def event_frame_of(entry: bytes) -> EventFrame | None:
    """Return the frame of an entry of format 2; None for one of format 1, which holds its body."""
    found = _COMMITTED.match(entry)
    return None if found is None else EventFrame(found[1], entry[found.end() :])


@functools.lru_cache(16)
def _head(at: float) -> bytes:
    """Return the begin of an event; cached, since the events of a commit have one time."""
    return b'{"at":' + canonical(at) + b',"body":'


def _text(value: str | None) -> str:
    return "null" if value is None else encode_basestring(value)
