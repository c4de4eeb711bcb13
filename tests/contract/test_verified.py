"""The page of what was verified: its tables are written from the tests that they name, and those exist."""

from __future__ import annotations

import ast

import pytest

from agentfield_local.chat.behaviour import CHAT_BEHAVIOURS
from agentfield_local.positions import BEHAVIOURS
from contract.contract_kit import PAIRS
from contract.test_positions import written
from contract.verified import OFFICIAL, PAGE, REGENERATE, UNKNOWN, page

TESTS = PAGE.parents[1] / "tests"
NAMED = sorted({check.test for check in OFFICIAL} | {unknown.live for unknown in UNKNOWN if unknown.live})


def test_the_page_is_what_the_tests_say() -> None:
    """`docs/providers.md` holds the tables that are made from the tests; a difference says how to write them anew."""
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text), f"docs/providers.md is out of date; write it with: {REGENERATE}"


@pytest.mark.parametrize("named", NAMED)
def test_every_check_that_is_named_exists(named: str) -> None:
    """A check is the name of a test that can be run."""
    path, _, name = named.partition("::")
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("pair", PAIRS, ids="/".join)
def test_every_pair_was_checked_against_something_official(pair: tuple[str, str]) -> None:
    """No pair rests on our own word alone."""
    assert [check for check in OFFICIAL if pair in check.pairs]


def test_what_stands_for_the_unknown_is_a_position_of_a_whole_call() -> None:
    """Each position that is named exists, and what a call comes to in it is written down."""
    for unknown in UNKNOWN:
        for pair in unknown.pairs:
            known = CHAT_BEHAVIOURS if pair[1] == "audio_turns" else BEHAVIOURS
            assert set(unknown.positions) <= set(known)
            assert all(written(pair, name).reason == "caller_hangup" for name in unknown.positions)
