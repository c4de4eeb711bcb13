"""Standard tests of a manifest: it imports nothing heavy, it is consistent, and undeclared capabilities are refused."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from agentfield.entry_points import PLUGIN_GROUP
from agentfield.errors import CapabilityMissing, InvalidInput
from agentfield.plugins import PLUGIN_API, Capabilities, PluginRecord
from agentfield.plugins.manifest.choices import check_options
from agentfield.plugins.manifest.completeness import manifest_gaps, pair_gaps, provider_gaps
from agentfield.plugins.manifest.references import load_attribute
from agentfield.plugins.registry.session_checks import needs_of
from agentfield.realtime.config import Limits, SemanticVad, ServerVad, SessionDeclaration
from agentfield.testing.conformance.harness.subject import PairUnderTest, find_pair, provider_peer_factory
from agentfield.testing.conformance.suite import ConformanceSuite
from agentfield.testing.peer import PeerFactory

__all__ = ["AdapterManifestTests", "assert_light_import"]

_UNKNOWN = "no_option_has_this_name"
_PROBE = """
import importlib, json, sys
import agentfield.plugins
before = set(sys.modules)
importlib.import_module(sys.argv[1]).agentfield_manifest()
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(new - set(sys.stdlib_module_names)) + (["asyncio"] if "asyncio" in new else [])))
"""


class AdapterManifestTests(ConformanceSuite):
    """The manifest of a pair; no peer is needed."""

    @pytest.fixture
    def subject(self, pair_name: str) -> PairUnderTest:
        """Return the pair as its provider's plugin declares it."""
        return find_pair(pair_name)

    @pytest.fixture
    def peer_factory(self, subject: PairUnderTest) -> PeerFactory:
        """Return the factory of the provider's peer; override it to use another one."""
        return provider_peer_factory(subject.spec)

    async def test_the_manifest_is_light(self, subject: PairUnderTest) -> None:
        """Importing the manifest imports only the standard library, agentfield and plugins."""
        await assert_light_import(subject.record)

    async def test_the_manifest_is_complete(self, subject: PairUnderTest) -> None:
        """The plugin is made for this plugin API, and its declarations of the pair are consistent."""
        manifest = subject.record.manifest
        assert subject.record.state == "ok", subject.record.reason
        assert manifest is not None
        assert manifest.api[0] == PLUGIN_API[0], f"made for plugin API {manifest.api}, this is {PLUGIN_API}"
        gaps = [*manifest_gaps(manifest), *provider_gaps(subject.provider), *pair_gaps(subject.spec, subject.provider)]
        assert not gaps, "\n".join(gaps)

    async def test_unknown_options_are_refused(self, subject: PairUnderTest) -> None:
        """An unknown option is refused by name, never ignored."""
        refusal = _refusal_of_option(subject, _UNKNOWN)
        assert refusal is not None, (
            f"an unknown option was accepted: give {subject.spec.options} the setting extra='forbid', or a spelling mistake "
            "changes nothing and nobody learns it"
        )
        assert _UNKNOWN in refusal, f"the refusal does not name the option: {refusal}"
        assert check_options(subject.spec, {}) is not None, "empty options must be accepted"

    async def test_undeclared_capabilities_are_refused(self, subject: PairUnderTest) -> None:
        """A session that needs an undeclared capability is refused by the capability's name."""
        for capability, declared in _undeclared(subject.spec.capabilities):
            floor = "handler" if "handler" in subject.spec.capabilities.floors else "model"
            asked = {
                "name": "voice",
                "provider": subject.spec.provider,
                "transport": subject.spec.transport,
                "floor": floor,
            }
            declaration = SessionDeclaration.model_validate({**asked, **declared})
            with pytest.raises(CapabilityMissing) as refused:
                subject.registry.resolve(subject.spec.provider, subject.spec.transport, needs_of(declaration))
            assert capability in refused.value.data["missing"], f"{capability} is not named in: {refused.value}"

    async def test_the_factory_can_be_imported(self, subject: PairUnderTest) -> None:
        """The factory and the options model can be imported as the manifest names them."""
        assert callable(load_attribute(subject.spec.factory)), f"{subject.spec.factory} cannot be called"
        if subject.spec.options is not None:
            model = load_attribute(subject.spec.options)
            is_model = isinstance(model, type) and issubclass(model, BaseModel)
            assert is_model, f"{subject.spec.options} is no pydantic model"


def _refusal_of_option(subject: PairUnderTest, name: str) -> str | None:
    try:
        check_options(subject.spec, {name: 1})
    except InvalidInput as refused:
        return str(refused)
    return None


def _undeclared(can: Capabilities) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each capability that the pair lacks, with a declaration that needs it."""
    if can.say == "none":
        yield "say", {"greeting": "Hello."}
    if not can.uninterruptible:
        yield "uninterruptible", {"greeting": {"text": "Hello.", "interruptible": False}}
    if can.say != "exact":
        yield "say", {"say": "exact"}
    if can.tools == "none":
        yield "tools", {"tools": ("desk.look_up",)}
    for kind, asked in (("server_vad", ServerVad()), ("semantic_vad", SemanticVad()), ("manual", "manual")):
        if kind not in can.turn_detection:
            yield "turn_detection", {"turn_detection": asked}
    for modality in {"audio", "text"} - can.modalities:
        yield "modalities", {"modalities": (modality,)}
    for floor in {"handler", "model"} - can.floors:
        yield "floors", {"floor": floor}
    for limit, limits in (
        ("turns", Limits(turns=1)),
        ("tool_calls", Limits(tool_calls=1)),
        ("cost", Limits(cost=1)),
    ):
        if limit not in can.limits:
            yield "limits", {"limits": limits}
    if can.caller_transcript == "none":
        yield "caller_transcript", {"transcription": "any"}
    elif can.transcription == "own":
        yield "transcription", {"transcription": "any"}
    if can.interruption == "none":
        yield "interruption", {"interrupt_after_ms": 100}
    if can.max_duration is not None:
        yield "max_duration", {"limits": Limits(duration=can.max_duration + 1)}


async def assert_light_import(record: PluginRecord) -> None:
    """Check in a fresh process that a plugin's manifest imports nothing heavy.

    Raises:
        AssertionError: It imports other packages, which the message names, or the plugin is not installed.
    """
    from importlib_metadata import entry_points

    installed = {
        entry.dist.name: entry.module for entry in entry_points(group=PLUGIN_GROUP, name=record.name) if entry.dist
    }
    module = installed.get(record.distribution)
    assert module, f"{record.distribution} has no entry point {record.name!r} in the group {PLUGIN_GROUP}"
    # in a thread: asyncio's child watchers would outlive the event loop of this test
    probe = (sys.executable, "-c", _PROBE, module)
    done = await asyncio.to_thread(subprocess.run, probe, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{module} does not import:\n{done.stderr}"
    plugins = {entry.module.partition(".")[0] for entry in entry_points(group=PLUGIN_GROUP)}
    found: list[str] = json.loads(done.stdout)
    heavy = [name for name in found if name not in plugins | {"agentfield"} and not name.startswith("_")]
    assert not heavy, f"{module} imports {', '.join(heavy)}; a manifest names its factories as text and imports nothing"
