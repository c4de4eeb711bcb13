"""Entries of the event log against the published vectors, and against the general canonical encoder."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield.errors import InvalidInput
from agentfield.identity import b64url, canonical, commitment, event_frame, event_frame_of, leaf_hash, unb64url
from support.paths import FIXTURES

VECTORS = json.loads((FIXTURES / "event_log" / "vectors.json").read_text())
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def frame_of(event: dict[str, Any]) -> Any:
    """Return the frame of an event."""
    values = {name: value for name, value in event.items() if name not in ("id", "type", "body")}
    return event_frame(event_id=event["id"], kind=event["type"], **values)


@pytest.mark.parametrize("vector", VECTORS["events"], ids=lambda vector: vector["event"]["type"])
def test_entries_and_leaves_match_the_vectors(vector: dict[str, Any]) -> None:
    """Body, commitment, entry and leaf of both formats are the published ones."""
    event, salt = vector["event"], unb64url(vector["salt"])
    body = canonical(event["body"])
    assert body.decode() == vector["body"]
    assert b64url(commitment(salt, body)) == vector["commitment"]
    frame = frame_of(event)
    for name, entry in (("format_1", frame.shown(body)), ("format_2", frame.entry(salt, body))):
        assert entry.decode() == vector[name]["entry"]
        assert leaf_hash(entry).hex() == vector[name]["leaf"]


def test_the_roots_match_the_vectors() -> None:
    """The leaves of a log form the tree of RFC 9162."""
    for name, root in VECTORS["roots"].items():
        one, two, three = (bytes.fromhex(vector[name]["leaf"]) for vector in VECTORS["events"])
        first = hashlib.sha256(b"\1" + one + two).digest()
        assert hashlib.sha256(b"\1" + first + three).hexdigest() == root


@given(
    st.builds(
        dict,
        id=TEXT,
        seq=st.integers(1, 2**53 - 1),
        type=TEXT,
        at=st.floats(0, 1e12),
        run_id=TEXT,
        session_id=st.none() | TEXT,
        execution_id=st.none() | TEXT,
        body=st.dictionaries(TEXT, st.none() | st.integers(-5, 5) | TEXT, max_size=4),
    ),
    st.binary(min_size=32, max_size=32),
)
def test_an_entry_is_the_canonical_json_of_its_event(event: dict[str, Any], salt: bytes) -> None:
    """Served event and entry are what `canonical` writes, and an entry gives its frame back."""
    frame, body = frame_of(event), canonical(event["body"])
    entry = frame.entry(salt, body)
    assert frame.shown(body) == canonical(event)
    assert entry == canonical(event | {"body": b64url(commitment(salt, body))})
    assert frame.shown(None) == canonical(event | {"body": {}, "erased": True})
    assert event_frame_of(entry) == frame
    assert event_frame_of(frame.shown(body)) is None


def test_a_lone_surrogate_is_refused() -> None:
    """A text that no encoding has is refused as by `canonical`."""
    with pytest.raises(InvalidInput):
        frame_of(VECTORS["events"][0]["event"] | {"type": "\ud800"})
