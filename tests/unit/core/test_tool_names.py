"""Names of tools on the wire, whoever the provider is."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from agentfield.adapterkit.tool_names import ToolNames


def test_a_target_is_readable_on_the_wire() -> None:
    """The usual case needs no digest."""
    names = ToolNames(["voice-support.resolve_turn"])
    assert names.safe("voice-support.resolve_turn") == "voice-support__resolve_turn"
    assert names.target("voice-support__resolve_turn") == "voice-support.resolve_turn"
    assert names.target("nobody") == "nobody"


def test_names_that_would_collide_stay_apart() -> None:
    """A dot and two underscores are both possible in targets; both come back as what they were."""
    names = ToolNames(["a.b__c", "a__b.c", "a.d"])
    safe = [names.safe(target) for target in ("a.b__c", "a__b.c", "a.d")]
    assert len(set(safe)) == 3
    assert safe[2] == "a__d"


@given(st.lists(st.text(min_size=1, max_size=90), max_size=12))
def test_every_name_is_allowed_and_comes_back(targets: list[str]) -> None:
    """Whatever targets are called: allowed characters, at most 64 of them, unique, reversible, order does not matter."""
    targets = [target for target in targets if target.isascii() or target.isprintable()]
    names = ToolNames(targets)
    for target in targets:
        safe = names.safe(target)
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", safe)
        assert names.target(safe) == target
        assert ToolNames(reversed(targets)).safe(target) == safe
