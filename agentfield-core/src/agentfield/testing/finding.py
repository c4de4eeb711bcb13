"""Finds what is to be tested: the row of the matrix, the plugin that it comes from, and its peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from agentfield.errors import AgentFieldError
from agentfield.plugins import PairSpec, PluginRecord, ProviderInfo, Registry, TransportInfo
from agentfield.plugins.registry import load_attribute
from agentfield.testing.peer import GROUP, PeerFactory

__all__ = ["Row", "carried_by", "find_row", "peer_of", "suites_of", "transport_peer_of"]


@dataclass(frozen=True, slots=True)
class Row:
    """A pair as its provider's plugin declares it."""

    spec: PairSpec
    provider: ProviderInfo
    record: PluginRecord
    registry: Registry


def suites_of(pair: str | None) -> frozenset[str]:
    """Return the names of the suites of the conformance module that a pair has: one for each end that a plugin brings.

    Raises:
        UsageError: No pair is named, or none of that name is installed.
    """
    if pair is None:
        raise pytest.UsageError("agentfield.testing.conformance tests one pair: add --adapter PROVIDER/TRANSPORT")
    provider, transport = _parts(pair)
    registry = Registry.discover()
    names = set()
    try:
        if provider != "*":
            registry.resolve(provider, transport)
            names.add("TestAdapter")
        if registry.transport(transport).factory is not None:
            names.add("TestTransport")
    except AgentFieldError as error:
        raise pytest.UsageError(str(error)) from None
    if not names:
        raise pytest.UsageError(f"{transport} is a transport of agentfield-core; name a provider: PROVIDER/{transport}")
    return frozenset(names)


def find_row(pair: str, registry: Registry | None = None) -> Row:
    """Return the row of a pair; for one that was made of two plugins', the row that its provider declares.

    Args:
        pair: ``provider/transport``.
        registry: Where to look; what is installed when left out.

    Raises:
        PluginError: There is no such pair, or it cannot be used; the text says why.
    """
    registry = registry or Registry.discover()
    provider, transport = _parts(pair)
    spec = registry.resolve(provider, transport)
    if spec.bridged_from is not None:
        spec = registry.resolve(*_parts(spec.bridged_from))
    return Row(spec, registry.provider(provider), registry.record_of(spec), registry)


def carried_by(pair: str, registry: Registry | None = None) -> tuple[TransportInfo, PluginRecord]:
    """Return the transport of a pair and the plugin that brings it.

    Raises:
        PluginError: There is no such transport, or it is one of agentfield-core.
    """
    registry = registry or Registry.discover()
    info = registry.transport(_parts(pair)[1])
    record = registry.carrier_of(info.name)
    if record is None:
        raise pytest.UsageError(f"{info.name} is a transport of agentfield-core, which no plugin brings")
    return info, record


def peer_of(spec: PairSpec) -> PeerFactory:
    """Return the peer of a pair's provider.

    Fails the test that asks when there is none, with what to write.
    """
    found = _entry(f"{spec.provider}.{spec.transport}") or _entry(f"{spec.provider}.*")
    return found() if found else _missing(spec.name, f"{spec.provider}.{spec.transport}", spec.factory, "ProviderPeer")


def transport_peer_of(info: TransportInfo) -> PeerFactory:
    """Return the peer of a transport: its caller. Fails as `peer_of` does."""
    found = _entry(info.name)
    return found() if found else _missing(f"*/{info.name}", info.name, info.factory or "", "CallerPeer")


def _parts(pair: str) -> tuple[str, str]:
    provider, slash, transport = pair.partition("/")
    if not (provider and slash and transport) or "/" in transport:
        raise pytest.UsageError(f"{pair!r} is no pair: write PROVIDER/TRANSPORT, such as acme/websocket")
    return provider, transport


def _entry(name: str) -> Callable[[], PeerFactory] | None:
    from importlib_metadata import entry_points

    found = tuple(entry_points(group=GROUP, name=name))
    if len({entry.value for entry in found}) > 1:
        values = ", ".join(sorted(entry.value for entry in found))
        pytest.fail(f"{name} has several peers ({values}); uninstall all but one", pytrace=False)
    return (lambda: load_attribute(found[0].value)) if found else None


def _missing(pair: str, name: str, factory: str, protocol: str) -> PeerFactory:
    package = factory.partition(":")[0].partition(".")[0] or "your_package"
    pytest.fail(
        f"{pair} has no peer, so there is nobody to talk to. Write one (agentfield.testing.peer.{protocol}):\n\n"
        f"    # {package}/peer.py\n"
        "    @asynccontextmanager\n"
        f"    async def peer(secret: str) -> AsyncIterator[{protocol}]:\n"
        "        async with MyFake(secret) as fake:  # on 127.0.0.1, speaks the protocol, insists on the secret\n"
        "            yield fake\n\n"
        "and name it in your pyproject.toml, then install your project again:\n\n"
        f'    [project.entry-points."{GROUP}"]\n'
        f'    "{name}" = "{package}.peer:peer"\n',
        pytrace=False,
    )
