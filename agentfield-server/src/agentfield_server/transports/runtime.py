"""What a transport's factory is given: its own settings, folder and address, and sessions that are its own."""

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
from agentfield.plugins import PairSpec, TransportInfo
from agentfield.realtime.caller import CallerLeg
from agentfield.realtime.player import LineEnd
from agentfield.realtime.transport import Evidence
from agentfield.wire.rest import StartRequest
from agentfield_server.media.convert import require_media
from agentfield_server.sessions import Sessions
from agentfield_server.sessions.starting import Arrival
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import IdempotencyKey

__all__ = ["Runtime", "sound_evidence"]

_MAX_FACTS = 20
_MAX_FACT = 256
_MAX_KEY = 255


class Runtime:
    """The `agentfield.realtime.transport.TransportRuntime` of one transport.

    Args:
        info: What the plugin declares.
        base: Returns the address of the transport's routes as the world sees it.
        home: The folder of everything that survives a restart.
        environ: Where settings are read from.
        sessions: The live calls.
        store: What is kept of all.
    """

    def __init__(
        self,
        info: TransportInfo,
        *,
        base: Callable[[], str],
        home: Path,
        environ: Mapping[str, str],
        sessions: Sessions,
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
        """Where to report."""
        return logging.getLogger(f"agentfield.transport.{self._info.name}")

    @property
    def data_dir(self) -> Path:
        """A folder of the transport's own; made when it is asked for."""
        folder = self._home / "transports" / self._info.name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def clock(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def setting(self, name: str) -> SecretStr | None:
        """Return a setting that the manifest names, None where it is not set.

        Raises:
            KeyError: The manifest does not name it.
        """
        if name not in self._info.settings:
            raise KeyError(f"the manifest of the transport {self._info.name} does not name {name} among its settings")
        value = self._environ.get(name, "")
        return SecretStr(value) if value else None

    def url(self, path: str) -> str:
        """Return the address of one of the transport's routes as the world outside sees it."""
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
        arrival = Arrival(self._info.name, sound_evidence(evidence, *secrets))
        try:
            request = StartRequest(target=target, caller=caller, metadata=dict(metadata))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise InvalidInput(f"The start does not fit: {field}: {first['msg']}.", field=field) from None
        principal = f"transport:{self._info.name}"
        key = None if idempotency_key is None else _named(idempotency_key, principal, target)
        row, _ = await self._sessions.start(request, principal=principal, idempotency=key, arrival=arrival)
        return row.id

    async def carry(self, session_id: str, leg: CallerLeg) -> LineEnd:
        """Carry a caller's leg, see `TransportRuntime.carry`."""
        self._mine(session_id, await self._sessions.pair(session_id))
        if leg.format.name not in self._info.formats:
            raise InvalidInput(
                f"The leg speaks {leg.format.name}, which the transport {self._info.name} does not declare.",
                code="unsupported_format",
                hint=f"its manifest names: {', '.join(sorted(self._info.formats))}",
            )
        if leg.format not in self._sessions.formats(session_id):
            require_media()
        return await self._sessions.connect(session_id, leg)

    async def end_session(self, session_id: str, reason: str = "caller_hangup") -> None:
        """End a session; ending twice is ending once."""
        row = await self._store.get_session(session_id)
        if row is None or row.principal != f"transport:{self._info.name}":
            raise _not_mine(session_id, self._info.name)
        await self._sessions.end(session_id, redact(reason, limit=64))

    def _mine(self, session_id: str, pair: PairSpec) -> None:
        if pair.transport != self._info.name:
            raise _not_mine(session_id, self._info.name)


def sound_evidence(evidence: Evidence, *secrets: str) -> Evidence:
    """Return evidence as it may be recorded: short texts, and none of the secrets.

    Raises:
        InvalidInput: It is no evidence, or too much of it (code `bad_evidence`).
    """
    # a plugin may give anything, whatever the types say
    given: object = evidence
    sound = (
        isinstance(given, Evidence)
        and isinstance(given.method, str)
        and 0 < len(given.method) <= _MAX_FACT
        and isinstance(given.facts, Mapping)
        and len(given.facts) <= _MAX_FACTS
        and all(isinstance(text, str) for fact in given.facts.items() for text in fact)
    )
    if not sound:
        raise InvalidInput(
            f"Evidence is a method and at most {_MAX_FACTS} facts, all of them texts.",
            code="bad_evidence",
            hint="return agentfield.realtime.transport.Evidence(method, facts) from verify",
        )
    facts = {name[:64]: redact(text, *secrets, limit=_MAX_FACT) for name, text in evidence.facts.items()}
    return Evidence(redact(evidence.method, *secrets), MappingProxyType(facts))


def _named(key: str, principal: str, target: str) -> IdempotencyKey:
    """Return the key of a call: the first session is returned whatever else the second start says."""
    if not 1 <= len(key) <= _MAX_KEY:
        raise InvalidInput(f"The key of a call has 1 to {_MAX_KEY} characters.", field="idempotency_key")
    return IdempotencyKey(
        principal=principal, route="transports", target=target, key=key, body_digest=hashlib.sha256(b"").digest()
    )


def _not_mine(session_id: str, transport: str) -> NotFound:
    return NotFound(f"There is no session {session_id!r} of the transport {transport}.", code="unknown_session")
