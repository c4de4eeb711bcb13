"""Standard tests of what a plugin declares: light, valid, and every refusal that follows from it has its reason."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from agentfield.errors import CapabilityMissing, InvalidInput
from agentfield.plugins import PLUGIN_API, Capabilities, PluginRecord
from agentfield.plugins.choices import check_options
from agentfield.plugins.discovery import GROUP
from agentfield.plugins.matrix import needs_of
from agentfield.plugins.registry import load_attribute
from agentfield.realtime.config import Limits, SemanticVad, ServerVad, SessionDeclaration
from agentfield.testing.finding import Row, find_row, peer_of
from agentfield.testing.peer import PeerFactory
from agentfield.testing.suite import Suite

__all__ = ["AdapterManifestTests", "loads_lightly"]

_UNKNOWN = "no_option_has_this_name"
_PROBE = """
import importlib, json, sys
import agentfield.plugins
before = set(sys.modules)
importlib.import_module(sys.argv[1]).agentfield_manifest()
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(new - set(sys.stdlib_module_names)) + (["asyncio"] if "asyncio" in new else [])))
"""


class AdapterManifestTests(Suite):
    """What a pair's plugin says of it; no peer is needed."""

    @pytest.fixture
    def row(self, pair_name: str) -> Row:
        """Return the pair, as its provider's plugin declares it."""
        return find_row(pair_name)

    @pytest.fixture
    def peer_factory(self, row: Row) -> PeerFactory:
        """Return what makes the provider's peer; override it to bring one of your own."""
        return peer_of(row.spec)

    async def test_the_manifest_is_light(self, row: Row) -> None:
        """Importing the manifest imports the standard library, agentfield and plugins, and nothing else."""
        await loads_lightly(row.record)

    async def test_the_manifest_is_complete(self, row: Row) -> None:
        """The plugin is made for this API, and what it declares of the pair makes sense together."""
        can, manifest = row.spec.capabilities, row.record.manifest
        assert row.record.state == "ok", row.record.reason
        assert manifest is not None
        assert manifest.api[0] == PLUGIN_API[0], f"made for plugin API {manifest.api}, this is {PLUGIN_API}"
        assert can.floors, "floors is empty: nobody could answer a turn"
        assert can.modalities, "modalities is empty: the agent could not answer"
        assert can.turn_detection, "turn_detection is empty: no turn would ever end"
        for name in ("duration", "idle"):
            assert name in can.limits, f"limits lacks {name!r}, which every session has"
        if can.caller_transcript != "none":
            assert can.default_transcription, (
                "there are words of the caller, so default_transcription must name by whom"
            )
        if "handler" in can.floors:
            assert can.caller_transcript != "none", "a handler answers words: the handler floor needs caller_transcript"
        if row.spec.media != "direct":
            assert can.formats, "the audio passes through us, so formats must name what the provider takes and gives"
        if row.provider.key_required:
            assert row.provider.key_setting, "key_required, and no key_setting names where the key comes from"

    async def test_options_refuse_what_nobody_knows(self, row: Row) -> None:
        """A misspelt option is refused by name, never ignored."""
        with pytest.raises(InvalidInput) as refused:
            check_options(row.spec, {_UNKNOWN: 1})
        assert _UNKNOWN in str(refused.value), f"the refusal does not name the option: {refused.value}"
        assert check_options(row.spec, {}) is not None, "no options at all must do"

    async def test_what_is_not_declared_is_refused(self, row: Row) -> None:
        """Each capability that the pair does not have is refused by name as soon as a session asks for it."""
        for capability, declared in _beyond(row.spec.capabilities):
            floor = "handler" if "handler" in row.spec.capabilities.floors else "model"
            modalities = tuple(sorted(row.spec.capabilities.modalities))
            asked = {"name": "voice", "provider": row.spec.provider, "transport": row.spec.transport, "floor": floor}
            declaration = SessionDeclaration.model_validate({**asked, "modalities": modalities, **declared})
            with pytest.raises(CapabilityMissing) as refused:
                row.registry.resolve(row.spec.provider, row.spec.transport, needs_of(declaration))
            assert capability in refused.value.data["missing"], f"{capability} is not named in: {refused.value}"

    async def test_the_factory_can_be_imported(self, row: Row) -> None:
        """The factory and the model of the options are where the manifest says, and everything they need is installed."""
        for reference in filter(None, (row.spec.factory, row.spec.options)):
            assert callable(load_attribute(reference)), f"{reference} cannot be called"


def _beyond(can: Capabilities) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what the pair cannot do, with a declaration that asks for it."""
    if can.say == "none":
        yield "say", {"greeting": "Hello."}
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
    for limit, asked_limits in (
        ("turns", Limits(turns=1)),
        ("tool_calls", Limits(tool_calls=1)),
        ("cost", Limits(cost=1)),
    ):
        if limit not in can.limits:
            yield "limits", {"limits": asked_limits}
    if can.caller_transcript == "none":
        yield "caller_transcript", {"transcription": "any"}
    if can.interruption == "none":
        yield "interruption", {"interrupt_after_ms": 100}
    if can.max_duration is not None:
        yield "max_duration", {"limits": Limits(duration=can.max_duration + 1)}


async def loads_lightly(record: PluginRecord) -> None:
    """See, in a process of its own, that a plugin's manifest imports nothing heavy.

    Raises:
        AssertionError: It does, or the plugin is not installed; the text names the modules.
    """
    from importlib_metadata import entry_points

    installed = {entry.dist.name: entry.module for entry in entry_points(group=GROUP, name=record.name) if entry.dist}
    module = installed.get(record.distribution)
    assert module, f"{record.distribution} has no entry point {record.name!r} in the group {GROUP}"
    # in a thread: nothing of it may hang on to an event loop that is gone a moment later
    probe = (sys.executable, "-c", _PROBE, module)
    done = await asyncio.to_thread(subprocess.run, probe, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{module} does not import:\n{done.stderr}"
    plugins = {entry.module.partition(".")[0] for entry in entry_points(group=GROUP)}
    found: list[str] = json.loads(done.stdout)
    heavy = [name for name in found if name not in plugins | {"agentfield"} and not name.startswith("_")]
    assert not heavy, f"{module} imports {', '.join(heavy)}; a manifest names its factories as text and imports nothing"
