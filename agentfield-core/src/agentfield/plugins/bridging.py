"""Rows of the matrix that nobody declared as such: a provider and a transport, each of which declares a bridged medium, meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from agentfield.plugins.spec import Capabilities, PairSpec, TransportInfo

__all__ = ["bridged_pair", "convertible"]

_CONVERTED = frozenset({"pcm16", "pcmu", "pcma"})
"""Codecs between which the control plane converts, at any rate (`agentfield-server[media]`)."""


def convertible(ours: Iterable[str], theirs: Iterable[str]) -> bool:
    """Tell whether audio can get from one side to the other, formats as in ``pcm16/24000``."""
    ours, theirs = set(ours), set(theirs)
    if ours & theirs:
        return True
    return any(_codec(a) in _CONVERTED and _codec(b) in _CONVERTED for a in ours for b in theirs)


def bridged_pair(declared: PairSpec, transport: TransportInfo) -> PairSpec | None:
    """Return the row of a provider over another bridged transport than the one it names, None where they do not meet.

    What the provider can do stays, its formats too; what callers can do is as the transport declares it: keys of a
    telephone go to the handler past the provider. What the transport requires is looked for wherever a row names it
    (`Registry.resolve`), made or declared, and is no part of the row.

    Args:
        declared: A bridged pair as the provider's plugin declares it.
        transport: A transport that brings legs of its own.
    """
    if declared.media != "bridged" or transport.media != "bridged" or transport.factory is None:
        return None
    if declared.transport == transport.name or not convertible(declared.capabilities.formats, transport.formats):
        return None
    return dataclasses.replace(
        declared,
        transport=transport.name,
        capabilities=_over(declared.capabilities, transport),
        notes=" ".join(filter(None, (transport.notes, declared.notes))),
        bridged_from=declared.name,
    )


def _over(can: Capabilities, transport: TransportInfo) -> Capabilities:
    detection = can.turn_detection if transport.commits else can.turn_detection - {"manual"}
    return dataclasses.replace(
        can,
        turn_detection=detection,
        text_input=can.text_input and transport.text_input,
        dtmf=transport.dtmf,
    )


def _codec(name: str) -> str:
    return name.partition("/")[0]
