"""The pair or transport under test: its spec, the plugin that declares it, and its peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from agentfield.entry_points import PEER_GROUP
from agentfield.errors import AgentFieldError
from agentfield.plugins import PairSpec, PluginRecord, ProviderSpec, Registry, TransportSpec
from agentfield.plugins.manifest.references import load_attribute
from agentfield.testing.peer import PeerFactory

__all__ = [
    "PairUnderTest",
    "TransportUnderTest",
    "caller_peer_factory",
    "find_pair",
    "find_transport",
    "provider_peer_factory",
    "suites_of",
]


@dataclass(frozen=True, slots=True)
class PairUnderTest:
    """A pair as its provider's plugin declares it."""

    spec: PairSpec
    provider: ProviderSpec
    record: PluginRecord
    """The plugin of the provider."""
    registry: Registry


@dataclass(frozen=True, slots=True)
class TransportUnderTest:
    """A transport of a plugin."""

    spec: TransportSpec
    record: PluginRecord
    """The plugin of the transport."""


def suites_of(pair: str | None) -> frozenset[str]:
    """Return the names of the suites that apply to a pair: one for each end that a plugin provides.

    Raises:
        UsageError: No pair is named, or it is not installed.
    """
    if pair is None:
        raise pytest.UsageError("agentfield.testing.conformance tests one pair: add --adapter PROVIDER/TRANSPORT")
    provider, transport = _split(pair)
    registry = Registry.discover()
    names = set()
    try:
        if provider != "*":
            registry.resolve(provider, transport)
            names.add("TestAdapter")
        if registry.transport(transport).factory is not None:
            names.add("TestTransport")
    except AgentFieldError as error:
        raise pytest.UsageError(_hooks_only(registry, {provider, transport}) or str(error)) from None
    if not names:
        raise pytest.UsageError(f"{transport} is a transport of agentfield-core; name a provider: PROVIDER/{transport}")
    return frozenset(names)


def _hooks_only(registry: Registry, names: set[str]) -> str:
    """Return why there is nothing to test, if one of the names is a plugin with hooks only; "" if none is."""
    for record in registry.plugins:
        manifest = record.manifest
        known = {record.name, record.distribution, record.distribution.removeprefix("agentfield-").replace("-", "_")}
        if manifest is not None and known & names and not (manifest.pairs or manifest.transports):
            return (
                f"{record.distribution} has hooks only, no pair and no transport, so the kit has nothing to test. Its own tests run "
                f"with `pytest` in its project, and `af plugins check {record.distribution}` checks its manifest"
            )
    return ""


def find_pair(pair: str, registry: Registry | None = None) -> PairUnderTest:
    """Return a pair; for a pair derived from two plugins, the pair that its provider declares.

    Args:
        pair: ``provider/transport``.
        registry: The plugins; by default those installed.

    Raises:
        PluginError: The pair does not exist or cannot be used; the message gives the reason.
    """
    registry = registry or Registry.discover()
    provider, transport = _split(pair)
    spec = registry.resolve(provider, transport)
    if spec.bridged_from is not None:
        spec = registry.resolve(*_split(spec.bridged_from))
    return PairUnderTest(spec, registry.provider(provider), registry.pair_plugin(spec), registry)


def find_transport(pair: str, registry: Registry | None = None) -> TransportUnderTest:
    """Return the transport of a pair.

    Raises:
        PluginError: The transport does not exist.
        UsageError: It is a transport of agentfield-core.
    """
    registry = registry or Registry.discover()
    spec = registry.transport(_split(pair)[1])
    record = registry.transport_plugin(spec.name)
    if record is None:
        raise pytest.UsageError(f"{spec.name} is a transport of agentfield-core, which no plugin brings")
    return TransportUnderTest(spec, record)


def provider_peer_factory(spec: PairSpec) -> PeerFactory:
    """Return the factory of the provider's peer.

    If there is none, fail the calling test with the lines to write.
    """
    load = _peer_loader(f"{spec.provider}.{spec.transport}") or _peer_loader(f"{spec.provider}.*")
    name = f"{spec.provider}.{spec.transport}"
    return load() if load else _fail_without_peer(spec.name, name, spec.factory, "ProviderPeer")


def caller_peer_factory(spec: TransportSpec) -> PeerFactory:
    """Return the factory of the transport's caller; fail like `provider_peer_factory`."""
    load = _peer_loader(spec.name)
    return load() if load else _fail_without_peer(f"*/{spec.name}", spec.name, spec.factory or "", "CallerPeer")


def _split(pair: str) -> tuple[str, str]:
    provider, slash, transport = pair.partition("/")
    if not (provider and slash and transport) or "/" in transport:
        raise pytest.UsageError(f"{pair!r} is no pair: write PROVIDER/TRANSPORT, such as acme/websocket")
    return provider, transport


def _peer_loader(name: str) -> Callable[[], PeerFactory] | None:
    from importlib_metadata import entry_points

    found = tuple(entry_points(group=PEER_GROUP, name=name))
    if len({entry.value for entry in found}) > 1:
        values = ", ".join(sorted(entry.value for entry in found))
        pytest.fail(f"{name} has several peers ({values}); uninstall all but one", pytrace=False)
    return (lambda: load_attribute(found[0].value)) if found else None


def _fail_without_peer(pair: str, name: str, factory: str, protocol: str) -> PeerFactory:
    package = factory.partition(":")[0].partition(".")[0] or "your_package"
    pytest.fail(
        f"{pair} has no peer to talk to. Write one (agentfield.testing.peer.{protocol}):\n\n"
        f"    # {package}/peer.py\n"
        "    @asynccontextmanager\n"
        f"    async def peer(secret: str) -> AsyncIterator[{protocol}]:\n"
        "        async with MyFake(secret) as fake:  # on 127.0.0.1, speaks the protocol, requires the secret\n"
        "            yield fake\n\n"
        "and name it in your pyproject.toml, then install your project again:\n\n"
        f'    [project.entry-points."{PEER_GROUP}"]\n'
        f'    "{name}" = "{package}.peer:peer"\n',
        pytrace=False,
    )
