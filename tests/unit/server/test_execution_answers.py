"""Answers with an execution, written from its record, are those of the model."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentfield.wire.rest import ExecutionView
from agentfield_server.api.resources.views import execution_json, execution_view
from agentfield_server.store.records import Execution

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
TIME = st.none() | st.floats(0, 4e9)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "kind": st.sampled_from(["session", "turn", "tool", "call"]),
    "status": st.sampled_from(["queued", "running", "waiting", "succeeded", "failed", "cancelled", "timeout"]),
    "target": st.just("node.fn"),
    "input": JSON,
    "output": JSON,
    "problem": st.none() | OBJECT,
    "progress": st.none() | OBJECT,
    "left_out": st.dictionaries(st.sampled_from(["input", "output"]), st.integers(1, 9), max_size=2),
    "accepted": st.booleans(),
    "backoff": st.floats(0, 9),
    "created_at": st.floats(0, 4e9),
    **dict.fromkeys(["id", "run_id"], TEXT),
    **dict.fromkeys(["attempt", "max_attempts", "priority", "lineage", "pauses", "lease_epoch"], st.integers(-9, 99)),
    **dict.fromkeys(["lease_until", "not_before", "deadline", "started_at", "ended_at"], TIME),
}
EXECUTIONS = st.fixed_dictionaries(
    {name: KINDS.get(name, st.none() | TEXT) for name in Execution.__struct_fields__ if not name.endswith("_salt")}
).map(lambda values: Execution(**values, input_salt=None, output_salt=None))


@given(EXECUTIONS)
def test_an_answer_from_the_record_is_that_of_the_model(row: Execution) -> None:
    """Both are the same JSON with the same names in the same order, and the model reads it back."""
    written, modelled = execution_json(row), execution_view(row)
    assert ExecutionView.model_validate_json(written) == modelled
    pairs: Any = {"object_pairs_hook": list}
    assert json.loads(written, **pairs) == json.loads(modelled.model_dump_json(), **pairs)
