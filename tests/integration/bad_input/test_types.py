"""Types at the border of a reasoner: each value arrives as it was sent, both ways, or its type is refused."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from agentfield import Agent
from agentfield.errors import InvalidInput
from support.core.border_types import (
    CARRIED,
    COMMAND,
    PAGE,
    REFUSED,
    Carried,
    Plain,
    Refused,
    back,
    echo,
    refusal,
    types_page,
)
from support.server.engine import Plane, plane


@pytest.fixture
async def cp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Plane]:
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    monkeypatch.delenv("AGENTFIELD_API_KEY", raising=False)
    async with plane(tmp_path / "a.db") as running:
        yield running


async def test_a_carried_type_arrives_as_it_was_sent(cp: Plane) -> None:
    """The function gets a value equal to the caller's and of its type, and its output makes the same value again."""
    app, seen = Agent("shop", url=cp.url), []
    for number, example in enumerate(CARRIED):
        app.reasoner(f"echo_{number}")(echo(example.hint, seen.append))
    wrong = []
    async with app:
        for number, example in enumerate(CARRIED):
            output = await app.call(f"shop.echo_{number}", value=example.value)
            arrived, returned = seen.pop(), back(example, output)
            if not (same(example, arrived) and same(example, returned)):
                wrong.append((example.shown, arrived, output, returned))
    assert wrong == []


def same(example: Carried, value: Any) -> bool:
    return bool(value == example.value) and type(value) is type(example.value)


@pytest.mark.parametrize("example", REFUSED, ids=lambda example: example.shown)
def test_a_type_that_cannot_be_carried_is_refused_at_the_declaration(example: Refused) -> None:
    """The error says what to write instead."""
    if "3.11" in example.shown and sys.version_info >= (3, 12):
        return  # carried there
    error = refusal(example)
    assert error.code == "invalid_declaration"
    assert error.hint


async def test_a_value_that_hides_or_loses_itself_is_refused_at_the_call(cp: Plane) -> None:
    """A secret never arrives as asterisks, and a model never as other bytes, where no type was declared."""
    app = Agent("shop", url=cp.url)
    app.reasoner("echo")(echo(Any, lambda value: None))
    async with app:
        with pytest.raises(InvalidInput, match="hides its value"):
            await app.call("shop.echo", value={"key": SecretStr("s")})
        with pytest.raises(InvalidInput, match=r"Plain\.jpeg"):
            await app.call("shop.echo", value=[Plain(jpeg=b"abc")])


def test_the_page_of_types_is_that_of_the_tests() -> None:
    """`docs/types.md` is written by the program that holds the examples."""
    assert PAGE.read_text(encoding="utf-8") == types_page(), f"run: {COMMAND}"
