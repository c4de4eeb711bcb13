"""JSON Schema as the Live API reads it: each result is a schema that google-genai knows."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from agentfield_gemini.schema import parameters_schema


class Address(BaseModel):
    """An address."""

    street: str
    zip: str | None = None


class Order(BaseModel):
    """The input of a tool as pydantic describes it."""

    number: int = Field(ge=1, description="The number on the bill.")
    kind: Literal["new", "old"] = "new"
    to: Address | None = None
    lines: list[Address] = Field(default=[], max_length=5)
    note: str | int = ""
    at: Any = None


def test_a_pydantic_model():
    """References, choices, optional values, lists and limits of a pydantic model are kept."""
    found = parameters_schema(Order.model_json_schema())
    assert found is not None
    types.Schema.model_validate(found)
    assert found["type"] == "OBJECT"
    assert found["required"] == ["number"]
    properties = found["properties"]
    assert properties["number"]["type"] == "INTEGER"
    assert properties["number"]["minimum"] == 1
    assert properties["number"]["description"] == "The number on the bill."
    assert properties["kind"]["enum"] == ["new", "old"]
    assert properties["to"]["nullable"] is True
    assert properties["to"]["properties"]["zip"] == {"type": "STRING", "nullable": True, "title": "Zip"}
    assert properties["lines"]["items"]["type"] == "OBJECT"
    assert properties["lines"]["maxItems"] == "5"
    assert [each["type"] for each in properties["note"]["anyOf"]] == ["STRING", "INTEGER"]


@pytest.mark.parametrize("schema", [{}, {"type": "object"}, {"type": "object", "properties": {}}])
def test_a_function_without_parameters(schema: dict[str, Any]):
    """A function without parameters has no schema; the service refuses an object without properties."""
    assert parameters_schema(schema) is None


def test_a_recursive_schema_ends():
    """A schema that contains itself is cut off."""
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    types.Schema.model_validate(parameters_schema({**node, "$defs": {"Node": node}}))


SCHEMAS = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["string", "number", "integer", "boolean", "array", "object", "null"]),
            "description": st.text(max_size=5),
            "format": st.sampled_from(["date-time", "uuid", "int32"]),
            "enum": st.lists(st.text(max_size=3) | st.integers(), max_size=3),
            "const": st.text(max_size=3),
            "$ref": st.sampled_from(["#/$defs/A", "#", "#/nowhere", "else"]),
            "additionalProperties": st.booleans(),
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "anyOf": st.lists(inner, max_size=3),
            "items": inner,
            "properties": st.dictionaries(st.text(max_size=3), inner, max_size=3),
            "required": st.lists(st.text(max_size=3), max_size=2),
            "type": st.just(["string", "null"]),
        },
    ),
    max_leaves=6,
)


@pytest.mark.fuzz
@given(SCHEMAS, SCHEMAS)
def test_every_result_is_a_schema(schema: dict[str, Any], other: dict[str, Any]):
    """Whatever the JSON Schema is, the result is one that the service knows."""
    found = parameters_schema({"type": "object", "properties": {"a": schema}, "$defs": {"A": other}})
    types.Schema.model_validate(found)
