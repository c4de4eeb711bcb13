"""The border for values: what JSON and the event log can hold, and the canonical bytes of a value that passed.

Every value that comes from outside passes once: arguments from a model, results and calls of user code, metadata, REST inputs,
details of a pause. `encode` takes a value, `parse` a JSON text; both return the value together with its canonical bytes, from
which digests are made, or refuse it with the path to the part.

Refused are NaN and infinities, lone surrogates, keys that are not text, containers nested deeper than 32 levels, and integers
beyond 2^53 - 1, which JSON readers round. Where a JSON Schema declares the type `integer`, a larger integer is carried as its
decimal text instead, and `restore_integers` makes an integer of it again.

A path is written as in Python: ``input.items[3].n``.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentfield.errors import InvalidInput
from agentfield.identity import canonical_form, digest_of
from agentfield.lossy import lossy_json
from agentfield.values.schema_places import SchemaPlaces, mentions_integer

__all__ = [
    "MAX_DEPTH",
    "MAX_DIGITS",
    "MAX_INTEGER",
    "Encoded",
    "Untyped",
    "clean_text",
    "encode",
    "encode_off_loop",
    "is_large",
    "load_canonical",
    "nearest",
    "parse",
    "restore_integers",
    "unrepresentable",
]

MAX_DEPTH = 32
"""Levels of lists and objects that a value may have."""

MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps (RFC 8259, section 6)."""

MAX_DIGITS = 4000
"""Digits of an integer that is carried as text; Python converts no text of more than 4300 by default."""

Untyped = Literal["refuse", "text", "keep"]
"""Treatment of a large integer where no schema declares an integer."""

_LARGE = 32 * 1024
_TOO_LARGE = 10**MAX_DIGITS
_DECIMAL = re.compile(r"-?[1-9][0-9]{15,}")
_FEW_DIGITS = 15
_MAX_PATH = 120
_AS_STRING = "Give the number as a string."
_FINITE = "Give a finite number, null, or a string."
_WHOLE_CHARACTERS = "Give the text in whole Unicode characters."
_FLATTER = "Nest the value less, or give the inner part as a string."
_SAME_NAME = "a name occurs twice in one object"


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value that can be carried, and its canonical JSON (RFC 8785)."""

    value: Any
    """Plain JSON types; large integers of the declared type `integer` are decimal text."""
    canonical: bytes
    exact: bool = False
    """Whether the canonical bytes read back as the same value; those of ``1.0`` read back as an integer."""

    @property
    def text(self) -> str:
        """The value as JSON text that reads back as the same value: the canonical one, if it does."""
        return self.canonical.decode() if self.exact else json.dumps(self.value, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """The value's digest, see `agentfield.identity.digest`."""
        return digest_of(self.canonical)

    def __len__(self) -> int:
        """Return the size in bytes."""
        return len(self.canonical)


def encode(
    value: Any, *, name: str = "value", schema: Mapping[str, Any] | None = None, untyped: Untyped = "refuse"
) -> Encoded:
    """Return a value with its canonical bytes.

    Args:
        value: Plain JSON types, and tuples; `agentfield.schema.jsonable` converts others.
        name: Name of the value, with which the path in an error begins.
        schema: The JSON Schema of the value, which tells where large integers may stand.
        untyped: Whether a large integer elsewhere is refused, or carried as its decimal text. `keep` leaves large integers
            as they are, typed or not, for a text that a second border with the schema reads; `canonical` then has their text.

    Raises:
        InvalidInput: With the code ``unrepresentable``; `field` is the path to the part.
    """
    try:
        if _is_plain(value, 1):
            return Encoded(value, *canonical_form(value))
    except InvalidInput:
        pass  # a lone surrogate: the walk finds its path
    walk = _Walk(schema or {}, untyped)
    checked = walk.convert(value, [schema] if schema else [], name, 1)
    if untyped == "keep" and walk.kept:
        return Encoded(checked, encode(checked, name=name, untyped="text").canonical)
    return Encoded(checked, *canonical_form(checked))


async def encode_off_loop(
    value: Any, *, name: str = "value", schema: Mapping[str, Any] | None = None, untyped: Untyped = "refuse"
) -> Encoded:
    """Return the same as `encode`; a large value is encoded in a thread, since it takes too long for an event loop."""
    if is_large(value):
        return await asyncio.to_thread(encode, value, name=name, schema=schema, untyped=untyped)
    return encode(value, name=name, schema=schema, untyped=untyped)


