"""Contract of a transport plugin: the protocol that it implements, and the runtime that its factory receives."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from pydantic import SecretStr

from agentfield.realtime.caller import CallerLeg, LegEnd

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["Evidence", "Transport", "TransportRuntime"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Proof that a request without an API key is authentic; recorded with the session that it starts."""

    method: str
    """The verification method, such as ``twilio-signature``."""
    facts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Verified facts, such as an account or a number: at most 20 short texts, with the transport's settings redacted."""


class Transport(Protocol):
    """A transport with its own routes.

    For every `RouteSpec` it also has the method that `handler` names, ``async (request, evidence) -> StreamResponse``;
    `evidence` is the result of `verify`, None on routes of another access. The request body is read before either is called. A
    handler may take 30 s, that of a WebSocket as long as the call; it is cancelled when its client disconnects. Exceptions
    other than `AgentFieldError` and those of the HTTP library are logged and not shown to the client.
    """

    async def verify(self, request: web.Request) -> Evidence:
        """Authenticate a request to a route whose access is `verified`, within 5 s.

        Raises:
            Forbidden: The request is not authentic; its text is shown to the client. Any other exception refuses it as well, but is a
                fault of the transport: it is logged, and the conformance kit fails.
        """


class TransportRuntime(Protocol):
    """The runtime that a transport's factory receives; the transport sees nothing else of the control plane."""

    @property
    def logger(self) -> logging.Logger:
        """The transport's logger."""

    @property
    def data_dir(self) -> Path:
        """The transport's own data folder, which survives restarts."""

    def clock(self) -> float:
        """Return seconds since the epoch."""

    def setting(self, name: str) -> SecretStr | None:
        """Return a setting that the manifest declares, None if it is not set.

        Raises:
            KeyError: The manifest does not declare the setting.
        """

    def url(self, path: str) -> str:
        """Return the public URL of a route of the transport, ``https://…`` or ``http://…``.

        Args:
            path: The path after the transport's name, such as ``/voice/desk.phone``; "" for the common prefix.
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
            evidence: Proof that the request is authentic; recorded.
            caller: The caller, such as a telephone number.
            metadata: Metadata for the handler.
            idempotency_key: Identifies the call: a second start of the target with the same key within a day returns the
                first session, ended or not, whatever its other arguments are.

        Raises:
            NotFound: No node declares the target.
            InvalidInput: The target is declared with another transport (code `declaration_mismatch`), or the evidence is
                invalid (code `bad_evidence`).
            Forbidden: A plugin refuses the session (code `session_refused`).
            AgentFieldError: The session cannot be started now; the class says why.
        """

    async def carry(self, session_id: str, leg: CallerLeg) -> LegEnd:
        """Carry a caller's leg until its input or the session ends; return the reason.

        A new leg replaces one that is carried; one that connects within ten seconds after a leg was lost continues the session.

        Raises:
            NotFound: This transport has no such session.
            InvalidInput: The leg has a format that the manifest does not declare (code `unsupported_format`).
            Unavailable: The audio must be converted, but the extra for that is not installed (code `media_extra_missing`).
            SessionEnded: The session is over.
            ProviderError: The provider refused the session.
        """

    async def end_session(self, session_id: str, reason: str = "caller_hangup") -> None:
        """End a session; idempotent.

        Raises:
            NotFound: This transport has no such session.
        """
