"""Tool matching, spoken numbers and tool arguments."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield_local.brain.arguments import fill_arguments
from agentfield_local.brain.matcher import best_tool
from agentfield_local.brain.numbers import fold_numbers, spoken_numbers
from agentfield_local.brain.protocol import ToolOffer

TOOLS = [
    ToolOffer("orders__lookup_order", "Look up an order and say where it is.", {}),
    ToolOffer("refunds__request_approval", "Ask a manager to approve a refund or money back.", {}),
    ToolOffer("support__start_replacement", "Start a replacement for a damaged or lost item.", {}),
    ToolOffer("support__transfer_to_human", "Transfer the caller to a human agent.", {}),
    ToolOffer("weather__forecast", "Tell the weather forecast for a city.", {}),
]
NONE = "none"
QUERIES = {
    "where is my order number four two seven": "orders__lookup_order",
    "can you look up an order for me": "orders__lookup_order",
    "I want my money back": "refunds__request_approval",
    "please refund me": "refunds__request_approval",
    "i would like to start a replacement please": "support__start_replacement",
    "my item arrived damaged": "support__start_replacement",
    "transfer me to a human agent": "support__transfer_to_human",
    "transfer meat like human agent": "support__transfer_to_human",
    "what is the weather in berlin tomorrow": "weather__forecast",
    "is it going to rain, what is the forecast": "weather__forecast",
    "yes go ahead and send it": NONE,
    "my name is maria and i live in new york": NONE,
    "no that is not what i asked for": NONE,
}
ORDER = "where is my order number four two seven"


@pytest.mark.parametrize(("words", "expected"), QUERIES.items())
def test_the_matching_tool_is_chosen(words: str, expected: str) -> None:
    """The matching one of five tools is chosen, even if the words are misheard; none if none matches."""
    chosen = best_tool(words, TOOLS)
    assert (chosen.name if chosen else NONE) == expected


def test_a_single_tool_is_chosen_only_if_it_matches() -> None:
    """A single offered tool is not chosen for unrelated words."""
    assert best_tool(ORDER, TOOLS[:1]) == TOOLS[0]
    assert best_tool("what is the weather in berlin tomorrow", TOOLS[:1]) is None


def test_two_equal_matches_choose_none() -> None:
    """If two tools match equally well, none is chosen."""
    assert best_tool(ORDER, [ToolOffer("find_order", "", {}), ToolOffer("order_find", "", {})]) is None


def test_forced_choice_takes_the_most_similar_tool() -> None:
    """If a call is required, the most similar tool is chosen regardless of its similarity."""
    assert best_tool("blue", TOOLS, forced=True) in TOOLS
    assert best_tool("tell me the wether", TOOLS, forced=True) == TOOLS[4]
    assert best_tool("anything", [], forced=True) is None


@given(st.text(max_size=60), st.lists(st.tuples(st.text(max_size=20), st.text(max_size=40)), max_size=5))
def test_any_text_gives_a_stable_choice(words: str, tools: list[tuple[str, str]]) -> None:
    """For any words and tools the choice is one of the tools or none, and deterministic."""
    offers = [ToolOffer(name, description, {}) for name, description in tools]
    assert best_tool(words, offers) == best_tool(words, offers)


@pytest.mark.parametrize(
    ("said", "digits"),
    [
        ("four two seven", ["427"]),
        ("four twenty seven", ["427"]),
        ("four hundred and twenty seven", ["427"]),
        ("four oh seven", ["407"]),
        ("zero zero seven", ["007"]),
        ("twenty twenty six", ["2026"]),
        ("two thousand five", ["2005"]),
        ("three hundred thousand five hundred", ["300500"]),
        ("007", ["007"]),
        ("two tickets for room twelve", ["2", "12"]),
        ("oh no and so on", []),
        ("one hundred and", ["100"]),
    ],
)
def test_number_words_are_read(said: str, digits: list[str]) -> None:
    """Digits, spoken digits and number words give the same numbers."""
    assert spoken_numbers(said) == digits


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9))
def test_digits_said_one_by_one_are_joined(first: int, second: int, third: int) -> None:
    """Digits that are spoken one by one form one number."""
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert fold_numbers([names[first], names[second], names[third]]) == [f"{first}{second}{third}"]


@given(
    st.lists(
        st.sampled_from(
            ["one", "two", "ten", "twenty", "hundred", "thousand", "and", "oh", "zero", "7", "42", "apple"]
        ),
        max_size=8,
    )
)
def test_folding_keeps_every_other_word(words: list[str]) -> None:
    """Other words are kept in order, and no digit or number word is left."""
    folded = fold_numbers(words)
    assert [word for word in folded if word == "apple"] == [word for word in words if word == "apple"]
    assert not {"one", "two", "ten", "twenty", "zero"} & set(folded)


def arguments(
    properties: dict[str, Any], words: str, required: list[str] | None = None, definitions: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the arguments for these properties; all are required by default."""
    wanted = list(properties) if required is None else required
    schema = {"type": "object", "properties": properties, "required": wanted, "$defs": definitions or {}}
    return fill_arguments(schema, words)


