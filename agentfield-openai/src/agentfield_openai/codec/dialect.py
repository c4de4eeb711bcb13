"""Differences between services of the Realtime protocol, as a table that a plugin for another service fills in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["GA", "Dialect"]

_BETA_EVENTS: Mapping[str, str] = MappingProxyType(
    {
        "response.audio.delta": "response.output_audio.delta",
        "response.audio.done": "response.output_audio.done",
        "response.audio_transcript.delta": "response.output_audio_transcript.delta",
        "response.audio_transcript.done": "response.output_audio_transcript.done",
        "response.text.delta": "response.output_text.delta",
        "response.text.done": "response.output_text.done",
    }
)
"""Event names of the beta protocol, which look-alike services still send: no name has another meaning today."""


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

    def event_name(self, name: str) -> str:
        """Return OpenAI's name of a server event of this service."""
        return self.events.get(name) or _BETA_EVENTS.get(name, name)


GA = Dialect("ga")
"""OpenAI's own service, without a beta header."""
