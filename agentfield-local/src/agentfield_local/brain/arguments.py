"""Tool arguments from an utterance, by the tool's JSON schema; deterministic."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from agentfield_local.brain.matcher import best_match
from agentfield_local.brain.numbers import spoken_numbers

__all__ = ["fill_arguments"]

_MAX_DEPTH = 8
_NO = re.compile(r"\b(?:no|not|never|don'?t|do not|isn'?t|cancel)\b", re.IGNORECASE)
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_DAY = re.compile(
    r"\b(?:today|tonight|tomorrow|yesterday|(?:next |this )?(?:mon|tues|wednes|thurs|fri|satur|sun)day|\d{4}-\d\d-\d\d)\b",
    re.IGNORECASE,
)
_PLACE = re.compile(r"\b(?:in|at|near|to|from)\s+((?!the\b|a\b|my\b)[A-Za-z][\w' -]*)", re.IGNORECASE)
_PLACE_END = re.compile(
    r"\s+(?:today|tonight|tomorrow|yesterday|please|right|now|on|at|for|this|next|and|or|from|to|in)\b.*$",
    re.IGNORECASE,
)
_PERSON = re.compile(r"\b(?:my name is|my name's|i am|i'm|this is|call me)\s+([A-Za-z]+)", re.IGNORECASE)
_CODE = re.compile(r"\b(?=\w*\d)(?=\w*[A-Za-z])\w+(?:-\w+)*\b|\b[A-Za-z]+-\d+\b")

_NAME_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_Extractor = Callable[[str], str | None]


def fill_arguments(schema: Mapping[str, Any], utterance: str) -> dict[str, Any]:
    """Return arguments for an object schema: all required properties, and optional ones that the utterance mentions.

    A string gets what its name suggests (an order, a number, a day, a place, an e-mail address, a name), otherwise the
    whole utterance; numbers come from digits and number words; enums get the most similar value.

    Args:
        schema: Parameters of the tool (JSON Schema; `$ref` into its own `$defs` is followed).
        utterance: Words of the caller.
    """
    return _Filler(schema, utterance).object(schema, 0)


class _Filler:
    """Fills one schema; the root schema resolves references."""

    def __init__(self, root: Mapping[str, Any], utterance: str) -> None:
        self._root = root
        self._utterance = utterance

    def object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        if not isinstance(properties, Mapping) or not properties:
            return {} if depth == 0 or schema.get("additionalProperties") is False else {"text": self._utterance}
        required = set(schema.get("required") or ())
        filled: dict[str, Any] = {}
        for name, part in properties.items():
            resolved = self._resolve(part)
            if name in required:
                filled[name] = self._value(name, resolved, depth + 1)
            elif (found := self._found(name, resolved)) is not None:
                filled[name] = found
        return filled

    def _value(self, name: str, schema: Mapping[str, Any], depth: int) -> Any:
        """Return a value of a required property; one of its type even if the utterance does not mention it."""
        found = self._found(name, schema)
        if found is not None:
            return found
        if "default" in schema:
            return schema["default"]
        match _type(schema):
            case "enum":
                return schema["enum"][0]
            case "integer" | "number":
                return schema.get("minimum", 0)
            case "boolean":
                return not _NO.search(self._utterance)
            case "array":
                return self._array(name, schema, depth)
            case "object":
                return self.object(schema, depth) if depth < _MAX_DEPTH else {}
            case "null":
                return None
            case _:
                return _fit(self._utterance, schema)

    def _found(self, name: str, schema: Mapping[str, Any]) -> Any | None:
        """Return the value of a property in the utterance; None if it is not mentioned."""
        match _type(schema):
            case "const":
                return schema["const"]
            case "enum":
                return _nearest(schema["enum"], self._utterance)
            case "integer":
                numbers = spoken_numbers(self._utterance)
                return _clamp(int(numbers[0]), schema) if numbers else None
            case "number":
                return _clamp(number, schema) if (number := _decimal(self._utterance)) is not None else None
            case "string":
                found = _extract(name, schema, self._utterance)
                return None if found is None else _fit(found, schema)
            case _:
                return None

    def _array(self, name: str, schema: Mapping[str, Any], depth: int) -> list[Any]:
        items = schema.get("items")
        if depth >= _MAX_DEPTH or not isinstance(items, Mapping):
            return [] if depth >= _MAX_DEPTH else [self._utterance]
        return [self._value(name, self._resolve(items), depth + 1)]

    def _resolve(self, schema: Any) -> Mapping[str, Any]:
        """Return the schema with references resolved and the first non-null alternative chosen."""
        for _ in range(_MAX_DEPTH):
            if not isinstance(schema, Mapping):
                return {}
            if isinstance(reference := schema.get("$ref"), str):
                schema = self._lookup(reference)
            elif options := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
                chosen: Any = next((option for option in options if option != {"type": "null"}), {})
                rest = {key: value for key, value in schema.items() if key not in {"anyOf", "oneOf", "allOf"}}
                schema = {**rest, **(chosen if isinstance(chosen, Mapping) else {})}
            else:
                return schema
        return {}

    def _lookup(self, reference: str) -> Any:
        found: Any = self._root
        for part in reference.removeprefix("#/").split("/"):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found


def _type(schema: Mapping[str, Any]) -> str:
    if "const" in schema:
        return "const"
    if schema.get("enum"):
        return "enum"
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "null")
    return str(kind)


def _extract(name: str, schema: Mapping[str, Any], utterance: str) -> str | None:
    words = {part.lower() for part in _NAME_PARTS.findall(name)}
    extractor = next((find for keys, find in _EXTRACTORS if words & keys), None)
    if extractor is None and schema.get("format") in {"email", "date"}:
        extractor = _email if schema["format"] == "email" else _day
    return extractor(utterance) if extractor is not None else None


def _code(utterance: str) -> str | None:
    numbers = spoken_numbers(utterance)
    written = _CODE.search(utterance)
    return written[0] if written else max(numbers, key=len, default=None)


def _email(utterance: str) -> str | None:
    return found[0] if (found := _EMAIL.search(utterance)) else None


def _day(utterance: str) -> str | None:
    return found[0] if (found := _DAY.search(utterance)) else None


def _place(utterance: str) -> str | None:
    found = _PLACE.search(utterance)
    return _PLACE_END.sub("", found[1]).strip() if found else None


def _person(utterance: str) -> str | None:
    return found[1] if (found := _PERSON.search(utterance)) else None


_EXTRACTORS: tuple[tuple[frozenset[str], _Extractor], ...] = (
    (frozenset({"email", "mail"}), _email),
    (frozenset({"date", "day", "when"}), _day),
    (frozenset({"city", "place", "location", "destination", "town"}), _place),
    (
        frozenset({"order", "id", "number", "code", "reference", "ticket", "account", "invoice", "amount", "count"}),
        _code,
    ),
    (frozenset({"name"}), _person),
)
"""Extractors by words in the name of a property; the first match is used."""


def _nearest(values: Any, utterance: str) -> Any | None:
    index = best_match(utterance, [str(value) for value in values])
    return None if index is None else values[index]


def _decimal(utterance: str) -> float | int | None:
    if written := re.search(r"\d+\.\d+", utterance):
        return float(written[0])
    numbers = spoken_numbers(utterance)
    return int(numbers[0]) if numbers else None


def _clamp(number: float, schema: Mapping[str, Any]) -> float:
    low: float = schema.get("minimum", number)
    high: float = schema.get("maximum", number)
    return max(low, min(number, high))


def _fit(text: str, schema: Mapping[str, Any]) -> str:
    longest = schema.get("maxLength")
    return text[:longest] if isinstance(longest, int) else text
