"""Schemas from type hints, input validation, and conversion of values to JSON."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import uuid
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from agentfield import Turn
from agentfield.errors import InvalidInput
from agentfield.schema import bind_input, input_schema, jsonable, output_schema, summary


class Order(BaseModel):
    number: int
    lines: list[str] = []


@dataclasses.dataclass
class Point:
    x: int
    when: dt.date


class Colour(enum.Enum):
    RED = "red"


async def lookup(
    order: Order, turn: dict[str, Any], note: str = "none", *, limit: Annotated[int, Field(gt=0)] = 5
) -> Order | None:
    """Find an order.

    It takes a while.

    Args:
        order: What to look for,
            by number.
        limit (int): At most so many.
    """


def test_a_schema_comes_from_hints_and_docstring() -> None:
    """The schema has required and optional parameters, nested models, bounds, defaults and descriptions."""
    schema = input_schema(lookup)
    assert schema["required"] == ["order", "turn"]
    assert schema["properties"]["order"] == {"$ref": "#/$defs/Order", "description": "What to look for, by number."}
    assert schema["properties"]["limit"] == {
        "default": 5,
        "description": "At most so many.",
        "exclusiveMinimum": 0,
        "type": "integer",
    }
    assert schema["additionalProperties"] is False
    assert json.loads(json.dumps(schema)) == schema


def test_an_output_schema_comes_from_the_return_hint() -> None:
    """The return hint is the output schema; without a hint there is none."""
    schema = output_schema(lookup)
    assert schema is not None
    assert {"type": "null"} in schema["anyOf"]
    assert output_schema(lambda: None) is None


def test_a_summary_omits_the_sections() -> None:
    """The description for models has no sections such as ``Args:``."""
    assert summary(lookup) == "Find an order.\n\nIt takes a while."


def test_input_is_converted_to_the_declared_types() -> None:
    """Values are converted; absent ones are left to the defaults of the function."""
    bound = bind_input(lookup, {"order": {"number": "427"}, "turn": {}})
    assert bound == {"order": Order(number=427), "turn": {}}


def test_any_parameter_name_is_allowed() -> None:
    """Names that pydantic reserves, or that start with an underscore, are allowed for parameters."""

    def odd(json: int, model_config: int, _x: int, self_: int, copy: int = 1) -> None: ...

    values = {"json": 1, "model_config": 2, "_x": 3, "self_": 4}
    assert bind_input(odd, values) == values
    assert set(input_schema(odd)["properties"]) == {*values, "copy"}


def test_untyped_parameters_and_kwargs_accept_any_value() -> None:
    """A parameter without a hint accepts any value; `**rest` accepts any name."""

    def anything(value, **rest): ...  # type: ignore[no-untyped-def]

    assert bind_input(anything, {"value": [1], "more": 2}) == {"value": [1], "more": 2}


@pytest.mark.parametrize(
    ("values", "field", "words"),
    [
        ({"turn": {}}, "order", "order: is missing"),
        ({"order": {"number": "x"}, "turn": {}}, "order.number", "order.number: input should be a valid integer"),
        ({"order": {"number": 1}, "turn": {}, "nope": 1}, "nope", "nope: is not a parameter"),
        ({"order": {"number": 1}, "turn": {}, "limit": 0}, "limit", "greater than 0"),
        ({"order": {"number": 1}, "turn": 3}, "turn", "turn: input should be an object"),
    ],
)
def test_invalid_input_names_the_field(values: dict[str, Any], field: str, words: str) -> None:
    """The error has the field in its data and its message, without the value."""
    with pytest.raises(InvalidInput) as caught:
        bind_input(lookup, values)
    assert caught.value.code == "invalid_input"
    assert caught.value.data["field"] == field
    assert words in caught.value.message


def test_invalid_hints_are_declaration_errors() -> None:
    """A type without JSON Schema, an unresolvable hint and a positional-only parameter are refused at the declaration."""

    class Socket: ...

    def unknown(value: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
    def nameless(value: int, /) -> None: ...
    def odd(value: int) -> None: ...

    odd.__annotations__["value"] = Socket
    for fn in (unknown, nameless, odd):
        with pytest.raises(InvalidInput) as caught:
            input_schema(fn)
        assert caught.value.code == "invalid_declaration"


def test_values_become_plain_json() -> None:
    """Models, dataclasses, enums, dates, ids, sets and tuples are converted."""
    value = {
        "order": Order(number=1),
        "point": Point(1, dt.date(2026, 1, 2)),
        "colour": Colour.RED,
        "id": uuid.UUID(int=0),
        "set": {1},
        "tuple": (1, None),
    }
    assert jsonable(value) == {
        "order": {"number": 1, "lines": []},
        "point": {"x": 1, "when": "2026-01-02"},
        "colour": "red",
        "id": "00000000-0000-0000-0000-000000000000",
        "set": [1],
        "tuple": [1, None],
    }


def test_a_turn_is_json() -> None:
    """A turn converts to JSON and back to an equal turn."""
    turn = Turn(id="exe_1", text="Hello", started_at=1.5)
    plain = jsonable({"turn": turn})["turn"]
    assert plain["text"] == "Hello"
    assert Turn.model_validate(plain) == turn


async def _coroutine() -> None: ...


@pytest.mark.parametrize(
    ("value", "field", "why"),
    [
        ({"a": [1, float("inf")]}, "value.a[1]", "inf"),
        ({"a": object()}, "value.a", "object"),
        ({None: 2}, "value", "keys are text"),
        ({1: 2, "1": 3}, "value", "two keys"),
        ([2**53], "value[0]", "2\\^53"),
        ("\ud800", "value", "surrogate"),
        (Point(1, object()), "value.when", "object"),  # type: ignore[arg-type]
        ((n for n in [1]), "value", "return the value that it yields"),
    ],
)
def test_a_value_that_is_not_json_is_named_by_its_path(value: Any, field: str, why: str) -> None:
    """The error has the path to the invalid part and the reason."""
    with pytest.raises(InvalidInput, match=why) as caught:
        jsonable(value)
    assert (caught.value.code, caught.value.data["field"]) == ("unrepresentable", field)


def test_a_value_that_contains_itself_is_refused() -> None:
    """A value that contains itself raises an error instead of recursing endlessly."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidInput, match="contains itself"):
        jsonable(value)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53) + 1, 2**53 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_json_values_are_unchanged(value: Any) -> None:
    """A value that is JSON already is returned unchanged."""
    assert jsonable(value) == value
