"""The registry of plugins: their states, and the resolution of a (provider, transport) pair to its adapter or an error."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType, ModuleType
from typing import TypeVar

from agentfield.entry_points import normalized_name
from agentfield.plugins.hooks.implementations import HookImplementation
from agentfield.plugins.manifest.choices import capabilities_of
from agentfield.plugins.manifest.core_transports import CORE_TRANSPORTS
from agentfield.plugins.manifest.spec import Manifest, Need, PairSpec, ProviderSpec, TransportSpec
from agentfield.plugins.registry import refusals
from agentfield.plugins.registry.bridged_pairs import bridged_pair
from agentfield.plugins.registry.discovery import (
    check_declared_names,
    installed_plugins,
    is_set,
    new_manager,
    read_plugins,
)
from agentfield.plugins.registry.records import PluginRecord

__all__ = ["Registry"]

Info = TypeVar("Info", ProviderSpec, TransportSpec)


class Registry:
    """The plugins of one application. Registries are independent of each other.

    Args:
        records: The plugins in the order in which they are listed.
        prefer: The preferred distribution of pairs that several plugins declare, by pair (``"openai/websocket"``).
    """

    def __init__(
        self, records: Iterable[PluginRecord] = (), *, prefer: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._records = check_declared_names(records)
        self._prefer = {pair: normalized_name(dist) for pair, dist in prefer.items()}
        manifests = [record.manifest for record in self._records if record.state == "ok" and record.manifest]
        self._providers = _by_name(info for each in manifests for info in each.providers)
        self._transports = _by_name((*CORE_TRANSPORTS, *(info for each in manifests for info in each.transports)))
        self._importable: set[str] = set()
        all_pairs = self._all_pairs()
        self._preferred_pairs = tuple(row for row in all_pairs if self._is_preferred(*row))
        self._claims: dict[tuple[str, str], list[tuple[PairSpec, PluginRecord]]] = {}
        for row in self._preferred_pairs:
            self._claims.setdefault((row[0].provider, row[0].transport), []).append(row)
        for pair, dist in self._prefer.items():
            self._check_preference(pair, dist, all_pairs)

    @classmethod
    def discover(cls, env: Mapping[str, str] = os.environ) -> Registry:
        """Load the installed plugins.

        Args:
            env: The environment; `AGENTFIELD_DISABLE_PLUGINS`, `AGENTFIELD_NO_PLUGIN_AUTOLOAD`, `AGENTFIELD_PREFER`
                (``openai/websocket=agentfield-acme,…``) and `AGENTFIELD_PLUGINS_STRICT` are read.

        Raises:
            PluginError: `AGENTFIELD_PREFER` names an absent distribution or pair, or a plugin is not ok and
                `AGENTFIELD_PLUGINS_STRICT` is set. Otherwise a bad plugin is a record with a state.
        """
        prefer = refusals.preferences(env.get("AGENTFIELD_PREFER", ""))
        registry = cls(installed_plugins(new_manager(), env), prefer=prefer)
        if is_set(env, "AGENTFIELD_PLUGINS_STRICT"):
            registry._refuse_bad_plugins()
        return registry

    @classmethod
    def of(cls, plugins: Sequence[object], *, prefer: Mapping[str, str] = MappingProxyType({})) -> Registry:
        """Return a registry of the given plugins: modules or objects that implement `agentfield_manifest`."""
        found = []
        for plugin in plugins:
            name = plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__name__
            base = PluginRecord(name=name, distribution=name.partition(".")[0].replace("_", "-"), state="ok")
            found.append((base, partial(_itself, plugin)))
        return cls(read_plugins(new_manager(), found), prefer=prefer)

    @property
    def plugins(self) -> tuple[PluginRecord, ...]:
        """All discovered plugins, including those that are not ok."""
        return self._records

    def pairs(self) -> tuple[tuple[PairSpec, PluginRecord], ...]:
        """Return all pairs by name, each with its provider's plugin; a pair of two plugins occurs twice unless one is preferred.

        These are the declared pairs and the derived ones (`agentfield.plugins.registry.bridged_pairs`). `transport_plugin`
        returns the plugin of a transport.
        """
        return self._preferred_pairs

    def transport_plugin(self, transport: str) -> PluginRecord | None:
        """Return the plugin that declares a transport, None for a core or unknown transport."""
        if transport in {info.name for info in CORE_TRANSPORTS}:
            return None
        return next(
            (
                record
                for record in self._records
                if record.state == "ok" and record.manifest
                if transport in {info.name for info in record.manifest.transports}
            ),
            None,
        )

    def implementations(self, *hooks: str) -> tuple[HookImplementation, ...]:
        """Return the implementations of hooks, by plugin name; those of one plugin in the order of `hooks`.

        Args:
            *hooks: Names of hooks, see `agentfield.plugins.hooks.hookspecs`.
        """
        found = [
            each for record in self._records if record.state == "ok" for each in record.hooks if each.hook in hooks
        ]
        return tuple(sorted(found, key=lambda each: (each.plugin, each.distribution, hooks.index(each.hook))))

    def manifest_of(self, implementation: HookImplementation) -> Manifest:
        """Return the manifest of the plugin that a hook implementation belongs to."""
        return next(record.manifest for record in self._records if record.manifest and implementation in record.hooks)

    def providers(self) -> tuple[ProviderSpec, ...]:
        """Return the declared providers by name."""
        return self._providers

    def transports(self) -> tuple[TransportSpec, ...]:
        """Return the declared and the core transports by name."""
        return self._transports

    def provider(self, name: str) -> ProviderSpec:
        """Return a provider.

        Raises:
            UnsupportedPair: No installed plugin declares it.
            AmbiguousAdapter: Two plugins declare it differently.
        """
        found = [info for info in self.providers() if info.name == name]
        match found:
            case [one]:
                return one
            case []:
                raise refusals.unknown_provider(self, name)
            case _:
                raise refusals.ambiguous_name(self, "provider", name)

    def transport(self, name: str) -> TransportSpec:
        """Return a transport.

        Raises:
            UnsupportedPair: No installed plugin declares it.
            AmbiguousAdapter: Two plugins declare it differently.
        """
        found = [info for info in self.transports() if info.name == name]
        match found:
            case [one]:
                return one
            case []:
                raise refusals.unknown_transport(self, name)
            case _:
                raise refusals.ambiguous_name(self, "transport", name)

    def resolve(
        self, provider: str, transport: str, needs: Iterable[Need] = (), *, model: str | None = None
    ) -> PairSpec:
        """Return the adapter of a pair; nothing is inferred or substituted.

        Args:
            provider: The declared provider.
            transport: The declared transport.
            needs: The needs of the session, see `agentfield.plugins.registry.session_checks.needs_of`.
            model: The model of the session; None for the provider's default model.

        Raises:
            UnsupportedPair: No plugin declares the pair.
            AdapterNotInstalled: Its distribution or extra is not installed, or its plugin is disabled.
            PluginBroken: Its plugin does not load or has an invalid manifest.
            PluginIncompatible: Its plugin was made for another version of the plugin API.
            AmbiguousAdapter: Several plugins declare it.
            CapabilityMissing: It does not meet the needs.
        """
        claims = self._claims.get((provider, transport), [])
        match claims:
            case [(spec, record)]:
                capabilities = capabilities_of(spec, self.provider(provider), model)
                self._check_requires(spec, record)
                unmet = tuple(need for need in needs if not need.met_by(capabilities))
                if unmet:
                    raise refusals.capability_missing(self, spec, record, unmet, tuple(needs), capabilities, model)
                return spec
            case []:
                raise refusals.no_such_pair(self, provider, transport)
            case _:
                self.transport(
                    transport
                )  # a transport that is declared twice duplicates each of its derived pairs: report that
                raise refusals.ambiguous_pair(self, claims)

    def pair_plugin(self, spec: PairSpec) -> PluginRecord:
        """Return the plugin that declares a pair.

        Raises:
            UnsupportedPair: The pair is not of this registry.
        """
        for pair, record in self.pairs():
            if pair is spec or pair == spec:
                return record
        raise refusals.no_such_pair(self, spec.provider, spec.transport)

    def _all_pairs(self) -> tuple[tuple[PairSpec, PluginRecord], ...]:
        declared = [
            (pair, record)
            for record in self._records
            if record.state == "ok" and record.manifest
            for pair in record.manifest.pairs
        ]
        names = {pair.name for pair, _ in declared}
        derived = [
            (made, record)
            for pair, record in declared
            for info in self._transports
            if (made := bridged_pair(pair, info)) is not None and made.name not in names
        ]
        return tuple(sorted((*declared, *derived), key=lambda row: (row[0].name, row[1].distribution)))

    def _is_preferred(self, spec: PairSpec, record: PluginRecord) -> bool:
        """Return whether no other distribution is preferred for a pair, or for the pair that it is derived from."""
        chosen = self._prefer.get(spec.name) or self._prefer.get(spec.bridged_from or "")
        return chosen in (None, normalized_name(record.distribution))

    def _check_requires(self, spec: PairSpec, record: PluginRecord) -> None:
        """Refuse a pair if modules that it or its transport requires are missing; the error names the plugin that needs them."""
        if missing := self._missing(spec.requires):
            raise refusals.extra_missing(self, spec, record, spec.extra, missing)
        transport, plugin = self.transport(spec.transport), self.transport_plugin(spec.transport)
        if plugin is not None and (missing := self._missing(transport.requires)):
            raise refusals.extra_missing(self, spec, plugin, transport.extra, missing)

    def _missing(self, modules: Iterable[str]) -> tuple[str, ...]:
        # cache only found modules: a missing one may be installed later
        self._importable.update(name for name in modules if name not in self._importable and _importable(name))
        return tuple(name for name in modules if name not in self._importable)

    def _check_preference(self, pair: str, dist: str, rows: Iterable[tuple[PairSpec, PluginRecord]]) -> None:
        candidates = [record for record in self._records if normalized_name(record.distribution) == dist]
        if not candidates:
            raise refusals.preferred_is_absent(self, pair, dist)
        declared = {spec.name for spec, record in rows if record in candidates}
        if all(record.state == "ok" for record in candidates) and pair not in declared:
            raise refusals.preferred_lacks_pair(pair, dist, declared)

    def _refuse_bad_plugins(self) -> None:
        bad = [record for record in self._records if record.state not in ("ok", "disabled")]
        if bad:
            raise refusals.plugins_not_ok(bad)


def _by_name(infos: Iterable[Info]) -> tuple[Info, ...]:
    return tuple(sorted(dict.fromkeys(infos), key=lambda info: info.name))


def _itself(plugin: object) -> object:
    return plugin


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
