"""How callers get to their session: by an offer, by a leg, by a page that listens; and how a call is taken up again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from agentfield.errors import AgentFieldError, NotFound, ProviderError, ProviderUnavailable
from agentfield.plugins.spec import PairSpec
from agentfield.realtime.caller import CallerLeg
from agentfield.realtime.player import LineEnd
from agentfield.realtime.provider import CallRef
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.board import Board
from agentfield_server.sessions.callline import CallLine
from agentfield_server.sessions.carriage import Carriage
from agentfield_server.sessions.inbox import Inbox
from agentfield_server.sessions.ways import may_be_cured

__all__ = ["COME_BACK", "Callers"]

_log = logging.getLogger("agentfield.sessions")

COME_BACK = 10.0
"""Seconds that callers of recorded turns have after a restart to come back, before anything is said to nobody."""


class Callers:
    """Makes the call of a session at its provider when a caller comes, and knows whether one is there.

    Args:
        call: The line to the provider.
        carriage: Knows of the callers whose audio passes through us.
        pair: The row of the matrix that carries the session.
        session_id: The session.
        board: Says whether the session is over.
        inbox: Takes what the machine is told.
        credential: Name of the key that the session uses; kept with what is stored of its call.
        feed: Feeds the machine, from inside of the task of the session.
    """

    def __init__(
        self,
        call: CallLine,
        carriage: Carriage,
        pair: PairSpec,
        session_id: str,
        board: Board,
        inbox: Inbox,
        *,
        credential: str,
        feed: Callable[[i.Input], Awaitable[None]],
    ) -> None:
        self._call = call
        self._carriage = carriage
        self._pair = pair
        self._session_id = session_id
        self._board = board
        self._inbox = inbox
        self._credential = credential
        self._feed = feed
        self._offering = asyncio.Lock()
        self._came = asyncio.Event()
        """Set when a caller's leg was there."""
        self._pages = 0

    async def offer(self, sdp: str) -> str:
        """Create a call from an offer, attach to it, and return the answer; an earlier call is ended.

        Raises:
            SessionEnded: The session is over.
            ProviderError: The provider refused.
            ProviderUnavailable: It did not answer in time, or the sideband could not be attached.
        """
        async with self._offering:
            if self._board.over:
                raise self._board.ended_error()
            try:
                answer, found = await self._call.negotiate(sdp)
                ref = {**found, "credential": self._credential}
                await self._inbox.ask(lambda: self._new_call(ref))
                await self._call.attach(ref)
            except (ProviderError, NotFound) as error:
                self._refused(error)
                raise
            if self._board.over or self._inbox.closed:
                await self._call.hang_up()
                raise self._board.ended_error()
            return answer

    async def connect(self, leg: CallerLeg) -> LineEnd:
        """Carry the leg of a caller; opens the provider's session when there is none.

        Returns:
            Why the leg is not carried any more, as soon as it is not.

        Raises:
            SessionEnded: The session is over.
            ProviderError: The provider refused.
            ProviderUnavailable: It did not answer in time.
        """
        async with self._offering:
            if self._board.over:
                raise self._board.ended_error()
            if not self._call.bridged:
                await self._open(leg)
            self._carriage.arrived()
            self._came.set()
        try:
            return await self._call.carry(leg)
        finally:
            self._carriage.left()

    async def resume(self) -> None:
        """Take up the call that an earlier control plane had made, or end the session."""
        ref = self._call.ref
        try:
            match self._pair.media, self._pair.capabilities.resumption:
                case "direct", "attach" if ref is not None:
                    await self._call.attach(ref)
                case "bridged", "replay" | "stateless":
                    # the caller's connection went with the earlier control plane: whoever comes back opens the call
                    return
                case "turns", "replay" | "stateless" if ref is not None:
                    await self._until_back()
                    async with self._offering:
                        if not (self._call.bridged or self._board.over):
                            await self._call.open(ref)
                case _:
                    raise ProviderUnavailable("the call cannot be attached to again")
        except (AgentFieldError, OSError) as error:
            _log.warning("session %s could not be resumed: %s", self._session_id, error)
            detail = "the control plane was restarted and the call could not be taken up again"
            self._inbox.tell(i.EndSession(reason="control_plane_restart", detail=detail))

    def page_opened(self) -> None:
        """A stream of the caller's page was opened; where the audio passes through us, that tells who is there."""
        self._pages += 1
        if self._pages == 1 and self._pair.media != "bridged":
            self._inbox.tell(i.CallerPresent())

    def page_closed(self) -> None:
        """A stream of the caller's page was closed."""
        self._pages -= 1
        if self._pages == 0 and self._pair.media != "bridged":
            self._inbox.tell(i.CallerGone())

    # --- inside

    async def _until_back(self) -> None:
        """Wait a moment for a caller: what a turn is answered before anybody has come back would be heard by nobody."""
        with suppress(TimeoutError):
            async with asyncio.timeout(COME_BACK):
                await self._came.wait()

    async def _new_call(self, ref: CallRef) -> None:
        """Commit how to find a new call; the one before it is ended."""
        if self._board.over:
            await self._call.end(ref)
            raise self._board.ended_error()
        before = self._call.ref
        await self._call.let_go()
        self._call.ref = ref
        await self._feed(i.OfferAccepted())
        if before is not None and before != ref:
            await self._call.end(before)

    async def _open(self, leg: CallerLeg) -> None:
        ref = {"credential": self._credential}
        await self._inbox.ask(lambda: self._new_call(ref))
        try:
            await self._call.open(ref, leg.format)
        except AgentFieldError as error:
            self._refused(error)
            raise
        if self._board.over or self._inbox.closed:
            await self._call.hang_up()
            raise self._board.ended_error()

    def _refused(self, error: AgentFieldError) -> None:
        """Tell the machine; of an offer that was no good, the caller may send a better one."""
        better = self._pair.media == "direct" and error.data.get("provider_status") in (None, 400)
        code = str(error.data.get("provider_code") or error.code)
        self._inbox.tell(i.CallRefused(code=code, message=error.message, final=not better and not may_be_cured(error)))
