"""The registry as REST responses: each pair with its state, each plugin with its reason."""

from __future__ import annotations

from collections.abc import Iterator

from agentfield.errors import PluginError
from agentfield.plugins.install import FIRST_PARTY_PAIRS
from agentfield.plugins.manifest.spec import PairSpec
from agentfield.plugins.registry.matrix import capabilities_json
from agentfield.plugins.registry.records import PluginRecord
from agentfield.plugins.registry.registry import Registry
from agentfield.wire.rest import AdapterView, PluginView

__all__ = ["adapter_views", "plugin_views"]


def adapter_views(registry: Registry) -> list[AdapterView]:
    """Return all pairs: usable pairs, pairs of unusable plugins, and first-party pairs that are not installed."""
    rows = [_row(registry, spec, record) for spec, record in registry.pairs()]
    rows += [_unusable(registry, *pair) for pair in _without_a_row(registry)]
    return sorted(rows, key=lambda row: (row.provider, row.transport, row.distribution))


def plugin_views(registry: Registry) -> list[PluginView]:
    """Return all plugins in discovery order."""
    return [_plugin(registry, record) for record in registry.plugins]


def _row(registry: Registry, spec: PairSpec, record: PluginRecord) -> AdapterView:
    transport = registry.transport_plugin(spec.transport)
    problem = _problem(registry, spec.provider, spec.transport)
    return AdapterView(
        provider=spec.provider,
        transport=spec.transport,
        distribution=record.distribution,
        version=record.version,
        media=spec.media,
        capabilities=capabilities_json(spec.capabilities),
        notes=spec.notes,
        transport_distribution=transport.distribution if transport else "",
        transport_version=transport.version if transport else "",
        bridged_from=spec.bridged_from,
        **_state(problem),
    )


def _unusable(registry: Registry, provider: str, transport: str, record: PluginRecord | None) -> AdapterView:
    problem = _problem(registry, provider, transport)
    return AdapterView(
        provider=provider,
        transport=transport,
        distribution=record.distribution if record else FIRST_PARTY_PAIRS[provider, transport],
        version=record.version if record else "",
        media="",
        capabilities={},
        **_state(problem),
    )


def _without_a_row(registry: Registry) -> Iterator[tuple[str, str, PluginRecord | None]]:
    seen = {(spec.provider, spec.transport) for spec, _ in registry.pairs()}
    for record in registry.plugins:
        for spec in record.manifest.pairs if record.manifest and record.state != "ok" else ():
            if (spec.provider, spec.transport) not in seen:
                seen.add((spec.provider, spec.transport))
                yield spec.provider, spec.transport, record
    for pair, dist in FIRST_PARTY_PAIRS.items():
        if pair not in seen:
            yield *pair, next((record for record in registry.plugins if record.distribution == dist), None)


def _problem(registry: Registry, provider: str, transport: str) -> PluginError | None:
    try:
        registry.resolve(provider, transport)
    except PluginError as error:
        return error
    return None


def _state(problem: PluginError | None) -> dict[str, object]:
    if problem is None:
        return {}
    return {"installed": False, "state": problem.code, "reason": problem.message, "hint": problem.hint or ""}


def _plugin(registry: Registry, record: PluginRecord) -> PluginView:
    manifest = record.manifest
    has = {
        spec.name
        for spec, owner in registry.pairs()
        if owner == record or (owner.state == "ok" and registry.transport_plugin(spec.transport) == record)
    }
    declared = {spec.name for spec in manifest.pairs} if manifest and record.state != "ok" else set()
    return PluginView(
        name=record.name,
        distribution=record.distribution,
        version=record.version,
        state=record.state,
        reason=record.reason,
        pairs=tuple(sorted(has | declared)),
        providers=tuple(info.name for info in manifest.providers) if manifest else (),
        transports=tuple(info.name for info in manifest.transports) if manifest else (),
    )
