"""What is wrong with a plugin: everything that its manifest names is loaded, and what it costs to load it is looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from importlib_metadata import packages_distributions

from agentfield.errors import AgentFieldError, NotFound
from agentfield.installed import PEERS, canonical, installed_entries
from agentfield.plugins.registry import PluginRecord, Registry, load_attribute
from agentfield.plugins.spec import Manifest
from agentfield.plugins.views import plugin_views
from agentfield.plugins.words import did_you_mean, listed
from agentfield.wire.rest import PluginView

__all__ = ["Inspection", "inspect_plugin", "installed", "registry_to_look_at", "tracebacks"]

_OURS = frozenset({"agentfield", "pluggy", "importlib_metadata", "zipp", "lazy_importer"})
_HEAVY = frozenset({"asyncio", "ssl", "multiprocessing"})
"""What of the standard library a manifest must not import either."""

_MEASURE = """
import importlib, json, sys
import agentfield.plugins
before = set(sys.modules)
importlib.import_module(sys.argv[1])
print("\\n" + json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


@dataclass(slots=True)
class Inspection:
    """What was found."""

    distribution: str
    version: str
    pairs: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What keeps it, or a part of it, from working."""
    warnings: list[str] = field(default_factory=list)


def registry_to_look_at() -> Registry:
    """Return what is installed, also where `AGENTFIELD_PLUGINS_STRICT` would make it an error: whoever looks must see it."""
    return Registry.discover({k: v for k, v in os.environ.items() if k != "AGENTFIELD_PLUGINS_STRICT"})


def installed() -> list[PluginView]:
    """Return every plugin of this installation."""
    return plugin_views(registry_to_look_at())


def tracebacks() -> list[tuple[str, str]]:
    """Return the tracebacks of broken plugins, each with what it is called."""
    return [(record.label, record.details) for record in registry_to_look_at().plugins if record.details]


def inspect_plugin(name: str) -> Inspection:
    """Load a plugin and tell what is wrong with it.

    Args:
        name: Its distribution.

    Raises:
        NotFound: No plugin of that distribution is installed (code `unknown_plugin`).
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith("AGENTFIELD_") or k == "AGENTFIELD_HOME"}
    registry = Registry.discover(env)
    mine = [record for record in registry.plugins if canonical(record.distribution) == canonical(name)]
    if not mine:
        known = {record.distribution for record in registry.plugins}
        raise NotFound(
            f"no plugin of a distribution {name!r} is installed.{did_you_mean(name, known)} Installed: {listed(known)}.",
            code="unknown_plugin",
            hint="af plugins",
        )
    found = Inspection(mine[0].distribution, mine[0].version)
    for record in mine:
        if record.state != "ok" or record.manifest is None:
            found.problems.append(f"{record.name} is {record.state}: {record.reason}")
            continue
        found.pairs += [view for view in _rows(registry, record) if view not in found.pairs]
        found.problems += _problems(registry, record.manifest)
        found.warnings += [*_claims(registry, record), *_weight(record), *_without_peer(record.manifest)]
    return found


def _rows(registry: Registry, record: PluginRecord) -> list[str]:
    return next((list(v.pairs) for v in plugin_views(registry) if (v.name, v.distribution) == _id(record)), [])


def _id(record: PluginRecord) -> tuple[str, str]:
    return record.name, record.distribution


def _problems(registry: Registry, manifest: Manifest) -> Iterator[str]:
    for spec in manifest.pairs:
        try:
            registry.resolve(spec.provider, spec.transport)
        except AgentFieldError as error:
            if error.code != "ambiguous_adapter":  # a conflict is no fault of this plugin
                yield error.message
                continue
        yield from _loads(f"{spec.name}: factory", spec.factory)
        if spec.options is not None:
            yield from _options(spec.name, spec.options)
    for info in manifest.transports:
        if info.factory is not None:
            yield from _loads(f"transport {info.name}: factory", info.factory)


def _loads(what: str, reference: str) -> Iterator[str]:
    try:
        if not callable(load_attribute(reference)):
            yield f"{what} {reference} cannot be called"
    except AgentFieldError as error:
        yield f"{what} {error.message}"


def _options(pair: str, reference: str) -> Iterator[str]:
    from pydantic import BaseModel

    try:
        model = load_attribute(reference)
    except AgentFieldError as error:
        yield f"{pair}: options {error.message}"
        return
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        yield f"{pair}: options {reference} is no pydantic model"
    elif model.model_config.get("extra") != "forbid":
        yield f"{pair}: options {reference} lets unknown options pass: set extra='forbid'"


def _claims(registry: Registry, record: PluginRecord) -> Iterator[str]:
    for spec, owner in registry.pairs():
        if owner is not record and spec.name in {pair.name for pair in (record.manifest or Manifest(api=(1, 0))).pairs}:
            yield f"{spec.name} is claimed by {owner.label} too: whoever installs both must set AGENTFIELD_PREFER"


def _weight(record: PluginRecord) -> Iterator[str]:
    done = subprocess.run(  # noqa: S603 - this interpreter and a module that discovery has imported already
        [sys.executable, "-c", _MEASURE, record.module], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        yield f"its manifest {record.module} does not import by itself: {done.stderr.strip().splitlines()[-1]}"
        return
    owners = packages_distributions()
    strange = {
        name
        for name in json.loads(done.stdout.splitlines()[-1])
        if name in _HEAVY or (name in owners and name not in _OURS and name != record.module.partition(".")[0])
    }
    light = {name for name in strange if name.startswith("agentfield_")}  # the manifest of a plugin that this builds on
    if heavy := sorted(strange - light):
        yield f"its manifest {record.module} imports {', '.join(heavy)}: every af command pays for that; import them in the factory"


def _without_peer(manifest: Manifest) -> Iterator[str]:
    peers = {entry.name for entry in installed_entries(PEERS)}
    for spec in manifest.pairs:
        if not {f"{spec.provider}.{spec.transport}", f"{spec.provider}.*"} & peers:
            yield f"{spec.name} has no peer for the conformance kit: name one as an entry point of {PEERS}"
    for info in manifest.transports:
        if info.factory is not None and info.name not in peers:
            yield f"transport {info.name} has no peer for the conformance kit: name one as an entry point of {PEERS}"
