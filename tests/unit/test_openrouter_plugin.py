"""The manifest of `openrouter`: light, complete, and true about what the pair can do."""

from __future__ import annotations

import subprocess
import sys

from agentfield.plugins import Registry
from agentfield.plugins.checks import manifest_problem
from agentfield.plugins.install import FIRST_PARTY_PAIRS
from agentfield_openrouter.plugin import agentfield_manifest

HEAVY = ("aiohttp", "websockets", "pydantic", "numpy", "aiortc", "av")


def test_the_manifest_is_sound_and_the_pair_is_known() -> None:
    """Every value has its declared type; the pair is one of ours; its factory and options can be imported."""
    manifest = agentfield_manifest()
    assert manifest_problem(manifest) is None
    (pair,) = manifest.pairs
    assert (pair.name, pair.media) == ("openrouter/audio_turns", "turns")
    assert FIRST_PARTY_PAIRS["openrouter", "audio_turns"] == "agentfield-openrouter"
    can = pair.capabilities
    assert (can.routing, can.truncation, can.resumption, can.usage) == ("pinned", "estimate", "stateless", "cost")
    assert can.turn_detection == {"manual"}
    assert can.formats == {"pcm16/24000"}


def test_the_pair_is_found_where_the_distribution_is_installed() -> None:
    """The registry lists it beside the others."""
    names = {spec.name for spec, _ in Registry.discover().pairs()}
    assert "openrouter/audio_turns" in names


def test_reading_the_manifest_imports_nothing_heavy() -> None:
    """A control plane that does not use the pair pays nothing for it."""
    code = (
        "import sys, agentfield.plugins; before = set(sys.modules); import agentfield_openrouter.plugin as p;"
        "p.agentfield_manifest(); print(sorted({n.split('.')[0] for n in set(sys.modules) - before}))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert [name for name in HEAVY if f"'{name}'" in out] == []
