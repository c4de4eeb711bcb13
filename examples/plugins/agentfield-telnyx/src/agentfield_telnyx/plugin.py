"""The manifest: the transport `telnyx` and its routes. It must import nothing heavy."""

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
                name="telnyx",
                client="server",
                media="bridged",
                summary="telephone calls over Telnyx media streaming",
                factory="agentfield_telnyx.routes:telnyx",
                routes=(
                    RouteSpec(
                        method="POST",
                        path="/voice/{target}",
                        handler="voice",
                        access="verified",
                        summary="The events of calls (webhook of a Voice API application)",
                        max_body=64 * 1024,
                    ),
                    RouteSpec(
                        method="GET",
                        path="/media/{target}",
                        handler="media",
                        access="verified",
                        summary="The audio of a call (Telnyx media streaming)",
                        socket=True,
                        at_once=1000,
                    ),
                ),
                formats=frozenset({"pcmu/8000"}),
                dtmf=True,
                settings=("TELNYX_API_KEY", "TELNYX_PUBLIC_KEY", "TELNYX_API_URL"),
                notes="Telnyx needs to reach AGENTFIELD_PUBLIC_URL over https; calls are answered with TELNYX_API_KEY.",
            ),
        ),
    )
