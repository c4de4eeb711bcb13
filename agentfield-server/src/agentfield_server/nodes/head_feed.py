"""Signed heads of sessions for the nodes that handle them, with proofs that each continues the one before."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from agentfield.errors import NodeNotConnected
from agentfield.wire.frames import SessionEventFrame
from agentfield_server.nodes.hub import LinkHub
from agentfield_server.nodes.linked_node import LinkedNode

__all__ = ["HeadFeed"]

_log = logging.getLogger("agentfield.nodes")

_MAX_SESSIONS = 10_000


class HeadFeed:
    """Sends the heads of a session to the instances that handle it or have handled it.

    Args:
        hub: The linked nodes.
    """

    def __init__(self, hub: LinkHub) -> None:
        self._hub = hub
        self._instances: OrderedDict[str, set[str]] = OrderedDict()
        """Instances by session: the last head comes when the handler has been released."""

    def send(self, session_id: str, event: Mapping[str, Any]) -> None:
        """Send a head, an event `log.head`."""
        known = self._instances.setdefault(session_id, set())
        for link in self._hub.links():
            if session_id in link.sessions or session_id in link.pinned_sessions:
                known.add(link.instance_id)
        for instance_id in known:
            instance = self._hub.instance(instance_id)
            if instance is not None and instance.ended is None:
                instance.start_task(_send(instance, SessionEventFrame(session_id=session_id, event=dict(event))))
        if event["head"]["final"]:
            del self._instances[session_id]
        elif len(self._instances) > _MAX_SESSIONS:
            self._instances.popitem(last=False)


async def _send(link: LinkedNode, frame: SessionEventFrame) -> None:
    try:
        await link.send(frame)
    except NodeNotConnected:
        _log.debug("a head of %s was not sent: its link is closed", frame.session_id)
