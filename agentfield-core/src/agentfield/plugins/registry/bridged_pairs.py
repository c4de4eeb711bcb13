"""Derived pairs: a provider's bridged pair over a bridged transport of another plugin."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from agentfield.plugins.manifest.spec import Capabilities, PairSpec, TransportSpec

__all__ = ["bridged_pair", "convertible"]

_CONVERTED = frozenset({"pcm16", "pcmu", "pcma"})
"""Codecs between which the control plane converts, at any rate (`agentfield-server[media]`)."""


def convertible(ours: Iterable[str], theirs: Iterable[str]) -> bool:
    """Return whether two sides have a common or convertible format, each such as ``pcm16/24000``."""
    ours, theirs = set(ours), set(theirs)
    if ours & theirs:
        return True
    return any(_codec(a) in _CONVERTED and _codec(b) in _CONVERTED for a in ours for b in theirs)


def bridged_pair(declared: PairSpec, transport: TransportSpec) -> PairSpec | None:
    """Derive the pair of a provider and another bridged transport, None if they do not fit together.

    The provider's capabilities and formats stay. The callers' inputs are those of the transport: telephone keys go to the
    handler past the provider. The modules that the transport requires are not part of the pair: `Registry.resolve` checks
    them for each pair of the transport.

    Args:
        declared: A bridged pair as the provider's plugin declares it.
        transport: A transport with its own caller legs.
    """
    if declared.media != "bridged" or transport.media != "bridged" or transport.factory is None:
        return None
    can = declared.capabilities
    fits = all(convertible(ours, transport.formats) for ours in (can.formats, can.output_formats or can.formats))
    if declared.transport == transport.name or not fits:
        return None
    return dataclasses.replace(
        declared,
        transport=transport.name,
        capabilities=_capabilities_over(declared.capabilities, transport),
        notes=" ".join(filter(None, (transport.notes, declared.notes))),
        bridged_from=declared.name,
    )


def _capabilities_over(can: Capabilities, transport: TransportSpec) -> Capabilities:
    detection = can.turn_detection if transport.commits else can.turn_detection - {"manual"}
    return dataclasses.replace(
        can,
        turn_detection=detection,
        text_input=can.text_input and transport.text_input,
        dtmf=transport.dtmf,
    )


def _codec(name: str) -> str:
    return name.partition("/")[0]