@pytest.mark.parametrize(
    ("name", "schema", "words", "value"),
    [
        ("order_id", {"type": "string"}, ORDER, "427"),
        ("orderNumber", {"type": "integer"}, ORDER, 427),
        ("order", {"type": "string"}, "where is order AB-12?", "AB-12"),
        ("question", {"type": "string"}, ORDER, ORDER),
        ("order_id", {"type": "string"}, "where is my parcel", "where is my parcel"),
        ("amount", {"type": "number"}, "pay 12.50 please", 12.5),
        ("count", {"type": "integer", "minimum": 1, "maximum": 5}, "nine of them", 5),
        ("count", {"type": "integer", "minimum": 1}, "some of them", 1),
        ("city", {"type": "string"}, "what is the weather in new york tomorrow", "new york"),
        ("day", {"type": "string"}, "please cancel my appointment on friday", "friday"),
        ("email", {"type": "string"}, "write to maria@example.com now", "maria@example.com"),
        ("customer_name", {"type": "string"}, "my name is maria and i live in new york", "maria"),
        ("plan", {"enum": ["basic", "second plan", "premium"]}, "how much does the second plan cost", "second plan"),
        ("plan", {"enum": ["basic", "premium"]}, "how much is it", "basic"),
        ("kind", {"const": "refund"}, "anything", "refund"),
        ("confirmed", {"type": "boolean"}, "yes go ahead and send it", True),
        ("confirmed", {"type": "boolean"}, "no that is not what i asked for", False),
        ("turn", {"type": "object"}, ORDER, {"text": ORDER}),
        ("orders", {"type": "array", "items": {"type": "integer"}}, ORDER, [427]),
        ("limit", {"anyOf": [{"type": "null"}, {"type": "integer"}]}, "the last three", 3),
        ("note", {"type": ["string", "null"], "maxLength": 5}, "hello there", "hello"),
        ("nothing", {"type": "null"}, "hello", None),
        ("free", True, "hello", "hello"),
        ("retries", {"type": "integer", "default": 3}, "hello", 3),
    ],
)
def test_arguments_follow_the_schema(name: str, schema: Any, words: str, value: object) -> None:
    """Each argument is extracted from the words by its name and type."""
    assert arguments({name: schema}, words) == {name: value}


def test_references_and_nested_objects_are_filled() -> None:
    """A schema with definitions is filled at all levels."""
    definitions = {
        "Order": {
            "type": "object",
            "properties": {"id": {"type": "string"}, "note": {"type": "string"}},
            "required": ["id"],
        }
    }
    assert arguments({"order": {"$ref": "#/$defs/Order"}}, ORDER, definitions=definitions) == {"order": {"id": "427"}}


def test_a_recursive_schema_is_filled_to_a_limited_depth() -> None:
    """A recursive definition ends at the maximum depth."""
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}, "required": ["next"]}
    assert "next" in arguments({"node": {"$ref": "#/$defs/Node"}}, "hello", definitions={"Node": node})["node"]
    assert fill_arguments({"$ref": "#"}, "hello") == {}


def test_optional_arguments_are_filled_only_if_mentioned() -> None:
    """Optional arguments that the caller does not mention are omitted."""
    properties = {"order_id": {"type": "string"}, "day": {"type": "string"}, "note": {"type": "string"}}
    assert arguments(properties, "order 427 please", required=[]) == {"order_id": "427"}


@pytest.mark.parametrize("schema", [{}, {"type": "object"}, {"type": "object", "properties": {}}])
def test_a_tool_without_parameters_gets_none(schema: dict[str, Any]) -> None:
    """A tool without parameters is called with an empty object."""
    assert fill_arguments(schema, "hello") == {}
