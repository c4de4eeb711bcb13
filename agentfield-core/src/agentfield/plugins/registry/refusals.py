"""Errors of the registry: what was requested, why it is refused, what is available, and the command that helps."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

from agentfield.errors import (
    AdapterNotInstalled,
    AmbiguousAdapter,
    CapabilityMissing,
    InvalidInput,
    PluginBroken,
    PluginError,
    PluginIncompatible,
    UnsupportedPair,
)
from agentfield.plugins.install import FIRST_PARTY_PAIRS, cli_command, install_hint
from agentfield.plugins.manifest.spec import Capabilities, Need, PairSpec, ProviderSpec, TransportSpec
from agentfield.plugins.registry.records import PluginRecord
from agentfield.plugins.wording import did_you_mean, listed

__all__: list[str] = []

_LIST = "af adapters"
"""Command that lists the available pairs."""


class PluginSource(Protocol):
    """What errors need of the registry."""

    @property
    def plugins(self) -> tuple[PluginRecord, ...]:
        """All plugins."""

    def pairs(self) -> tuple[tuple[PairSpec, PluginRecord], ...]:
        """All pairs, each with its plugin."""

    def providers(self) -> tuple[ProviderSpec, ...]:
        """All providers."""

    def transports(self) -> tuple[TransportSpec, ...]:
        """All transports."""


def _names(registry: PluginSource) -> list[str]:
    return sorted({spec.name for spec, _ in registry.pairs()})


def _not_loaded(registry: PluginSource) -> str:
    bad = [f"{r.label} ({r.state}: {r.reason})" for r in registry.plugins if r.state not in ("ok", "disabled")]
    return f" Installed but not usable: {'; '.join(bad)}." if bad else ""


def no_such_pair(registry: PluginSource, provider: str, transport: str) -> PluginError:
    """Return the error for a pair that no usable plugin declares."""
    pair = f"{provider}/{transport}"
    unusable = _unusable_plugin(registry, provider, transport)
    if unusable is not None:
        return _unusable(registry, provider, transport, unusable)
    dist = FIRST_PARTY_PAIRS.get((provider, transport))
    if dist is not None and all(record.distribution != dist for record in registry.plugins):
        return AdapterNotInstalled(
            f"{pair} needs a plugin that is not installed: {dist}. Installed pairs: {listed(_names(registry))}.",
            hint=install_hint(dist) or None,
            **_facts(registry, provider, transport),
        )
    known = {info.name for info in registry.providers()} | {name for name, _ in FIRST_PARTY_PAIRS}
    if provider not in known:
        return _no_provider(registry, provider, pair, transport)
    return _no_transport(registry, provider, transport)


def _no_provider(registry: PluginSource, provider: str, asked: str, transport: str | None) -> PluginError:
    known = {info.name for info in registry.providers()} | {name for name, _ in FIRST_PARTY_PAIRS}
    return UnsupportedPair(
        f"{asked}: no installed plugin declares provider {provider!r}.{did_you_mean(provider, known)}"
        f" Installed pairs: {listed(_names(registry))}.{_not_loaded(registry)}",
        hint=cli_command(_LIST),
        **_facts(registry, provider, transport),
    )


def _no_transport(registry: PluginSource, provider: str, transport: str) -> PluginError:
    have = {spec.transport: spec.transport for spec, _ in registry.pairs() if spec.provider == provider}
    installed = {record.distribution for record in registry.plugins}
    for (name, other), dist in FIRST_PARTY_PAIRS.items():
        if name == provider and dist not in installed:
            have.setdefault(other, f"{other} ({dist}, not installed)")
    available = f"{provider} is available over: {listed(have.values())}."
    return UnsupportedPair(
        f"{provider}/{transport} is not a declared pair. {available}{did_you_mean(transport, have)}"
        f" AgentField does not switch transports silently.{_not_loaded(registry)}",
        hint=cli_command(_LIST),
        **_facts(registry, provider, transport),
    )


def unknown_provider(registry: PluginSource, provider: str) -> PluginError:
    """Return the error for an unknown provider."""
    return _no_provider(registry, provider, provider, None)


def unknown_transport(registry: PluginSource, transport: str) -> PluginError:
    """Return the error for an unknown transport."""
    known = [info.name for info in registry.transports()]
    return UnsupportedPair(
        f"{transport}: no installed plugin declares transport {transport!r}.{did_you_mean(transport, known)}"
        f" Known transports: {listed(known)}.{_not_loaded(registry)}",
        hint=cli_command(_LIST),
        transport=transport,
        installed=_names(registry),
    )


def _unusable_plugin(registry: PluginSource, provider: str, transport: str) -> PluginRecord | None:
    """Return the unusable plugin that declares the pair, or is known to."""
    for record in registry.plugins:
        if record.state == "ok":
            continue
        if record.manifest is not None and any(
            (spec.provider, spec.transport) == (provider, transport) for spec in record.manifest.pairs
        ):
            return record
        if record.manifest is None and record.distribution == FIRST_PARTY_PAIRS.get((provider, transport)):
            return record
    return None


def _unusable(registry: PluginSource, provider: str, transport: str, record: PluginRecord) -> PluginError:
    facts = _facts(registry, provider, transport) | {"distribution": record.distribution}
    says = f"{provider}/{transport}: {record.label} is installed but"
    available = f"Installed pairs: {listed(_names(registry))}."
    reason = record.reason if record.reason.endswith(("?", ".")) else f"{record.reason}."
    match record.state:
        case "disabled":
            return AdapterNotInstalled(
                f"{says} switched off: {reason} {available}",
                code="plugin_disabled",
                hint=f"unset {'AGENTFIELD_NO_PLUGIN_AUTOLOAD' if 'AUTOLOAD' in record.reason else 'AGENTFIELD_DISABLE_PLUGINS'}",
                **facts,
            )
        case "incompatible":
            return PluginIncompatible(f"{says} incompatible: {reason} {available}", hint=_reinstall(record), **facts)
        case state:
            return PluginBroken(f"{says} {state}: {reason} {available}", hint=_reinstall(record), **facts)


def _reinstall(record: PluginRecord) -> str:
    return install_hint(record.distribution, reinstall=True) or f"repair or uninstall {record.distribution}"


def extra_missing(
    registry: PluginSource, spec: PairSpec, record: PluginRecord, extra: str | None, missing: Sequence[str]
) -> PluginError:
    """Return the error for missing modules that a plugin requires for the pair."""
    return AdapterNotInstalled(
        f"{spec.name} ({record.label}) needs modules that are not installed: {listed(missing)}."
        f" Installed pairs: {listed(_names(registry))}.",
        code="adapter_extra_missing",
        hint=install_hint(record.distribution, extra) or _with_extra(record.distribution, extra),
        modules=list(missing),
        **_facts(registry, spec.provider, spec.transport),
    )


def _with_extra(dist: str, extra: str | None) -> str:
    return f"install {dist} with its extra {extra!r}" if extra else f"install what {dist} needs"


def capability_missing(
    registry: PluginSource,
    spec: PairSpec,
    record: PluginRecord,
    unmet: Sequence[Need],
    needs: Sequence[Need],
    capabilities: Capabilities,
    model: str | None,
) -> PluginError:
    """Return the error for unmet needs; it names installed pairs that meet them.

    Args:
        registry: The plugins.
        spec: The pair.
        record: Its plugin.
        unmet: The needs that it does not meet.
        needs: All needs of the session.
        capabilities: The capabilities of the pair with the session's model.
        model: The model; None for the provider's default model.
    """
    with_model = "" if capabilities == spec.capabilities else f" with {model or 'its default model'}"
    can = sorted(
        {
            other.name
            for other, _ in registry.pairs()
            if other.name != spec.name and all(need.met_by(other.capabilities) for need in needs)
        }
    )
    reasons = "; ".join(need.refusal(capabilities) for need in unmet)
    others = f"Installed pairs that can: {listed(can)}." if can else "No other installed pair can."
    return CapabilityMissing(
        f"{spec.name} ({record.label}){with_model} cannot run this session: {reasons}. {others}",
        hint=f"declare another pair, or leave out {listed({need.because for need in unmet})}",
        missing=[need.capability for need in unmet],
        alternatives=can,
        **_facts(registry, spec.provider, spec.transport),
    )


def ambiguous_pair(registry: PluginSource, claims: Sequence[tuple[PairSpec, PluginRecord]]) -> PluginError:
    """Return the error for a pair that several plugins declare."""
    spec = claims[0][0]
    choices = " or ".join(
        f"AGENTFIELD_PREFER='{spec.name}={dist}'" for dist in sorted({r.distribution for _, r in claims})
    )
    return AmbiguousAdapter(
        f"{spec.name} is claimed by {len(claims)} plugins: {listed(record.label for _, record in claims)}."
        " AgentField will not choose for you.",
        hint=f"uninstall one, or set {choices}",
        claimed_by=sorted(record.distribution for _, record in claims),
        **_facts(registry, spec.provider, spec.transport),
    )


def ambiguous_name(registry: PluginSource, kind: str, name: str) -> PluginError:
    """Return the error for a provider or transport that several plugins declare differently."""
    by = [record for record in registry.plugins if record.state == "ok" and name in _declared_names(record)]
    return AmbiguousAdapter(
        f"{kind} {name!r} is declared differently by {len(by)} plugins: {listed(r.label for r in by)}."
        " AgentField will not choose for you.",
        hint=f"uninstall one, or set {' or '.join(f'AGENTFIELD_DISABLE_PLUGINS={r.name}' for r in by)}",
        claimed_by=sorted(record.distribution for record in by),
    )


def _declared_names(record: PluginRecord) -> set[str]:
    if record.manifest is None:
        return set()
    return {info.name for info in record.manifest.providers} | {info.name for info in record.manifest.transports}


def preferences(text: str) -> dict[str, str]:
    """Parse `AGENTFIELD_PREFER` into preferred distributions by pair.

    Raises:
        InvalidInput: It does not have the form ``pair=distribution,…``.
    """
    chosen = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        pair, equals, dist = (piece.strip() for piece in part.partition("="))
        if not equals or pair.count("/") != 1 or not dist:
            raise InvalidInput(
                f"AGENTFIELD_PREFER has {part!r}, which is not of the form provider/transport=distribution.",
                hint="AGENTFIELD_PREFER='openai/websocket=agentfield-openai'",
                field="AGENTFIELD_PREFER",
            )
        chosen[pair] = dist
    return chosen


def preferred_is_absent(registry: PluginSource, pair: str, dist: str) -> PluginError:
    """Return the error for a preferred distribution that is not installed."""
    have = {record.distribution for record in registry.plugins}
    return AdapterNotInstalled(
        f"AGENTFIELD_PREFER chooses {dist} for {pair}, and no plugin of that distribution is installed."
        f"{did_you_mean(dist, have)} Installed plugins: {listed(have)}.",
        hint=install_hint(dist) or "unset AGENTFIELD_PREFER",
        pair=pair,
        distribution=dist,
    )


def preferred_lacks_pair(pair: str, dist: str, declared: Collection[str]) -> PluginError:
    """Return the error for a preferred distribution that does not declare the pair."""
    return UnsupportedPair(
        f"AGENTFIELD_PREFER chooses {dist} for {pair}, which it does not declare. It declares: {listed(declared)}.",
        hint="unset AGENTFIELD_PREFER",
        pair=pair,
        distribution=dist,
    )


def plugins_not_ok(bad: Iterable[PluginRecord]) -> PluginError:
    """Return the error for plugins that are not ok in strict mode."""
    reasons = [f"{record.label}: {record.state}: {record.reason}" for record in bad]
    return PluginError(
        f"AGENTFIELD_PLUGINS_STRICT is set and not every plugin is ok: {'; '.join(reasons)}.",
        code="plugins_not_ok",
        hint="repair or uninstall them, or unset AGENTFIELD_PLUGINS_STRICT",
        plugins=reasons,
    )


def _facts(registry: PluginSource, provider: str, transport: str | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"provider": provider, "installed": _names(registry)}
    return facts if transport is None else facts | {"transport": transport}
