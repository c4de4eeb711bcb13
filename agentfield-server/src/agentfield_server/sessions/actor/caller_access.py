"""Access of callers to their session: SDP offers, legs, event streams of pages; and resumption of a call after a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from agentfield.errors import AgentFieldError, NotFound, ProviderError, ProviderUnavailable
from agentfield.plugins.manifest.spec import PairSpec
from agentfield.realtime.caller import CallerLeg, LegEnd
from agentfield.realtime.provider import CallRef
from agentfield_server.sessions.actor.caller_attachment import CallerAttachment
from agentfield_server.sessions.actor.inbox import Inbox
from agentfield_server.sessions.actor.provider_connection import HANDLE_NAMES, ProviderConnection
from agentfield_server.sessions.conversation.inputs import (
    CallerConnected,
    CallerDisconnected,
    CallRefused,
    EndSession,
    Input,
    OfferAccepted,
)
from agentfield_server.sessions.conversation.state import MachineState
from agentfield_server.sessions.media_entry import is_retryable

__all__ = ["RETURN_WAIT", "CallerAccess"]

_log = logging.getLogger("agentfield.sessions")

RETURN_WAIT = 10.0
"""Seconds that a restarted session of recorded turns waits for its caller, so that no reply is spoken to no listener."""


class CallerAccess:
    """Opens the session's call at the provider for a caller, and reports the caller's presence to the machine.

    Args:
        connection: The connection to the provider.
        attachment: Counts the legs of bridged callers.
        pair: The provider/transport pair of the session.
        session_id: The session.
        state: The machine's state; tells whether the session is over.
        inbox: Takes inputs of the machine.
        credential: Name of the leased key; stored in the call reference.
        feed: Feeds the machine; called inside the session's task only.
    """

    def __init__(
        self,
        connection: ProviderConnection,
        attachment: CallerAttachment,
        pair: PairSpec,
        session_id: str,
        state: MachineState,
        inbox: Inbox,
        *,
        credential: str,
        feed: Callable[[Input], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._attachment = attachment
        self._pair = pair
        self._session_id = session_id
        self._state = state
        self._inbox = inbox
        self._credential = credential
        self._feed = feed
        self._connect_lock = asyncio.Lock()
        self._leg_attached = asyncio.Event()
        """Set once a leg has attached."""
        self._open_streams = 0

    async def offer(self, sdp: str) -> str:
        """Create a call from an SDP offer, attach to it, and return the SDP answer; an earlier call is ended.

        Raises:
            SessionEnded: The session is over.
            ProviderError: The provider refused.
            ProviderUnavailable: The provider did not answer in time, or the sideband could not be attached.
        """
        async with self._connect_lock:
            if self._state.over:
                raise self._state.ended_error()
            try:
                answer, found = await self._connection.negotiate(sdp)
                ref = {**found, "credential": self._credential}
                # committed before the sideband is attached: a crash in between leaves a call that recovery can find
                await self._inbox.ask(lambda: self._adopt_call(ref))
                await self._connection.attach(ref)
            except (ProviderError, NotFound) as error:
                self._report_refusal(error)
                raise
            # the session may have ended while the sideband was being attached
            if self._state.over or self._inbox.closed:
                await self._connection.hang_up()
                raise self._state.ended_error()
            return answer

    async def connect(self, leg: CallerLeg) -> LegEnd:
        """Carry the leg of a caller until it ends; open the provider's session first if none is open.

        Returns:
            Why the leg ended.

        Raises:
            SessionEnded: The session is over.
            ProviderError: The provider refused.
            ProviderUnavailable: The provider did not answer in time.
        """
        async with self._connect_lock:
            if self._state.over:
                raise self._state.ended_error()
            if not self._connection.bridged:
                await self._open(leg)
            self._attachment.leg_attached()
            self._leg_attached.set()
        try:
            return await self._connection.carry(leg)
        finally:
            self._attachment.leg_detached()

    async def resume(self) -> None:
        """Resume the call of an earlier control plane process, or end the session."""
        ref = self._connection.ref
        try:
            match self._pair.media, self._pair.capabilities.resumption:
                case "direct", "attach" if ref is not None:
                    await self._connection.attach(ref)
                case "bridged", "replay" | "handle" | "stateless":
                    # the caller's connection ended with the earlier process: the reconnecting leg opens the session
                    return
                case "turns", "replay" | "handle" | "stateless" if ref is not None:
                    await self._wait_for_caller()
                    async with self._connect_lock:
                        if not (self._connection.bridged or self._state.over):
                            await self._connection.open(ref)
                case _:
                    raise ProviderUnavailable("the provider cannot resume this call")
        except (AgentFieldError, OSError) as error:
            _log.warning("session %s could not be resumed: %s", self._session_id, error)
            detail = "the control plane was restarted and the call could not be resumed"
            self._inbox.tell(EndSession(reason="control_plane_restart", detail=detail))

    def event_stream_opened(self) -> None:
        """Count an opened event stream of the caller's page; except on bridged media, the streams are the caller's presence."""
        self._open_streams += 1
        if self._open_streams == 1 and self._pair.media != "bridged":
            self._inbox.tell(CallerConnected())

    def event_stream_closed(self) -> None:
        """Count a closed event stream of the caller's page."""
        self._open_streams -= 1
        if self._open_streams == 0 and self._pair.media != "bridged":
            self._inbox.tell(CallerDisconnected())

    # --- inside

    async def _wait_for_caller(self) -> None:
        """Wait for a leg, for `RETURN_WAIT` seconds at most: a reply before that would reach no listener."""
        with suppress(TimeoutError):
            async with asyncio.timeout(RETURN_WAIT):
                await self._leg_attached.wait()

    async def _adopt_call(self, ref: CallRef) -> None:
        """Commit the reference to a new call and end the previous call."""
        if self._state.over:
            await self._connection.end(ref)
            raise self._state.ended_error()
        before = self._connection.ref
        await self._connection.detach()
        self._connection.ref = ref
        await self._feed(OfferAccepted())
        if before is not None and before != ref:
            await self._connection.end(before)

    async def _open(self, leg: CallerLeg) -> None:
        # the provider's handle of the conversation outlives its sessions, and this process
        handle = {name: value for name, value in (self._connection.ref or {}).items() if name in HANDLE_NAMES}
        ref = {**handle, "credential": self._credential}
        await self._inbox.ask(lambda: self._adopt_call(ref))
        try:
            await self._connection.open(ref, leg.format)
        except AgentFieldError as error:
            self._report_refusal(error)
            raise
        if self._state.over or self._inbox.closed:
            await self._connection.hang_up()
            raise self._state.ended_error()

    def _report_refusal(self, error: AgentFieldError) -> None:
        """Report a refused call; a bad offer (status 400, or none) is not final, because the caller may send another one."""
        better = self._pair.media == "direct" and error.data.get("provider_status") in (None, 400)
        code = str(error.data.get("provider_code") or error.code)
        self._inbox.tell(CallRefused(code=code, message=error.message, final=not better and not is_retryable(error)))
