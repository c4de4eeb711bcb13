"""Runtime that a transport's factory gets: its own settings, data directory and URLs, and access to its own sessions."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import SecretStr, ValidationError

from agentfield.adapterkit.redact import redact
from agentfield.errors import InvalidInput, NotFound
from agentfield.plugins import PairSpec, TransportSpec
from agentfield.realtime.caller import CallerLeg, LegEnd
from agentfield.realtime.transport import Evidence
from agentfield.settings import private_folder
from agentfield.wire.rest import StartRequest
from agentfield_server.media.convert import require_media
from agentfield_server.sessions import SessionService
from agentfield_server.sessions.start import IncomingCall
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import IdempotencyKey

__all__ = ["PluginTransportRuntime", "sanitize_evidence"]

_MAX_FACTS = 20
_MAX_FACT = 256
_MAX_KEY = 255


class PluginTransportRuntime:
    """The `agentfield.realtime.transport.TransportRuntime` of one transport.

    Args:
        info: The plugin's declaration of the transport.
        base: Returns the public URL of the transport's routes.
        home: The data directory of the control plane.
        environ: Source of the settings.
        sessions: The session service.
        store: The store.
    """

    def __init__(
        self,
        info: TransportSpec,
        *,
        base: Callable[[], str],
        home: Path,
        environ: Mapping[str, str],
        sessions: SessionService,
        store: Store,
    ) -> None:
        self._info = info
        self._base = base
        self._home = home
        self._environ = environ
        self._sessions = sessions
        self._store = store

    @property
    def logger(self) -> logging.Logger:
        """The transport's logger."""
        return logging.getLogger(f"agentfield.transport.{self._info.name}")

    @property
    def data_dir(self) -> Path:
        """The transport's own directory; created on first access."""
        folder = self._home / "transports" / self._info.name
        private_folder(folder)
        return folder

    def clock(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def setting(self, name: str) -> SecretStr | None:
        """Return a setting that the manifest names; None if it is not set.

        Raises:
            KeyError: The manifest does not name the setting.
        """
        if name not in self._info.settings:
            raise KeyError(f"the manifest of the transport {self._info.name} does not name {name} among its settings")
        value = self._environ.get(name, "")
        return SecretStr(value) if value else None

    def url(self, path: str) -> str:
        """Return the public URL of one of the transport's routes."""
        return self._base() + path

    async def start_session(
        self,
        target: str,
        *,
        evidence: Evidence,
        caller: str | None = None,
        metadata: Mapping[str, str] = MappingProxyType({}),
        idempotency_key: str | None = None,
    ) -> str:
        """Start a session over this transport, see `TransportRuntime.start_session`."""
        secrets = [self._environ.get(name, "") for name in self._info.settings]
        incoming_call = IncomingCall(self._info.name, sanitize_evidence(evidence, *secrets))
        try:
            request = StartRequest(target=target, caller=caller, metadata=dict(metadata))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise InvalidInput(f"The start request is invalid: {field}: {first['msg']}.", field=field) from None
        principal = f"transport:{self._info.name}"
        key = None if idempotency_key is None else _call_key(idempotency_key, principal, target)
        row, _ = await self._sessions.start(request, principal=principal, idempotency=key, incoming_call=incoming_call)
        return row.id

    async def carry(self, session_id: str, leg: CallerLeg) -> LegEnd:
        """Carry a caller's leg, see `TransportRuntime.carry`."""
        self._check_owned(session_id, await self._sessions.pair(session_id))
        await self._sessions.admit(session_id)
        if leg.format.name not in self._info.formats:
            raise InvalidInput(
                f"The leg's format is {leg.format.name}, which the transport {self._info.name} does not declare.",
                code="unsupported_format",
                hint=f"its manifest names: {', '.join(sorted(self._info.formats))}",
            )
        if leg.format not in self._sessions.formats(session_id):
            require_media()
        return await self._sessions.connect(session_id, leg)

    async def end_session(self, session_id: str, reason: str = "caller_hangup") -> None:
        """End a session; idempotent."""
        row = await self._store.get_session(session_id)
        if row is None or row.principal != f"transport:{self._info.name}":
            raise _not_owned_error(session_id, self._info.name)
        await self._sessions.end(session_id, redact(reason, limit=64))

    def _check_owned(self, session_id: str, pair: PairSpec) -> None:
        if pair.transport != self._info.name:
            raise _not_owned_error(session_id, self._info.name)


def sanitize_evidence(evidence: Evidence, *secrets: str) -> Evidence:
    """Return evidence that may be recorded: bounded in size, with secrets redacted.

    Raises:
        InvalidInput: The value is not evidence, or is too large (code `bad_evidence`).
    """
    # a plugin may pass any value, whatever the annotation says
    given: object = evidence
    valid = (
        isinstance(given, Evidence)
        and isinstance(given.method, str)
        and 0 < len(given.method) <= _MAX_FACT
        and isinstance(given.facts, Mapping)
        and len(given.facts) <= _MAX_FACTS
        and all(isinstance(text, str) for fact in given.facts.items() for text in fact)
    )
    if not valid:
        raise InvalidInput(
            f"Evidence is a method and at most {_MAX_FACTS} facts, all of them texts.",
            code="bad_evidence",
            hint="return agentfield.realtime.transport.Evidence(method, facts) from verify",
        )
    facts = {name[:64]: redact(text, *secrets, limit=_MAX_FACT) for name, text in evidence.facts.items()}
    return Evidence(redact(evidence.method, *secrets), MappingProxyType(facts))


def _call_key(key: str, principal: str, target: str) -> IdempotencyKey:
    """Return the idempotency key of a call. Its digest is constant: a repeated start returns the first session."""
    if not 1 <= len(key) <= _MAX_KEY:
        raise InvalidInput(f"The key of a call has 1 to {_MAX_KEY} characters.", field="idempotency_key")
    return IdempotencyKey(
        principal=principal, route="transports", target=target, key=key, body_digest=hashlib.sha256(b"").digest()
    )


def _not_owned_error(session_id: str, transport: str) -> NotFound:
    return NotFound(f"There is no session {session_id!r} of the transport {transport}.", code="unknown_session")
