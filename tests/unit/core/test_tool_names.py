"""Names of tools for providers."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from agentfield.adapterkit.tool_names import ToolNames


def test_a_usual_target_needs_no_digest() -> None:
    """A dot becomes two underscores."""
    names = ToolNames(["voice-support.resolve_turn"])
    assert names.safe("voice-support.resolve_turn") == "voice-support__resolve_turn"
    assert names.target("voice-support__resolve_turn") == "voice-support.resolve_turn"
    assert names.target("nobody") == "nobody"


def test_colliding_targets_get_different_names() -> None:
    """Targets with a dot and with two underscores both map back."""
    names = ToolNames(["a.b__c", "a__b.c", "a.d"])
    safe = [names.safe(target) for target in ("a.b__c", "a__b.c", "a.d")]
    assert len(set(safe)) == 3
    assert safe[2] == "a__d"


@given(st.lists(st.text(min_size=1, max_size=90), max_size=12))
def test_each_name_is_valid_and_reversible(targets: list[str]) -> None:
    """For any targets, names are valid, at most 64 characters long, unique, reversible and independent of order."""
    targets = [target for target in targets if target.isascii() or target.isprintable()]
    names = ToolNames(targets)
    for target in targets:
        safe = names.safe(target)
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", safe)
        assert names.target(safe) == target
        assert ToolNames(reversed(targets)).safe(target) == safe
