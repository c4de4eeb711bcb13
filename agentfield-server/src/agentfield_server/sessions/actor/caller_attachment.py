"""Callers attached through a bridge: presence, typed text, hangup; and rotation of the provider's session under them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agentfield.errors import AgentFieldError, ProviderUnavailable
from agentfield.plugins.manifest.spec import PairSpec
from agentfield.realtime.caller import CallerBegin, CallerGone, CallerInput, CallerText
from agentfield_server.sessions.actor.provider_connection import ProviderConnection
from agentfield_server.sessions.conversation.inputs import (
    CallerBegan,
    CallerConnected,
    CallerDisconnected,
    EndSession,
    Input,
    ProviderFailed,
    Rotated,
    TextInput,
)

__all__ = ["CallerAttachment"]

_log = logging.getLogger("agentfield.sessions")


class CallerAttachment:
    """Reports the caller's legs to the machine and rotates the provider's session under them.

    Args:
        connection: The connection to the provider.
        pair: The provider/transport pair. On bridged media a leg is the sign of the caller's presence.
        tell: Enqueues an input of the machine; never waits.
    """

    def __init__(self, connection: ProviderConnection, pair: PairSpec, *, tell: Callable[[Input], None]) -> None:
        self._connection = connection
        self._pair = pair
        self._tell = tell
        self._legs = 0
        self._rotation: asyncio.Task[None] | None = None

    def leg_attached(self) -> None:
        """Count a leg that has connected."""
        self._legs += 1
        if self._pair.media == "bridged":
            self._tell(CallerConnected())

    def leg_detached(self) -> None:
        """Count a leg that has disconnected; the caller may reconnect with another one."""
        self._legs -= 1
        if not self._legs and self._pair.media == "bridged":
            self._tell(CallerDisconnected())

    def on_caller_input(self, received: CallerInput) -> None:
        """Report typed text, the begin of a turn or a hangup; a lost connection is reported by `leg_detached` instead."""
        match received:
            case CallerText() if self._pair.capabilities.text_input:
                self._tell(TextInput(received.text))
            case CallerBegin():
                self._tell(CallerBegan())
            case CallerGone() if received.hung_up:
                self._tell(EndSession(reason="caller_hangup", detail=received.why or None))

    async def rotate(self) -> None:
        """Start to replace the provider's session; an earlier rotation that is still running is cancelled."""
        await self.close()
        self._rotation = asyncio.create_task(self._rotate(), name="rotation of a session")

    async def close(self) -> None:
        """Cancel a running rotation; idempotent."""
        task, self._rotation = self._rotation, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _rotate(self) -> None:
        try:
            await self._connection.rotate(lambda known: self._tell(Rotated(known)))
        except AgentFieldError as error:
            self._tell(ProviderFailed(error.message, retry=isinstance(error, ProviderUnavailable)))
        except Exception as error:  # noqa: BLE001 - a fault of the adapter must end this call, and no other
            _log.exception("the adapter of a session failed")
            self._tell(ProviderFailed(f"the adapter failed: {type(error).__name__}"))
