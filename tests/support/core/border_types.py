"""Types at the border of a reasoner: the examples that the tests carry, and the page of the docs that is made of them.

Run as a program it writes the page.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import re
import typing
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import typing_extensions
from pydantic import Base64Bytes, BaseModel, ConfigDict, SecretStr

from agentfield.errors import InvalidInput
from agentfield.schema import bind_input, jsonable
from support.paths import ROOT

__all__ = ["CARRIED", "COMMAND", "PAGE", "REFUSED", "Carried", "Refused", "echo", "types_page"]

PAGE = ROOT / "docs" / "types.md"
COMMAND = "PYTHONPATH=tests uv run python -m support.core.border_types"


class Colour(enum.Enum):
    RED = "red"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Order(BaseModel):
    number: int
    placed: dt.datetime
    lines: dict[int, str] = {}


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    day: dt.date
    tags: tuple[str, ...]


class Photo(BaseModel):
    model_config = ConfigDict(val_json_bytes="base64", ser_json_bytes="base64")
    jpeg: bytes


class Plain(BaseModel):
    jpeg: bytes


class Login(BaseModel):
    user: str
    password: SecretStr


@dataclasses.dataclass
class Point:
    x: float
    when: dt.date


@dataclasses.dataclass
class Blob:
    __pydantic_config__ = ConfigDict(val_json_bytes="base64", ser_json_bytes="base64")
    data: bytes


@dataclasses.dataclass
class PlainBlob:
    data: bytes


class Place(NamedTuple):
    name: str
    floor: int


class Stock(typing_extensions.TypedDict):
    count: int
    scan: bytes


class Odd(enum.Enum):
    DAY = dt.date(2026, 1, 2)


OldStock = typing.TypedDict("OldStock", {"count": int})  # noqa: UP013 -- a class body is the same type


@dataclasses.dataclass(frozen=True)
class Carried:
    """A type with a value that must arrive as it was sent."""

    shown: str
    hint: Any
    value: Any
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Refused:
    """A type that no reasoner can declare."""

    shown: str
    hint: Any


_UUID = uuid.UUID("00000000-0000-4000-8000-000000000001")
_MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)

CARRIED = [
    Carried("`None`", None, None),
    Carried("`bool`", bool, value=True),
    Carried("`int`", int, 427),
    Carried("`int` beyond 2^53 - 1", int, 9400111899223100001234, "decimal text, up to 4,000 digits; the declared type makes it `int` again"),
    Carried("`float`", float, 1.5, "NaN and infinities are refused"),
    Carried("`str`", str, "ünï", "half a surrogate pair is refused"),
    Carried("`bytes`", bytes, b"\xfb\xff plain", "base64url text"),
    Carried("`list[bytes]`", list[bytes], [b"\xff", b""]),
    Carried("`list[int]`", list[int], [1, 2]),
    Carried("`tuple[int, str]`", tuple[int, str], (1, "a")),
    Carried("`set[str]`", set[str], {"b", "a"}, "sorted in JSON, so that its digest is stable"),
    Carried("`frozenset[int]`", frozenset[int], frozenset({2, 1})),
    Carried("`collections.deque[int]`", collections.deque[int], collections.deque([1, 2])),
    Carried("`dict[str, int]`", dict[str, int], {"a": 1}),
    Carried("`dict[int, str]`", dict[int, str], {1: "a", -2: "b"}, "keys become text; the declared type makes them `int` again"),
    Carried("`dict[uuid.UUID, int]`", dict[uuid.UUID, int], {_UUID: 1}),
    Carried("`dict[Colour, int]`", dict[Colour, int], {Colour.RED: 1}),
    Carried("`collections.Counter[str]`", collections.Counter[str], collections.Counter("aab")),
    Carried("`int \\| None`", int | None, None),
    Carried("`int \\| str`", int | str, "5"),
    Carried("`Literal['a', 1]`", Literal["a", 1], 1),
    Carried("`decimal.Decimal`", decimal.Decimal, decimal.Decimal("1.10")),
    Carried("`datetime.datetime`", dt.datetime, _MOMENT, "a time zone becomes its offset"),
    Carried("`datetime.date`", dt.date, dt.date(2026, 1, 2)),
    Carried("`datetime.time`", dt.time, dt.time(3, 4, 5, 6)),
    Carried("`datetime.timedelta`", dt.timedelta, dt.timedelta(days=1, microseconds=3)),
    Carried("`uuid.UUID`", uuid.UUID, _UUID),
    Carried("`pathlib.Path`", Path, Path("a/b")),
    Carried("`enum.Enum` with texts or numbers", Colour, Colour.RED),
    Carried("`enum.Flag`", Access, Access.READ | Access.WRITE),
    Carried("dataclass", Point, Point(1.5, dt.date(2026, 1, 2))),
    Carried("dataclass that holds bytes as base64", Blob, Blob(b"\xff")),
    Carried("`NamedTuple`", Place, Place("hall", 2)),
    Carried("`typing_extensions.TypedDict`", Stock, {"count": 1, "scan": b"\xff"}),
    Carried("pydantic model", Order, Order(number=1, placed=_MOMENT, lines={3: "lamp"})),
    Carried("pydantic model with `strict=True`", Strict, Strict(day=dt.date(2026, 1, 2), tags=("a",))),
    Carried("pydantic model that holds bytes as base64", Photo, Photo(jpeg=b"\xff\xd8")),
    Carried("`list[Order]`", list[Order], [Order(number=1, placed=_MOMENT)]),
    Carried("`Any`, or no type", Any, {"a": [1, None]}, "JSON arrives as it is"),
]  # fmt: skip

REFUSED = [
    Refused("`pydantic.SecretStr`", SecretStr),
    Refused("pydantic model that holds a `SecretStr`", Login),
    Refused("`bytearray`", bytearray),
    Refused("`memoryview`", memoryview),
    Refused("pydantic model that holds `bytes`", Plain),
    Refused("`list[...]` of such a model", list[Plain]),
    Refused("dataclass that holds `bytes`", PlainBlob),
    Refused("`pydantic.Base64Bytes`", Base64Bytes),
    Refused("`collections.abc.Iterator[int]`", Iterator[int]),
    Refused("`re.Pattern[str]`", re.Pattern[str]),
    Refused("`enum.Enum` with other values", Odd),
    Refused("`typing.TypedDict` on Python 3.11", OldStock),
    Refused("any other class", threading_lock := type("Lock", (), {})),
]


def echo(hint: Any, note: Callable[[Any], None]) -> Callable[..., Any]:
    """Return a function that takes and returns a type, and notes what it was given."""

    async def function(value: Any) -> Any:
        note(value)
        return value

    function.__annotations__ = {"value": hint, "return": hint}
    return function


def json_of(example: Carried) -> str:
    """Return the JSON text of an example."""
    return json.dumps(jsonable(example.value, untyped="text"), ensure_ascii=False)


def back(example: Carried, output: Any) -> Any:
    """Return the Python value that the declared type makes of an output."""
    return bind_input(echo(example.hint, lambda value: None), {"value": output})["value"]


def refusal(example: Refused) -> InvalidInput:
    """Return the error of a declaration with the type."""
    from agentfield import Agent

    try:
        Agent("shop").reasoner("echo")(echo(example.hint, lambda value: None))
    except InvalidInput as error:
        return error
    raise AssertionError(f"{example.shown} was not refused")


def types_page() -> str:
    """Return the text of the page."""
    lines = [
        "# Types that cross the border of a reasoner",
        "",
        "A call carries its input and output as JSON; inputs and outputs are recorded and signed in that form. The caller's Python value",
        "becomes JSON, and the parameter's type makes a Python value of it again. An output becomes JSON in the same way; `app.call`",
        "returns that JSON, of which the same type makes a Python value: `Order.model_validate_json(json.dumps(output))`.",
        "",
        "The tables are generated from `tests/support/core/border_types.py`; `tests/integration/bad_input/test_types.py` carries every value",
        "through a control plane, both ways.",
        "",
        "## Carried",
        "",
        "| declared type | JSON, for example | |",
        "|---|---|---|",
        *(f"| {each.shown} | `{json_of(each)}` | {each.note} |" for each in CARRIED),
        "",
        "## Refused when the reasoner is declared",
        "",
        "| declared type | why | instead |",
        "|---|---|---|",
        *(_refused_row(each) for each in REFUSED),
        "",
        "The same is refused in a value whose type is not declared: a call with a `SecretStr` in its input raises `InvalidInput`.",
        "",
    ]
    return "\n".join(lines)


def _refused_row(example: Refused) -> str:
    if example.hint is threading_lock:
        return f"| {example.shown} | it has no JSON Schema | {refusal(example).hint} |"
    if example.hint is OldStock:  # carried from Python 3.12 on, so the text cannot come from the code there
        return f"| {example.shown} | pydantic cannot read it there | Write `from typing_extensions import TypedDict`. |"
    error = refusal(example)
    why = error.message.removeprefix("function: value: ").removesuffix(".")
    instead = str(error.hint)
    return f"| {example.shown} | {why} | {instead} |"


if __name__ == "__main__":
    PAGE.write_text(types_page(), encoding="utf-8")
