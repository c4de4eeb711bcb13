"""The tables of `docs/providers.md` are generated from the tests that they name, and these exist."""

from __future__ import annotations

import ast

import pytest

from agentfield_local.chat.behaviour import CHAT_VARIANTS
from agentfield_local.faults.variants import BEHAVIOUR_VARIANTS
from contract.test_behaviour_variants import expected
from support.contract.installation import PAIRS
from support.contract.providers_page import OFFICIAL, PAGE, REGENERATE, UNKNOWN, page

TESTS = PAGE.parents[1] / "tests"
NAMED = sorted({check.test for check in OFFICIAL} | {unknown.live for unknown in UNKNOWN if unknown.live})


def test_the_page_is_up_to_date() -> None:
    """The page is up to date; a failure names the command that writes it."""
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text), f"docs/providers.md is out of date; write it with: {REGENERATE}"


@pytest.mark.parametrize("named", NAMED)
def test_every_named_check_exists(named: str) -> None:
    """Every named check is an existing test."""
    path, _, name = named.partition("::")
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("pair", PAIRS, ids="/".join)
def test_every_pair_was_checked_against_something_official(pair: tuple[str, str]) -> None:
    """Every pair has a check against an official client, its types or a browser."""
    assert [check for check in OFFICIAL if pair in check.pairs]


def test_unknown_behaviour_is_covered_by_variants_of_whole_calls() -> None:
    """Each named variant exists and has an expected outcome."""
    for unknown in UNKNOWN:
        for pair in unknown.pairs:
            known = CHAT_VARIANTS if pair[1] == "audio_turns" else BEHAVIOUR_VARIANTS
            assert set(unknown.variants) <= set(known)
            assert all(expected(pair, name).reason == "caller_hangup" for name in unknown.variants)