def parse(
    text: str | bytes, *, name: str = "value", schema: Mapping[str, Any] | None = None, untyped: Untyped = "refuse"
) -> Encoded:
    """Parse a JSON text (RFC 8259) and return its value with its canonical bytes, see `encode`.

    Raises:
        InvalidInput: The text is not JSON, or a name occurs twice in one object (code ``malformed_json``), or it holds a value
            that cannot be carried (code ``unrepresentable``).
    """
    try:
        value = _decode(text if isinstance(text, str) else text.decode(json.detect_encoding(text), "surrogatepass"))
    except RecursionError:
        raise _too_deep(name) from None
    except ValueError as error:
        why = clean_text(str(error))
        raise InvalidInput(f"{name or 'it'} is not JSON: {why}.", code="malformed_json", field=name) from None
    return encode(value, name=name, schema=schema, untyped=untyped)


def restore_integers(value: Any, schema: Mapping[str, Any] | None) -> Any:
    """Return a value with the decimal texts that `encode` made of large integers as integers again.

    Where the schema allows text as well, a text stays one.
    """
    return _Walk(schema, "refuse").restore(value, [schema]) if schema and mentions_integer(schema) else value


def load_canonical(data: bytes | str) -> Any:
    """Parse canonical JSON that `encode` wrote.

    Whole floating-point numbers below 1e21 have no exponent in canonical JSON. They are floats again, so that the value can
    be encoded again: a large integer cannot stand there.
    """
    return json.loads(data, parse_int=_small_or_float)


def nearest(value: Any, *, levels: int = MAX_DEPTH - 2) -> Any:
    """Return the nearest value that can be carried, as for an error document, which must be reported whatever it holds.

    Args:
        value: The value.
        levels: Levels of lists and objects that are kept; by default there is room for those of a result or an event.
    """
    return value if _is_carried(value, levels) else lossy_json(value, levels=levels, cut=False)


def clean_text(text: str) -> str:
    """Return a text with ``?`` instead of lone surrogates, which no encoding can represent."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def unrepresentable(path: str, why: str, *, hint: str | None = None) -> InvalidInput:
    """Return the error for the part of a value at `path`; `why` continues the sentence that the path begins."""
    shown = clean_text(path) or "it"
    shown = shown if len(shown) <= _MAX_PATH else shown[:_MAX_PATH] + "…"
    return InvalidInput(f"{shown} {why}.", code="unrepresentable", hint=hint, field=shown)


class _Walk:
    """One pass over a value along its schema.

    The places of a value are described by lists of schemas: a union has several, and a part without a type has none.
    """

    def __init__(self, root: Mapping[str, Any], untyped: Untyped) -> None:
        self._places = SchemaPlaces(root)
        self._untyped = untyped
        self.kept = False

    def convert(self, value: Any, schemas: Sequence[Any], path: str, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return _text(value, path)
        if isinstance(value, int):
            return self._integer(int(value), schemas, path)
        if isinstance(value, float):
            return self._float(value, schemas, path)
        if not isinstance(value, dict | list | tuple):
            raise unrepresentable(path, f"is of type {type(value).__name__}, which JSON cannot hold")
        if depth > MAX_DEPTH:
            raise _too_deep(path)
        places = self._places
        options = places.options(schemas)
        if isinstance(value, dict):
            return {
                _key(key, path): self.convert(
                    item, places.of_key(options, key) if _has_schema(item) else (), _member(path, key), depth + 1
                )
                for key, item in value.items()
            }
        return [
            self.convert(
                item, places.of_index(options, index) if _has_schema(item) else (), f"{path}[{index}]", depth + 1
            )
            for index, item in enumerate(value)
        ]

    def restore(self, value: Any, schemas: Sequence[Any]) -> Any:
        if isinstance(value, str):
            if not _DECIMAL.fullmatch(value) or len(value) > MAX_DIGITS:
                return value
            types = self._places.types(schemas)
            number = int(value) if "integer" in types and "string" not in types else 0
            return number if abs(number) > MAX_INTEGER else value
        if not isinstance(value, dict | list) or not schemas:
            return value
        places = self._places
        options = places.options(schemas)
        if isinstance(value, dict):
            return {
                key: self.restore(item, places.of_key(options, key)) if _may_restore(item) else item
                for key, item in value.items()
            }
        return [
            self.restore(item, places.of_index(options, index)) if _may_restore(item) else item
            for index, item in enumerate(value)
        ]

    def _integer(self, number: int, schemas: Sequence[Any], path: str) -> int | float | str:
        if -MAX_INTEGER <= number <= MAX_INTEGER:
            return number
        if not -_TOO_LARGE < number < _TOO_LARGE:
            raise unrepresentable(path, f"is an integer of more than {MAX_DIGITS} digits", hint=_AS_STRING)
        if self._untyped == "keep":
            self.kept = True
            return number
        types = self._places.types(schemas)
        if "integer" in types or self._untyped == "text":
            return str(number)
        if "number" in types and abs(number) <= sys.float_info.max and float(number) == number:
            return float(number)
        raise unrepresentable(path, "is an integer beyond 2^53 - 1, which JSON readers round", hint=_AS_STRING)

    def _float(self, number: float, schemas: Sequence[Any], path: str) -> float | str:
        if not math.isfinite(number):
            raise unrepresentable(path, f"is {float(number)}, which JSON cannot hold", hint=_FINITE)
        # all of these are whole numbers; their canonical form may be that of an integer
        if abs(number) > MAX_INTEGER and self._untyped != "keep" and "integer" in self._places.types(schemas):
            return str(int(number))
        return float(number)


def _has_schema(value: Any) -> bool:
    """Return whether the walk reads the schema of a value: of containers and of large numbers."""
    return not (value is None or isinstance(value, str)) and not (
        isinstance(value, int | float) and -MAX_INTEGER <= value <= MAX_INTEGER
    )


def _may_restore(value: Any) -> bool:
    return isinstance(value, dict | list) or (isinstance(value, str) and len(value) > _FEW_DIGITS)


def _is_plain(value: Any, depth: int) -> bool:
    """Return whether nothing in a value needs the walk."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int or kind is float:
        return bool(-MAX_INTEGER <= value <= MAX_INTEGER)
    if kind is dict:
        return depth <= MAX_DEPTH and all(
            type(key) is str and _is_plain(item, depth + 1) for key, item in value.items()
        )
    return kind is list and depth <= MAX_DEPTH and all(_is_plain(item, depth + 1) for item in value)


