"""Files of anything: the verifier gives a verdict and never raises."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield.identity import canonical
from agentfield.proof import verify_file
from support.core.proof_runs import call_of_a_session, signed_again

pytestmark = pytest.mark.fuzz

RUN = call_of_a_session(tools=1)
LINES = RUN.export()
KINDS = ["header", "control_plane", "rotation", "event", "head", "credential", "anchor", "body", "end"]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["A" * 43])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(each for name, item in children for each in _paths(item, (*path, name)))]


def _replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[path[0]] = _replaced(value[path[0]], path[1:], new)
    return changed


def _verdict(data: bytes) -> str:
    return verify_file(io.BytesIO(data), issuer=None).verdict


@given(st.binary(max_size=200) | st.lists(VALUES, max_size=3).map(lambda each: json.dumps(each).encode()))
def test_any_bytes_get_a_verdict(data: bytes) -> None:
    """Bytes of anything are wrong."""
    assert _verdict(data) == "wrong"


@given(st.data())
def test_any_value_at_any_place_gets_a_verdict(data: st.DataObject) -> None:
    """Any JSON at any place of any line, with the whole signed again by the issuer's key: wrong, or the file as it was."""
    at = data.draw(st.integers(0, len(LINES) - 2))
    document = json.loads(LINES[at])
    path = data.draw(st.sampled_from(_paths(document)))
    new = data.draw(VALUES)
    try:
        line = canonical(_replaced(document, path, new)) + b"\n"
    except Exception:  # noqa: BLE001 -- the value has no canonical form, so no such line can be written
        line = json.dumps(_replaced(document, path, new)).encode() + b"\n"
    lines = signed_again([*LINES[:at], line, *LINES[at + 1 :]], RUN.plane.key)
    # what only `end` covers may be changed by the issuer, as long as it is well formed
    free = line == LINES[at] or line.startswith(b'{"header"')
    assert free or _verdict(b"".join(lines)) == "wrong"


@pytest.mark.parametrize("kind", KINDS)
@given(value=VALUES)
def test_any_value_of_any_kind_gets_a_verdict(kind: str, value: Any) -> None:
    """A line of any kind with any value, at the begin and after the header, is wrong."""
    line = json.dumps({kind: value}, separators=(",", ":")).encode() + b"\n"
    assert _verdict(line) == "wrong"
    assert _verdict(LINES[0] + line) == "wrong"
