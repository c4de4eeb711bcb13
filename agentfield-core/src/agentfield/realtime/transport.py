"""The caller's side as a plugin: what a transport must do, and what it is given."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from pydantic import SecretStr

from agentfield.realtime.caller import CallerLeg
from agentfield.realtime.player import LineEnd

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["Evidence", "Transport", "TransportRuntime"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a request of somebody without a key of ours is to be believed; recorded with the session that it starts."""

    method: str
    """How it was verified, such as ``twilio-signature``."""
    facts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What is known by it: an account, a number; at most 20 short texts, from which the transport's settings are taken out."""


class Transport(Protocol):
    """A transport that serves routes of its own.

    For every `RouteInfo` it also has the method that `handler` names, ``async (request, evidence) -> StreamResponse``;
    `evidence` is what `verify` returned, None on routes of another access. The body of a request was read before either is
    called. A handler has 30 s, one of a WebSocket as long as the call lasts; it is cancelled when its client goes away.
    What it raises that is not an `AgentFieldError` or of its HTTP library is told to nobody but the log.
    """

    async def verify(self, request: web.Request) -> Evidence:
        """Find out who asks, on a route whose access is `verified`; within 5 s.

        Raises:
            Forbidden: It is not shown, with what is told of it; any other exception is a refusal as well.
        """


class TransportRuntime(Protocol):
    """What a transport's factory is given; nothing else of the control plane reaches it."""

    @property
    def logger(self) -> logging.Logger:
        """Where to report."""

    @property
    def data_dir(self) -> Path:
        """A folder of the transport's own that survives restarts."""

    def clock(self) -> float:
        """Return seconds since the epoch."""

    def setting(self, name: str) -> SecretStr | None:
        """Return a setting that the manifest names, None where it is not set.

        Raises:
            KeyError: The manifest does not name it.
        """

    def url(self, path: str) -> str:
        """Return the address of one of its routes as the world outside sees it, ``https://…`` or ``http://…``.

        Args:
            path: What follows the name of the transport, such as ``/voice/desk.phone``; "" for where all of them are.
        """

    async def start_session(
        self,
        target: str,
        *,
        evidence: Evidence,
        caller: str | None = None,
        metadata: Mapping[str, str] = MappingProxyType({}),
        idempotency_key: str | None = None,
    ) -> str:
        """Start a session over this transport and return its id.

        Args:
            target: ``node.session``; it must be declared with this transport.
            evidence: Why it may be started; recorded.
            caller: Who calls, such as a number.
            metadata: What the handler is told.
            idempotency_key: A name of the call: within a day a second start of the target with it returns the first
                session, over or not, whatever else it says.

        Raises:
            NotFound: Nobody declares the target.
            InvalidInput: It is declared with another transport (code `declaration_mismatch`), or the evidence is none
                (code `bad_evidence`).
            Forbidden: A plugin does not let it start (code `session_refused`).
            AgentFieldError: It may not be started now; the class says why.
        """

    async def carry(self, session_id: str, leg: CallerLeg) -> LineEnd:
        """Carry a caller's leg until its input is over or the session has ended; return why.

        A leg that comes while another one is carried takes over; one that comes within ten seconds after a leg was lost
        goes on with the session.

        Raises:
            NotFound: There is no such session of this transport.
            InvalidInput: The leg speaks a format that the manifest does not name (code `unsupported_format`).
            Unavailable: The audio would have to be converted and nothing here can (code `media_extra_missing`).
            SessionEnded: It is over.
            ProviderError: The provider refused the session.
        """

    async def end_session(self, session_id: str, reason: str = "caller_hangup") -> None:
        """End a session; ending twice is ending once.

        Raises:
            NotFound: There is no such session of this transport.
        """
