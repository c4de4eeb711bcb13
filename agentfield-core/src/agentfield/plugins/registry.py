"""What is installed: plugins with their states, and the one adapter for a (provider, transport) pair or the reason why not."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar

from agentfield.errors import PluginBroken
from agentfield.installed import canonical
from agentfield.plugins import refusals
from agentfield.plugins.bridging import bridged_pair
from agentfield.plugins.checks import CORE_TRANSPORTS
from agentfield.plugins.discovery import (
    PluginRecord,
    PluginState,
    check_vocabulary,
    installed_plugins,
    is_set,
    new_manager,
    read_plugins,
)
from agentfield.plugins.hooks import Implementation
from agentfield.plugins.spec import Need, PairSpec, ProviderInfo, TransportInfo

__all__ = ["PluginRecord", "PluginState", "Registry", "load_attribute"]

Info = TypeVar("Info", ProviderInfo, TransportInfo)


class Registry:
    """The plugins of one application; two registries may live side by side.

    Args:
        records: The plugins in the order in which they are listed.
        prefer: For a pair that two plugins claim (``"openai/websocket"``), the distribution that was chosen.
    """

    def __init__(
        self, records: Iterable[PluginRecord] = (), *, prefer: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._records = check_vocabulary(records)
        self._prefer = {pair: canonical(dist) for pair, dist in prefer.items()}
        manifests = [record.manifest for record in self._records if record.state == "ok" and record.manifest]
        self._providers = _by_name(info for each in manifests for info in each.providers)
        self._transports = _by_name((*CORE_TRANSPORTS, *(info for each in manifests for info in each.transports)))
        self._found: set[str] = set()
        every = self._every_row()
        self._rows = tuple(row for row in every if self._is_preferred(*row))
        self._claims: dict[tuple[str, str], list[tuple[PairSpec, PluginRecord]]] = {}
        for row in self._rows:
            self._claims.setdefault((row[0].provider, row[0].transport), []).append(row)
        for pair, dist in self._prefer.items():
            self._check_preference(pair, dist, every)

    @classmethod
    def discover(cls, env: Mapping[str, str] = os.environ) -> Registry:
        """Load what is installed.

        Args:
            env: `AGENTFIELD_DISABLE_PLUGINS`, `AGENTFIELD_NO_PLUGIN_AUTOLOAD`, `AGENTFIELD_PREFER`
                (``openai/websocket=agentfield-acme,…``) and `AGENTFIELD_PLUGINS_STRICT` are read from it.

        Raises:
            PluginError: `AGENTFIELD_PREFER` names what is not there, or a plugin is not ok and
                `AGENTFIELD_PLUGINS_STRICT` is set. Without it a bad plugin is a record with a state.
        """
        prefer = refusals.preferences(env.get("AGENTFIELD_PREFER", ""))
        registry = cls(installed_plugins(new_manager(), env), prefer=prefer)
        if is_set(env, "AGENTFIELD_PLUGINS_STRICT"):
            registry._refuse_bad_plugins()
        return registry

    @classmethod
    def of(cls, plugins: Sequence[object], *, prefer: Mapping[str, str] = MappingProxyType({})) -> Registry:
        """Return a registry of exactly these plugins, modules or objects that implement `agentfield_manifest`."""
        found = []
        for plugin in plugins:
            name = plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__name__
            base = PluginRecord(name=name, distribution=name.partition(".")[0].replace("_", "-"), state="ok")
            found.append((base, partial(_itself, plugin)))
        return cls(read_plugins(new_manager(), found), prefer=prefer)

    @property
    def plugins(self) -> tuple[PluginRecord, ...]:
        """Every plugin that was found, also those that are not ok."""
        return self._records

    def pairs(self) -> tuple[tuple[PairSpec, PluginRecord], ...]:
        """Return the rows of the matrix by name; a pair that two plugins claim has two rows unless one is preferred.

        Rows that are declared, and those in which a provider and a transport meet (`agentfield.plugins.bridging`). Each
        comes with the plugin of its provider; `carrier_of` tells whose the transport is.
        """
        return self._rows

    def carrier_of(self, transport: str) -> PluginRecord | None:
        """Return the plugin that brings a transport, None for those of agentfield-core and for unknown ones."""
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

    def implementations(self, *hooks: str) -> tuple[Implementation, ...]:
        """Return who implements hooks, by name of the plugin; the hooks of one plugin in the order asked for.

        Args:
            *hooks: Names of hooks; see `agentfield.plugins.hookspecs`.
        """
        found = [
            each for record in self._records if record.state == "ok" for each in record.hooks if each.hook in hooks
        ]
        return tuple(sorted(found, key=lambda each: (each.plugin, each.distribution, hooks.index(each.hook))))

    def providers(self) -> tuple[ProviderInfo, ...]:
        """Return the providers that are declared, by name."""
        return self._providers

    def transports(self) -> tuple[TransportInfo, ...]:
        """Return the transports that are declared, those of core among them, by name."""
        return self._transports

    def provider(self, name: str) -> ProviderInfo:
        """Return a provider.

        Raises:
            UnsupportedPair: Nothing installed declares it.
            AmbiguousAdapter: Two plugins declare it differently.
        """
        found = [info for info in self.providers() if info.name == name]
        match found:
            case [one]:
                return one
            case []:
                raise refusals.unknown_provider(self, name)
            case _:
                raise refusals.ambiguous_word(self, "provider", name)

    def transport(self, name: str) -> TransportInfo:
        """Return a transport.

        Raises:
            UnsupportedPair: Nothing installed declares it.
            AmbiguousAdapter: Two plugins declare it differently.
        """
        found = [info for info in self.transports() if info.name == name]
        match found:
            case [one]:
                return one
            case []:
                raise refusals.unknown_transport(self, name)
            case _:
                raise refusals.ambiguous_word(self, "transport", name)

    def resolve(self, provider: str, transport: str, needs: Iterable[Need] = ()) -> PairSpec:
        """Return the one adapter for a pair; nothing is inferred and nothing is switched.

        Args:
            provider: As declared.
            transport: As declared.
            needs: What the session asks of the pair, see `agentfield.plugins.matrix.needs_of`.

        Raises:
            UnsupportedPair: Nothing declares the pair.
            AdapterNotInstalled: It exists in a distribution, extra or plugin that is not installed or switched off.
            PluginBroken: What has it is installed and does not load, or says something impossible.
            PluginIncompatible: What has it was made for another version of the plugin API.
            AmbiguousAdapter: More than one plugin claims it.
            CapabilityMissing: It cannot do what the session needs.
        """
        claims = self._claims.get((provider, transport), [])
        match claims:
            case [(spec, record)]:
                self.provider(provider)
                self._check_requires(spec, record)
                unmet = tuple(need for need in needs if not need.met_by(spec.capabilities))
                if unmet:
                    raise refusals.capability_missing(self, spec, record, unmet, tuple(needs))
                return spec
            case []:
                raise refusals.no_such_pair(self, provider, transport)
            case _:
                self.transport(transport)  # one that is declared twice makes each of its rows twice
                raise refusals.ambiguous_pair(self, claims)

    def record_of(self, spec: PairSpec) -> PluginRecord:
        """Return the plugin that brought a pair.

        Raises:
            UnsupportedPair: None of this registry did.
        """
        for pair, record in self.pairs():
            if pair is spec or pair == spec:
                return record
        raise refusals.no_such_pair(self, spec.provider, spec.transport)

    def _every_row(self) -> tuple[tuple[PairSpec, PluginRecord], ...]:
        declared = [
            (pair, record)
            for record in self._records
            if record.state == "ok" and record.manifest
            for pair in record.manifest.pairs
        ]
        written = {pair.name for pair, _ in declared}
        met = [
            (made, record)
            for pair, record in declared
            for info in self._transports
            if (made := bridged_pair(pair, info)) is not None and made.name not in written
        ]
        return tuple(sorted((*declared, *met), key=lambda row: (row[0].name, row[1].distribution)))

    def _is_preferred(self, spec: PairSpec, record: PluginRecord) -> bool:
        """Tell whether no other distribution was preferred for a row, or for the declared one that it was made from."""
        chosen = self._prefer.get(spec.name) or self._prefer.get(spec.bridged_from or "")
        return chosen in (None, canonical(record.distribution))

    def _check_requires(self, spec: PairSpec, record: PluginRecord) -> None:
        """Refuse a pair whose modules, or those of its transport, are not there; each names the plugin that needs it."""
        if missing := self._absent(spec.requires):
            raise refusals.extra_missing(self, spec, record, spec.extra, missing)
        info, carrier = self.transport(spec.transport), self.carrier_of(spec.transport)
        if carrier is not None and (missing := self._absent(info.requires)):
            raise refusals.extra_missing(self, spec, carrier, info.extra, missing)

    def _absent(self, modules: Iterable[str]) -> tuple[str, ...]:
        # one that was found stays; one that was not may be installed meanwhile
        self._found.update(name for name in modules if name not in self._found and _importable(name))
        return tuple(name for name in modules if name not in self._found)

    def _check_preference(self, pair: str, dist: str, rows: Iterable[tuple[PairSpec, PluginRecord]]) -> None:
        mine = [record for record in self._records if canonical(record.distribution) == dist]
        if not mine:
            raise refusals.preferred_is_absent(self, pair, dist)
        brings = {spec.name for spec, record in rows if record in mine}
        if all(record.state == "ok" for record in mine) and pair not in brings:
            raise refusals.preferred_has_not(pair, dist, brings)

    def _refuse_bad_plugins(self) -> None:
        bad = [record for record in self._records if record.state not in ("ok", "disabled")]
        if bad:
            raise refusals.strict(bad)


def _by_name(infos: Iterable[Info]) -> tuple[Info, ...]:
    return tuple(sorted(dict.fromkeys(infos), key=lambda info: info.name))


def _itself(plugin: object) -> object:
    return plugin


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def load_attribute(reference: str) -> Any:
    """Import what ``"module:attribute"`` names.

    Raises:
        PluginBroken: The module does not import or has no such attribute.
    """
    module, _, attribute = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise PluginBroken(
            f"{reference} could not be imported: {type(error).__name__}: {error}", reference=reference
        ) from error
