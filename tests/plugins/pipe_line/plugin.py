"""The manifest; `deaf` is the same transport with faults."""

from __future__ import annotations

import dataclasses

from agentfield.plugins import Manifest, RouteSpec, TransportSpec, hookimpl

_PIPE = TransportSpec(
    name="pipe",
    client="server",
    media="bridged",
    summary="a pipe",
    factory="pipe_line.transport:pipe",
    routes=(
        RouteSpec(
            method="GET",
            path="/{target}/talk",
            handler="talk",
            access="verified",
            summary="Talk through a pipe",
            socket=True,
        ),
    ),
    formats=frozenset({"pcm16/8000"}),
    text_input=True,
    commits=True,
    dtmf=True,
    settings=("PIPE_SECRET",),
)


@hookimpl
def agentfield_manifest() -> Manifest:
    deaf = dataclasses.replace(_PIPE, name="deaf", factory="pipe_line.transport:deaf")
    return Manifest(api=(2, 0), transports=(_PIPE, deaf))
