"""The Realtime protocol without I/O: commands become client events, server events become neutral events."""

from __future__ import annotations

from agentfield_openai.codec.codec import Codec

__all__ = ["Codec"]
