"""Differences between services of the Realtime protocol, as a table that a plugin for another service fills in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["GA", "Dialect"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """Differences of a service; the defaults are OpenAI's Realtime interface (GA)."""

    name: str
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Headers of the WebSocket request besides the key."""
    events: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """OpenAI's event names by the names of this service."""
    safety_header: str | None = "OpenAI-Safety-Identifier"
    """Header for the hash of the end user's identity; None sends none."""
    speech_path: str = "/audio/speech"
    """Path of the speech endpoint below the base URL."""
    calls_path: str = "/realtime/calls"
    """Path below the base URL where an SDP offer creates a call."""
    socket_path: str = "/realtime"
    """Path of the WebSocket below the base URL."""


GA = Dialect("ga")
"""OpenAI's own service, without a beta header."""
