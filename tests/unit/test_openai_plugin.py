"""The manifests of `openai` and `openrouter`: valid, light and honest."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from agentfield.plugins import Registry
from agentfield.plugins.matrix import needs_of
from agentfield.realtime.commands import CommitTurn
from agentfield_openai import plugin
from agentfield_openai.codec import Codec
from agentfield_openai.options import OpenAIOptions
from agentfield_openrouter import plugin as openrouter
from openai_kit import config

HEAVY = ("aiohttp", "websockets", "pydantic", "numpy", "aiortc", "av")


@pytest.mark.parametrize(
    "module", ["agentfield_openai.plugin", "agentfield_openrouter.plugin", "agentfield_local.plugin"]
)
def test_a_manifest_imports_nothing_heavy(module: str) -> None:
    """Reading a manifest costs no more than reading the contract itself."""
    code = (
        "import sys, agentfield.plugins; before = set(sys.modules);"
        f"import {module} as m; m.agentfield_manifest();"
        f"print([name for name in {HEAVY!r} if name in sys.modules and name not in before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_plugins_are_found_under_their_entry_points() -> None:
    """Installed, each manifest is where the registry looks for it."""
    found = {point.name: point.value for point in entry_points(group="agentfield.plugins")}
    assert found["openai"] == "agentfield_openai.plugin"
    assert found["openrouter"] == "agentfield_openrouter.plugin"


def test_the_registry_accepts_the_manifests() -> None:
    """Both are valid by core's own checks; openai/webrtc is the one pair of theirs."""
    registry = Registry.of([plugin, openrouter])
    assert [record.state for record in registry.plugins] == ["ok", "ok"]
    assert [pair.name for pair, _ in registry.pairs()] == ["openai/webrtc"]


def test_the_pair_meets_an_ordinary_declaration_and_refuses_an_exact_say() -> None:
    """What the pair cannot do is a need that is not met, not a surprise later."""
    (pair,) = plugin.agentfield_manifest().pairs
    ordinary = needs_of(config().declaration)
    assert [need.capability for need in ordinary if not need.met_by(pair.capabilities)] == []
    exact = [need for need in needs_of(config(say="exact").declaration) if need.capability == "say"]
    assert not exact[0].met_by(pair.capabilities)


def test_declared_turn_detection_is_what_the_codec_can_send() -> None:
    """Every declared kind can be configured; push to talk has its commit."""
    (pair,) = plugin.agentfield_manifest().pairs
    assert pair.capabilities.turn_detection == {"server_vad", "semantic_vad", "manual"}
    assert Codec(config(turn_detection=None)).encode(CommitTurn())[0]["type"] == "input_audio_buffer.commit"


def test_options_survive_being_written_down() -> None:
    """A frozen configuration holds the options as JSON with every field; reading them back gives the same."""
    options = OpenAIOptions(language="en", speed=1.1)
    assert OpenAIOptions.of(config(options=options.model_dump(mode="json"))) == options
