"""Inspection of one plugin: loads everything that its manifest names, and measures the imports of the manifest."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from importlib_metadata import packages_distributions

from agentfield.entry_points import PEER_GROUP, installed_entry_points, normalized_name
from agentfield.errors import AgentFieldError, NotFound
from agentfield.plugins.manifest.completeness import manifest_gaps, pair_gaps, provider_gaps, transport_gaps
from agentfield.plugins.manifest.references import load_attribute
from agentfield.plugins.manifest.spec import Manifest
from agentfield.plugins.registry.records import PluginRecord
from agentfield.plugins.registry.registry import Registry
from agentfield.plugins.registry.views import plugin_views
from agentfield.plugins.wording import did_you_mean, listed
from agentfield.wire.rest import PluginView

__all__ = ["Inspection", "inspect_plugin", "installed_plugins", "plugin_tracebacks", "registry_for_inspection"]

_OURS = frozenset({"agentfield", "pluggy", "importlib_metadata", "zipp", "lazy_importer"})
_HEAVY = frozenset({"asyncio", "ssl", "multiprocessing"})
"""Modules of the standard library that a manifest must not import either."""

_MEASURE = """
import importlib, json, sys
import agentfield.plugins
before = set(sys.modules)
importlib.import_module(sys.argv[1])
print("\\n" + json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


@dataclass(slots=True)
class Inspection:
    """Result of an inspection."""

    distribution: str
    version: str
    pairs: list[str] = field(default_factory=list)
    transports: list[str] = field(default_factory=list)
    hooks: list[str] = field(default_factory=list)
    """Names of the hooks that it implements."""
    settings: list[str] = field(default_factory=list)
    """Names of the environment variables that it reads."""
    problems: list[str] = field(default_factory=list)
    """Reasons why the plugin, or a part of it, does not work."""
    warnings: list[str] = field(default_factory=list)


def registry_for_inspection() -> Registry:
    """Return the registry without `AGENTFIELD_PLUGINS_STRICT`, so that broken plugins are listed instead of raised."""
    return Registry.discover({k: v for k, v in os.environ.items() if k != "AGENTFIELD_PLUGINS_STRICT"})


def installed_plugins() -> list[PluginView]:
    """Return all plugins of this installation."""
    return plugin_views(registry_for_inspection())


def plugin_tracebacks() -> list[tuple[str, str]]:
    """Return the label and the traceback of each broken plugin."""
    return [(record.label, record.details) for record in registry_for_inspection().plugins if record.details]


def inspect_plugin(name: str) -> Inspection:
    """Load a plugin and report its problems.

    Args:
        name: The distribution of the plugin.

    Raises:
        NotFound: No plugin of that distribution is installed (code `unknown_plugin`).
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith("AGENTFIELD_") or k == "AGENTFIELD_HOME"}
    registry = Registry.discover(env)
    mine = [record for record in registry.plugins if normalized_name(record.distribution) == normalized_name(name)]
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
        found.pairs += [view for view in _pair_names(registry, record) if view not in found.pairs]
        found.transports += [spec.name for spec in record.manifest.transports]
        found.hooks += [each.hook for each in record.hooks]
        found.settings += _settings(record.manifest)
        found.problems += _problems(registry, record.manifest)
        found.warnings += [
            *_competing_claims(registry, record),
            *_heavy_imports(record),
            *_missing_peers(record.manifest),
        ]
    return found


def _settings(manifest: Manifest) -> list[str]:
    providers = (name for spec in manifest.providers for name in (spec.key_setting, spec.url_setting))
    transports = (name for spec in manifest.transports for name in spec.settings)
    return [name for name in dict.fromkeys((*providers, *transports, *manifest.settings)) if name is not None]


def _pair_names(registry: Registry, record: PluginRecord) -> list[str]:
    return next((list(v.pairs) for v in plugin_views(registry) if (v.name, v.distribution) == _id(record)), [])


def _id(record: PluginRecord) -> tuple[str, str]:
    return record.name, record.distribution


def _problems(registry: Registry, manifest: Manifest) -> Iterator[str]:
    yield from manifest_gaps(manifest)
    for spec in manifest.pairs:
        try:
            registry.resolve(spec.provider, spec.transport)
        except AgentFieldError as error:
            if (
                error.code != "ambiguous_adapter"
            ):  # a conflict with another plugin is a warning (see `_competing_claims`)
                yield error.message
                continue
        yield from _factory(f"{spec.name}: factory", spec.factory)
        yield from (f"{spec.name}: {gap}" for gap in pair_gaps(spec, registry.provider(spec.provider)))
        if spec.options is not None:
            yield from _options(spec.name, spec.options)
    for info in manifest.transports:
        if info.factory is not None:
            yield from _factory(f"transport {info.name}: factory", info.factory)
            yield from (f"transport {info.name}: {gap}" for gap in transport_gaps(info))
            for name in info.requires:
                if find_spec(name.partition(".")[0]) is None:
                    yield f"transport {info.name}: it requires the module {name}, which is not installed"
    for provider in manifest.providers:
        yield from (f"provider {provider.name}: {gap}" for gap in provider_gaps(provider))


def _factory(what: str, reference: str) -> Iterator[str]:
    """Yield why a factory cannot be entered; it is not called, since that would be its first use."""
    try:
        factory = load_attribute(reference)
    except AgentFieldError as error:
        yield f"{what} {error.message}"
        return
    if not callable(factory):
        yield f"{what} {reference} is not callable"
    elif inspect.isasyncgenfunction(factory):
        yield f"{what} {reference} is an async generator: decorate it with contextlib.asynccontextmanager"
    elif inspect.iscoroutinefunction(factory):
        yield f"{what} {reference} is a coroutine function: it must return an async context manager"
    elif not _takes_runtime(factory):
        yield f"{what} {reference} cannot be called with one argument, its runtime"


def _takes_runtime(factory: Callable[..., Any]) -> bool:
    try:
        inspect.signature(factory).bind(None)
    except TypeError:
        return False
    except ValueError:
        return True  # a callable without a signature
    return True


def _options(pair: str, reference: str) -> Iterator[str]:
    from pydantic import BaseModel

    try:
        model = load_attribute(reference)
    except AgentFieldError as error:
        yield f"{pair}: options {error.message}"
        return
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        yield f"{pair}: options {reference} is not a pydantic model"
    elif model.model_config.get("extra") != "forbid":
        yield f"{pair}: options {reference} accepts unknown options: set extra='forbid'"


def _competing_claims(registry: Registry, record: PluginRecord) -> Iterator[str]:
    for spec, owner in registry.pairs():
        if owner is not record and spec.name in {pair.name for pair in (record.manifest or Manifest(api=(2, 0))).pairs}:
            yield f"{spec.name} is also claimed by {owner.label}: installing both requires AGENTFIELD_PREFER"


def _heavy_imports(record: PluginRecord) -> Iterator[str]:
    done = subprocess.run(  # noqa: S603 - this interpreter and a module that discovery has imported already
        [sys.executable, "-c", _MEASURE, record.module], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        yield f"the manifest {record.module} does not import on its own: {done.stderr.strip().splitlines()[-1]}"
        return
    owners = packages_distributions()
    foreign = {
        name
        for name in json.loads(done.stdout.splitlines()[-1])
        if name in _HEAVY or (name in owners and name not in _OURS and name != record.module.partition(".")[0])
    }
    light = {name for name in foreign if name.startswith("agentfield_")}  # manifests of plugins that this one builds on
    if heavy := sorted(foreign - light):
        yield f"the manifest {record.module} imports {', '.join(heavy)}: this slows down every af command; import them in the factory"


def _missing_peers(manifest: Manifest) -> Iterator[str]:
    peers = {entry.name for entry in installed_entry_points(PEER_GROUP)}
    for spec in manifest.pairs:
        if not {f"{spec.provider}.{spec.transport}", f"{spec.provider}.*"} & peers:
            yield f"{spec.name} has no peer for the conformance kit: declare one as an entry point of {PEER_GROUP}"
    for info in manifest.transports:
        if info.factory is not None and info.name not in peers:
            yield f"transport {info.name} has no peer for the conformance kit: declare one as an entry point of {PEER_GROUP}"
