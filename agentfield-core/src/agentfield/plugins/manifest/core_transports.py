"""The transports of agentfield-core, which need no plugin: the control plane serves them itself."""

from __future__ import annotations

from agentfield.plugins.manifest.spec import TransportSpec

__all__ = ["CORE_TRANSPORTS"]

CORE_TRANSPORTS = (
    TransportSpec(
        name="webrtc",
        client="browser",
        media="direct",
        summary="a browser or terminal talks to the provider, the control plane carries the offer and the sideband",
    ),
    TransportSpec(
        name="websocket",
        client="server",
        media="bridged",
        summary="the control plane carries the audio both ways",
        formats=frozenset({*(f"pcm16/{rate}" for rate in (8000, 16000, 24000, 48000)), "pcmu/8000", "pcma/8000"}),
        text_input=True,
        commits=True,
        dtmf=True,
    ),
    TransportSpec(
        name="audio_turns",
        client="browser",
        media="turns",
        summary="the caller posts one recorded turn and the answer streams back",
        text_input=True,
        commits=True,
    ),
)
"""All transports of agentfield-core."""
