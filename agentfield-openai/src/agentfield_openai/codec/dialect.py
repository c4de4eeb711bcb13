"""How services of the protocol differ: one table, so that another plugin can declare a service that is not OpenAI's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["GA", "Dialect"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """What is particular to a service; everything left out is as in OpenAI's Realtime interface (GA)."""

    name: str
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Headers of the WebSocket's request, beside the key."""
    events: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Names of server events here, and what OpenAI calls them."""
    safety_header: str | None = "OpenAI-Safety-Identifier"
    """The header for the hash that stands for the end user; None sends none."""
    speech_path: str = "/audio/speech"
    """Where text is spoken word for word, below the base URL."""
    calls_path: str = "/realtime/calls"
    """Where a call is made from an SDP offer, below the base URL."""
    socket_path: str = "/realtime"
    """Where WebSockets are opened, below the base URL."""


GA = Dialect("ga")
"""OpenAI's own, without a beta header."""
