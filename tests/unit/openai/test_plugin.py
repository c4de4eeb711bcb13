"""The manifests of `openai` and `openrouter`: valid, light and accurate."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from agentfield.plugins import PairSpec, Registry
from agentfield.plugins.install import FIRST_PARTY_PAIRS
from agentfield.plugins.registry.session_checks import needs_of
from agentfield.realtime.commands import CommitTurnCommand
from agentfield.realtime.config import Limits
from agentfield_openai import plugin
from agentfield_openai.codec import Codec
from agentfield_openai.options import OpenAIOptions, WebSocketOptions
from agentfield_openai.websocket_adapter import FORMATS, websocket
from agentfield_openrouter import plugin as openrouter
from support.providers.openai import config

HEAVY = ("aiohttp", "websockets", "pydantic", "numpy", "aiortc", "av")


@pytest.mark.parametrize(
    "module", ["agentfield_openai.plugin", "agentfield_openrouter.plugin", "agentfield_local.plugin"]
)
def test_a_manifest_imports_nothing_heavy(module: str) -> None:
    """Reading a manifest imports no more than the plugin contract itself."""
    code = (
        "import sys, agentfield.plugins; before = set(sys.modules);"
        f"import {module} as m; m.agentfield_manifest();"
        f"print([name for name in {HEAVY!r} if name in sys.modules and name not in before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_plugins_are_found_under_their_entry_points() -> None:
    """The registry finds each installed manifest."""
    found = {point.name: point.value for point in entry_points(group="agentfield.plugins")}
    assert found["openai"] == "agentfield_openai.plugin"
    assert found["openrouter"] == "agentfield_openrouter.plugin"


def test_the_registry_accepts_the_manifests() -> None:
    """Both manifests pass core's checks."""
    registry = Registry.of([plugin, openrouter])
    assert [record.state for record in registry.plugins] == ["ok", "ok"]
    ours = [pair.name for pair, _ in registry.pairs() if pair.provider == "openai"]
    assert ours == ["openai/webrtc", "openai/websocket"]
    assert {FIRST_PARTY_PAIRS["openai", pair.transport] for pair in plugin.agentfield_manifest().pairs} == {
        "agentfield-openai"
    }


DIRECT, BRIDGED = plugin.agentfield_manifest().pairs


@pytest.mark.parametrize("pair", [DIRECT, BRIDGED], ids=lambda pair: pair.name)
def test_a_pair_meets_an_ordinary_declaration(pair: PairSpec) -> None:
    """Both pairs support an ordinary declaration, a cost limit included."""
    ordinary = needs_of(config(limits=Limits(cost=1.0)).declaration)
    assert [need.capability for need in ordinary if not need.met_by(pair.capabilities)] == []


def test_an_exact_say_is_refused_on_a_direct_pair() -> None:
    """A missing capability is an unmet need at the start, not an error later."""
    (exact,) = [need for need in needs_of(config(say="exact").declaration) if need.capability == "say"]
    assert not exact.met_by(DIRECT.capabilities)
    assert exact.met_by(BRIDGED.capabilities)


@pytest.mark.parametrize("pair", [DIRECT, BRIDGED], ids=lambda pair: pair.name)
def test_declared_turn_detection_can_be_encoded(pair: PairSpec) -> None:
    """Every declared kind can be configured; push to talk has its commit."""
    assert pair.capabilities.turn_detection == {"server_vad", "semantic_vad", "manual"}
    assert Codec(config(turn_detection=None)).encode(CommitTurnCommand())[0]["type"] == "input_audio_buffer.commit"


def test_declared_formats_and_factory_are_those_of_the_adapter() -> None:
    """The bridged pair declares the formats of the adapter; a session without a maximum duration rotates."""
    assert BRIDGED.media == "bridged"
    assert BRIDGED.capabilities.formats == {audio.name for audio in FORMATS}
    assert BRIDGED.factory == f"{websocket.__module__}:{websocket.__name__}"
    assert BRIDGED.capabilities.max_duration is None
    assert "3600" in BRIDGED.notes
    for pair in (DIRECT, BRIDGED):
        assert pair.capabilities.dtmf is (pair.media == "bridged")


def test_prices_belong_to_known_models() -> None:
    """Every price belongs to a model of the catalog."""
    (provider,) = plugin.agentfield_manifest().providers
    assert {price.model for price in provider.prices} <= set(provider.models.known)
    assert provider.concurrency is None


def test_options_round_trip_as_json() -> None:
    """Frozen options are JSON with every field, and reading them back gives the same options."""
    options = OpenAIOptions(language="en", speed=1.1)
    assert OpenAIOptions.of(config(options=options.model_dump(mode="json"))) == options
    spoken = WebSocketOptions(speech_model="tts-1", speech_voice="nova")
    assert WebSocketOptions.of(config(options=spoken.model_dump(mode="json"))) == spoken
