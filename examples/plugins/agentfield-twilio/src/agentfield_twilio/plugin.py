"""The manifest: the transport `twilio` and its routes. It must import nothing heavy."""

from __future__ import annotations

from agentfield.plugins import Manifest, RouteSpec, TransportSpec, hookimpl

__all__ = ["agentfield_manifest"]

API = (2, 2)
"""Version of the plugin API that this plugin is written for."""


@hookimpl
def agentfield_manifest() -> Manifest:
    """Return the transport."""
    return Manifest(
        api=API,
        transports=(
            TransportSpec(
                name="twilio",
                client="server",
                media="bridged",
                summary="telephone calls over Twilio Media Streams",
                factory="agentfield_twilio.routes:twilio",
                routes=(
                    RouteSpec(
                        method="POST",
                        path="/voice/{target}",
                        handler="voice",
                        access="verified",
                        summary="Answer an incoming call (voice webhook)",
                        max_body=16 * 1024,
                    ),
                    RouteSpec(
                        method="GET",
                        path="/media",
                        handler="media",
                        access="verified",
                        summary="The audio of a call (Twilio Media Streams)",
                        socket=True,
                        at_once=1000,
                    ),
                ),
                formats=frozenset({"pcmu/8000"}),
                dtmf=True,
                settings=("TWILIO_AUTH_TOKEN",),
                notes="Twilio needs to reach AGENTFIELD_PUBLIC_URL over https, and signs with TWILIO_AUTH_TOKEN.",
            ),
        ),
    )
