"""A caller whose audio passes through us, as its session sees it: there or away, typing or hanging up; and rotation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agentfield.errors import AgentFieldError, ProviderUnavailable
from agentfield.plugins.spec import PairSpec
from agentfield.realtime.caller import CallerGone, CallerInput, CallerText
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.callline import CallLine

__all__ = ["Carriage"]

_log = logging.getLogger("agentfield.sessions")


class Carriage:
    """Tells the machine of the caller's legs, and replaces the provider's session under them.

    Args:
        call: The line to the provider.
        pair: Says what the caller can do, and whether its connection is what tells that it is there.
        tell: Takes inputs of the machine; never waits.
    """

    def __init__(self, call: CallLine, pair: PairSpec, *, tell: Callable[[i.Input], None]) -> None:
        self._call = call
        self._pair = pair
        self._tell = tell
        self._legs = 0
        self._rotating: asyncio.Task[None] | None = None

    def arrived(self) -> None:
        """A leg is there."""
        self._legs += 1
        if self._pair.media == "bridged":
            self._tell(i.CallerPresent())

    def left(self) -> None:
        """A leg is not there any more; the caller may come back with another one."""
        self._legs -= 1
        if not self._legs and self._pair.media == "bridged":
            self._tell(i.CallerGone())

    def hear(self, heard: CallerInput) -> None:
        """The caller typed or hung up; a connection that broke is known from the leg's end."""
        match heard:
            case CallerText() if self._pair.capabilities.text_input:
                self._tell(i.TextInput(heard.text))
            case CallerGone() if heard.hung_up:
                self._tell(i.EndSession(reason="caller_hangup", detail=heard.why or None))

    async def rotate(self) -> None:
        """Begin to open another session at the provider; one that was begun before is given up."""
        await self.close()
        self._rotating = asyncio.create_task(self._rotate(), name="rotation of a session")

    async def close(self) -> None:
        """Give up a rotation that is under way; idempotent."""
        task, self._rotating = self._rotating, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _rotate(self) -> None:
        try:
            await self._call.rotate(lambda: self._tell(i.Rotated()))
        except AgentFieldError as error:
            self._tell(i.ProviderFailed(error.message, retry=isinstance(error, ProviderUnavailable)))
        except Exception as error:  # noqa: BLE001 - an adapter's fault must end this call, and only this one
            _log.exception("the adapter of a session failed")
            self._tell(i.ProviderFailed(f"the adapter failed: {type(error).__name__}"))
