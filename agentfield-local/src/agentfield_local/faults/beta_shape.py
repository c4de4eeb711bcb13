"""The beta protocol as look-alike services still speak it: names of events, and the flat shape of a session."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["BETA_NAMES", "beta_session"]

BETA_NAMES: Mapping[str, str] = MappingProxyType(
    {
        f"response.output_{output}.{step}": f"response.{output}.{step}"
        for output in ("audio", "audio_transcript", "text")
        for step in ("delta", "done")
    }
)
"""Event names of the beta protocol by those of today."""


def beta_session(session: Mapping[str, Any]) -> dict[str, Any]:
    """Return a session in the flat shape of the beta protocol."""
    audio = session["audio"]
    kept = ("object", "id", "model", "expires_at", "instructions", "tools", "tool_choice")
    return {
        **{name: session[name] for name in kept},
        "modalities": ["audio", "text"],
        "voice": audio["output"]["voice"],
        "input_audio_format": "pcm16",
        "output_audio_format": "pcm16",
        "turn_detection": audio["input"]["turn_detection"],
    }
