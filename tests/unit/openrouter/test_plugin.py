"""The manifest of `openrouter`: light, complete, and correct about the capabilities of the pair."""

from __future__ import annotations

import subprocess
import sys

from agentfield.plugins import Registry
from agentfield.plugins.install import FIRST_PARTY_PAIRS
from agentfield.plugins.manifest.checks import manifest_problem
from agentfield_openrouter.plugin import agentfield_manifest

HEAVY = ("aiohttp", "websockets", "pydantic", "numpy", "aiortc", "av")


def test_the_manifest_is_valid() -> None:
    """Every value has its declared type; the pair is in the registry; its factory and options can be imported."""
    manifest = agentfield_manifest()
    assert manifest_problem(manifest) is None
    (pair,) = manifest.pairs
    assert (pair.name, pair.media) == ("openrouter/audio_turns", "turns")
    assert FIRST_PARTY_PAIRS["openrouter", "audio_turns"] == "agentfield-openrouter"
    can = pair.capabilities
    assert (can.routing, can.truncation, can.resumption, can.usage) == ("pinned", "estimate", "stateless", "cost")
    assert can.turn_detection == {"manual"}
    assert can.formats == {"pcm16/24000"}


def test_the_installed_pair_is_found() -> None:
    """The registry lists the pair beside the others."""
    names = {spec.name for spec, _ in Registry.discover().pairs()}
    assert "openrouter/audio_turns" in names


def test_reading_the_manifest_imports_nothing_heavy() -> None:
    """The manifest imports nothing that a control plane without the pair would have to pay for."""
    code = (
        "import sys, agentfield.plugins; before = set(sys.modules); import agentfield_openrouter.plugin as p;"
        "p.agentfield_manifest(); print(sorted({n.split('.')[0] for n in set(sys.modules) - before}))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert [name for name in HEAVY if f"'{name}'" in out] == []
