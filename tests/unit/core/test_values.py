"""The border for values: what is carried, what is refused and with which path, and integers beyond 2^53 - 1."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import Annotated, Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from agentfield.errors import InvalidInput
from agentfield.identity import canonical
from agentfield.schema import InputModel, jsonable, output_schema
from agentfield.values import MAX_DEPTH, MAX_INTEGER, encode, load_canonical, nearest, parse, restore_integers

BIG = 9400111899223100001234


def nested(levels: int, inner: Any = 0) -> Any:
    """Return lists in lists."""
    for _ in range(levels):
        inner = [inner]
    return inner


def integers(value: Any) -> list[int]:
    """Return all integers in a JSON value."""
    if isinstance(value, bool):
        return []
    if isinstance(value, int):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [number for item in items for number in integers(item)]


@pytest.mark.parametrize(
    ("text", "field", "why"),
    [
        ('{"a": [1, NaN]}', "input.a[1]", "is nan, which JSON cannot hold"),
        ('{"a": -Infinity}', "input.a", "is -inf"),
        ('{"a": 1e400}', "input.a", "is inf"),
        ('{"a": "x\\ud800"}', "input.a", "half of a surrogate pair"),
        ('{"\\udc00": 1}', "a key of input", "half of a surrogate pair"),
        (f'{{"items": [0, {{"n": {BIG}}}]}}', "input.items[1].n", "integer beyond 2^53 - 1"),
        (f'{{"n": -{BIG}}}', "input.n", "integer beyond 2^53 - 1"),
        ('{"n": ' + "9" * 5000 + "}", "input.n", "more than 4000 digits"),
        ('{"n": ' + "[" * 40 + "]" * 40 + "}", "input.n" + "[0]" * 31, "deeper than 32 levels"),
        ('{"n": ' + "[" * 500 + "]" * 500 + "}", "input.n" + "[0]" * 31, "deeper than 32 levels"),
        ('{"n": ' + "[" * 100_000 + "]" * 100_000 + "}", "input", "deeper than 32 levels"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_path(text: str, field: str, why: str) -> None:
    """NaN, infinities, lone surrogates, depth and untyped large integers are refused with the path and a hint."""
    with pytest.raises(InvalidInput) as caught:
        parse(text, name="input")
    error = caught.value
    assert (error.code, error.data["field"]) == ("unrepresentable", field)
    assert why in error.message
    assert error.hint


def test_an_untyped_large_integer_is_to_be_given_as_a_string() -> None:
    """The hint says what to write instead, and the number itself is not repeated."""
    with pytest.raises(InvalidInput) as caught:
        encode({"n": BIG}, name="input")
    assert caught.value.hint == "Give the number as a string."
    assert str(BIG) not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", '{"a": 1, "a": 2}', "nope", "\ufeff{}", b"\xff\xfe\xff"])
def test_what_is_not_json_is_refused(text: str | bytes) -> None:
    """Text that is not JSON, and an object that names a member twice, are malformed."""
    with pytest.raises(InvalidInput) as caught:
        parse(text, name="input")
    assert caught.value.code == "malformed_json"


def test_thirty_two_levels_are_carried() -> None:
    """A value may have 32 levels, and no more."""
    assert encode(nested(MAX_DEPTH)).value == nested(MAX_DEPTH)
    with pytest.raises(InvalidInput, match="32 levels"):
        encode(nested(MAX_DEPTH + 1))


class Parcel(BaseModel):
    number: int
    label: str = ""


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    number: int


class Tree(BaseModel):
    number: int
    children: list[Tree] = []


@dataclass
class Point:
    x: int


def everything(
    plain: int,
    maybe: int | None,
    old: Optional[int],  # noqa: UP045
    many: list[int],
    named: dict[str, int],
    model: Parcel,
    models: list[Parcel],
    strict: Strict,
    tree: Tree,
    point: Point,
    pair: tuple[str, int],
    text: str,
    default: int = BIG,
) -> None: ...


def test_declared_integers_are_carried_as_text_and_restored() -> None:
    """Where the declared type is int, a large integer is carried as decimal text and is an int again in the function."""
    given = {
        "plain": BIG,
        "maybe": -BIG,
        "old": BIG,
        "many": [1, BIG],
        "named": {"a": BIG},
        "model": {"number": BIG},
        "models": [{"number": 1}, {"number": BIG}],
        "strict": {"number": BIG},
        "tree": {"number": 1, "children": [{"number": BIG, "children": [{"number": -BIG}]}]},
        "point": {"x": BIG},
        "pair": ["a", BIG],
        "text": str(BIG),
    }
    model = InputModel(everything)
    carried = parse(json.dumps(given), name="input", schema=model.schema)
    assert carried.value["plain"] == str(BIG)
    assert carried.value["tree"]["children"][0]["children"][0]["number"] == str(-BIG)
    assert all(abs(number) <= MAX_INTEGER for number in integers(json.loads(carried.canonical)))
    assert model.bind(carried.value) == {
        "plain": BIG,
        "maybe": -BIG,
        "old": BIG,
        "many": [1, BIG],
        "named": {"a": BIG},
        "model": Parcel(number=BIG),
        "models": [Parcel(number=1), Parcel(number=BIG)],
        "strict": Strict(number=BIG),
        "tree": Tree(number=1, children=[Tree(number=BIG, children=[Tree(number=-BIG)])]),
        "point": Point(BIG),
        "pair": ("a", BIG),
        "text": str(BIG),
    }


@pytest.mark.parametrize("value", [BIG, str(BIG), 7, "7", -BIG, "-7"])
def test_integer_parameters_accept_digits(value: Any) -> None:
    """An integer parameter takes a number, and a string of digits."""

    def track(number: int) -> None: ...

    model = InputModel(track)
    assert model.bind(encode({"number": value}, schema=model.schema).value) == {"number": int(value)}


def test_an_untyped_part_of_a_typed_input_is_refused() -> None:
    """`dict`, `list` and parameters without a hint say no int: a large integer there is refused."""

    def anything(a: dict, b: list, c, **more) -> None: ...  # type: ignore[no-untyped-def, type-arg]

    schema = InputModel(anything).schema
    for values in ({"a": {"n": BIG}}, {"b": [BIG]}, {"c": BIG}, {"other": BIG}):
        with pytest.raises(InvalidInput, match=r"2\^53"):
            encode(values, schema=schema)


def test_a_declared_float_takes_a_large_integer_that_it_can_hold() -> None:
    """A large integer at a float is that float if it is equal to it, and refused if it is not."""

    def pay(amount: float) -> None: ...

    schema = InputModel(pay).schema
    carried = encode({"amount": 10**22}, schema=schema)
    assert carried.value == {"amount": 1e22}
    assert isinstance(carried.value["amount"], float)
    for inexact in (BIG + 1, 10**400):
        with pytest.raises(InvalidInput, match=r"input\.amount"):
            encode({"amount": inexact}, name="input", schema=schema)


def test_results_are_carried_like_inputs() -> None:
    """A large integer in a result is carried where the return type says int, and is an int again for the caller."""

    def find() -> dict[str, list[Parcel]]:
        return {}

    schema = output_schema(find)
    carried = jsonable({"found": [Parcel(number=BIG, label="7" * 20)]}, schema=schema)
    assert carried == {"found": [{"number": str(BIG), "label": "7" * 20}]}
    assert restore_integers(carried, schema) == {"found": [{"number": BIG, "label": "7" * 20}]}
    with pytest.raises(InvalidInput, match=r"the output\.found\[0\] is an integer"):
        jsonable({"found": [BIG]}, name="the output", schema=schema)


def test_text_stays_text_where_both_are_declared() -> None:
    """`int | str` keeps a string of digits a string."""

    def either(value: int | str) -> None: ...

    model = InputModel(either)
    assert model.bind({"value": str(BIG)}) == {"value": str(BIG)}
    assert encode({"value": BIG}, schema=model.schema).value == {"value": str(BIG)}


def test_schemas_can_be_carried_themselves() -> None:
    """A default or bound that JSON cannot hold does not make a declaration invalid; the node still checks the bound."""

    def store(
        key: Annotated[int, Field(le=2**64 - 1)], limit: float = math.inf, part: float = math.nan, start: int = BIG
    ) -> None: ...

    model = InputModel(store)
    assert encode(model.schema)
    assert "maximum" not in model.schema["properties"]["key"]
    assert model.schema["properties"]["start"]["default"] == str(BIG)
    with pytest.raises(InvalidInput):
        model.bind({"key": str(2**64)})
    assert model.bind({"key": str(2**64 - 1)}) == {"key": 2**64 - 1}


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**53 - 2, max_value=2**70)
    | st.floats()
    | st.text(st.characters())
    | st.text(st.characters(categories=["Cs"]), max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=20,
) | st.builds(nested, st.integers(25, 45), st.integers())


@pytest.mark.fuzz
@given(anything)
def test_whatever_passes_can_be_hashed_stored_and_read_again(value: Any) -> None:
    """A value is refused with its path, or carried: its canonical bytes are UTF-8 JSON that reads as the same value."""
    carried, refusal = None, None
    try:
        carried = encode(value, name="input")
    except InvalidInput as error:
        refusal = error
    if carried is None:
        assert refusal is not None
        assert (refusal.code, bool(refusal.data["field"].encode())) == ("unrepresentable", True)
        return
    assert carried.canonical == canonical(carried.value)
    again = load_canonical(carried.canonical)
    assert again == carried.value
    assert encode(again).canonical == carried.canonical
    assert parse(json.dumps(value)).canonical == carried.canonical


@pytest.mark.fuzz
@given(anything)
def test_the_nearest_value_can_always_be_carried(value: Any) -> None:
    """Whatever an error document holds, its nearest value is carried, and is the same where nothing is wrong."""
    assert encode(nearest(value))
    try:
        encode(value)
    except InvalidInput:
        return
    assert nearest(value, levels=MAX_DEPTH) == value


def test_the_nearest_value_of_other_objects() -> None:
    """Objects that JSON does not have are named by their type, and a value that contains itself ends."""
    loop: list[Any] = []
    loop.append(loop)
    assert encode(nearest({"hint": object(), 7: {1, 2}, "loop": loop}))


@pytest.mark.fuzz
@given(anything)
def test_integers_survive_a_border_without_the_schema(value: Any) -> None:
    """With `keep`, large integers reach the border that knows the schema; their canonical bytes hold them as text."""
    try:
        kept = encode(value, untyped="keep")
    except InvalidInput:
        return
    assert kept.value == value
    assert kept.canonical == encode(value, untyped="text").canonical
    assert all(abs(number) <= MAX_INTEGER for number in integers(load_canonical(kept.canonical)))


not_schemas: list[Any] = [
    {"anyOf": 5},
    {"anyOf": {"a": 1}, "allOf": "text", "oneOf": True},
    {"type": ["object", {}], "properties": {"n": {"type": [{}]}}},
    {"type": [[]], "properties": [1], "prefixItems": 3, "items": {"type": 4}, "additionalProperties": {"type": {}}},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    {"$ref": "#/anyOf/0", "anyOf": [{"type": 7}]},
]


@pytest.mark.parametrize("schema", not_schemas)
@pytest.mark.parametrize("value", [{"n": BIG}, {"n": [BIG, 1e300]}])
def test_what_is_no_schema_says_nothing_about_types(schema: Any, value: Any) -> None:
    """A malformed schema makes no integer of a part, and no other error than that of a schema without types."""
    with pytest.raises(InvalidInput) as caught:
        encode(value, schema=schema)
    assert caught.value.code == "unrepresentable"
    carried = encode(value, schema=schema, untyped="text").value
    assert restore_integers(carried, {**schema, "title": "integer"}) == carried


words = st.sampled_from(
    ["type", "anyOf", "oneOf", "allOf", "$ref", "properties", "prefixItems", "items", "n", "integer"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | words | st.sampled_from(["#", "#/n", "#/anyOf/n", "#/~1~0", "a"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5),
    max_leaves=25,
)


@pytest.mark.fuzz
@given(json_values, anything)
def test_any_json_can_be_given_as_schema(schema: Any, value: Any) -> None:
    """Any JSON as schema: a value is carried or refused, and comes back; no other exception."""
    if not isinstance(schema, dict):
        schema = {"anyOf": schema, "properties": schema, "items": schema, "additionalProperties": schema}
    for untyped in ("refuse", "text", "keep"):
        try:
            carried = encode(value, schema=schema, untyped=untyped)  # type: ignore[arg-type]
        except InvalidInput:
            continue
        restore_integers(carried.value, schema)
        restore_integers(value, {"title": "integer", **schema})


def test_a_schema_of_many_alternatives_takes_bounded_time() -> None:
    """Alternatives and references beyond the bound say nothing; the time does not grow with their product."""
    many = [{"items": {"type": "number", "title": str(i)}} for i in range(20_000)]
    wide = {"properties": {"n": {"anyOf": many}}}
    types = {"properties": {"n": {"items": {"type": ["null"] * 500_000}}}}
    value = {"n": [str(BIG + i) for i in range(20_000)]}
    began = time.process_time()
    for schema in (wide, types):
        assert encode({"n": [[0]] * 20_000 + [BIG]}, schema=schema, untyped="text")
        restore_integers(value, {"title": "integer", **schema})
    assert time.process_time() - began < 10