def is_large(value: Any) -> bool:
    """Return whether a value has more than about 32 KiB of JSON, so that its encoding takes too long for an event loop."""
    size, waiting = 0, [value]
    while waiting and size <= _LARGE:
        part = waiting.pop()
        if isinstance(part, str):
            size += len(part)
        elif isinstance(part, dict):
            waiting.extend(part.values())
            size += 8 * len(part)
        elif isinstance(part, list | tuple):
            waiting.extend(part)
            size += 2 * len(part)
        else:
            size += 4
    return size > _LARGE


def _member(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _text(text: str, path: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise unrepresentable(
                path, "holds half of a surrogate pair, which is no text", hint=_WHOLE_CHARACTERS
            ) from None
    return str.__str__(text)


def _key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise unrepresentable(path, f"has a key of type {type(key).__name__}; keys are text in JSON")
    return _text(key, f"a key of {path}")


def _too_deep(path: str) -> InvalidInput:
    why = f"is nested deeper than {MAX_DEPTH} levels, or contains itself"
    return unrepresentable(path, why, hint=_FLATTER)


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError(_SAME_NAME)
    return result


def _parse_integer(text: str) -> int:
    # Python refuses to convert very long texts; every integer of that length is refused for its size
    return int(text) if len(text) <= MAX_DIGITS else _TOO_LARGE


def _small_or_float(text: str) -> int | float:
    number = int(text)
    return number if -MAX_INTEGER <= number <= MAX_INTEGER else float(number)


def _is_carried(value: Any, levels: int) -> bool:
    kind = type(value)
    if value is None or kind is bool:
        return True
    if kind is str:
        return bool(value.isascii() or clean_text(value) == value)
    if kind is int or kind is float:
        return bool(-MAX_INTEGER <= value <= MAX_INTEGER) or (kind is float and math.isfinite(value))
    if kind is dict:
        return levels > 0 and all(
            type(key) is str and _is_carried(key, 0) and _is_carried(item, levels - 1) for key, item in value.items()
        )
    return kind is list and levels > 0 and all(_is_carried(item, levels - 1) for item in value)


# made once: `json.loads` makes a decoder for each text when it has options
_decode = json.JSONDecoder(object_pairs_hook=_unique_names, parse_int=_parse_integer).decode
