"""The adapters of this process: one for a pair and a key, entered on first use, left at shutdown; and who may use which key."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pydantic import SecretStr

from agentfield.errors import InvalidInput, LimitExceeded, ProviderUnavailable, Unavailable
from agentfield.plugins import PairSpec, ProviderInfo, Registry
from agentfield.plugins.registry import load_attribute
from agentfield.realtime.provider import BridgedAdapter, ChildProcess, DirectAdapter

__all__ = ["AdapterPool", "credential_name"]

Adapter = DirectAdapter | BridgedAdapter

_ENTER_TIMEOUT = 90.0
"""Seconds that an adapter may take to get ready; the offline speech engines load within it."""


_RETRY_AFTER = 5
"""Seconds after which a caller who was refused may try again."""


def credential_name(key: str) -> str:
    """Return the name of a key, which says nothing of the key itself: it may be stored and logged; "" for none."""
    return hashlib.sha256(key.encode()).hexdigest()[:10] if key else ""


@dataclass(frozen=True, slots=True)
class _Child:
    first_line: str


@dataclass(frozen=True, slots=True)
class _Runtime:
    """What a factory is given (`agentfield.realtime.provider.AdapterRuntime`)."""

    base_url: str
    key: SecretStr | None
    logger: logging.Logger
    data_dir: Path

    def clock(self) -> float:
        return time.time()

    def child(self, argv: Sequence[str], *, ready_timeout: float = 60.0) -> AbstractAsyncContextManager[ChildProcess]:
        return _run_child(argv, ready_timeout, self.data_dir / "child.log")


@asynccontextmanager
async def _run_child(argv: Sequence[str], ready_timeout: float, log: Path) -> AsyncIterator[ChildProcess]:
    with log.open("ab") as errors:
        # a session of its own: Ctrl-C in our terminal is not for it, and it outlives a restart of this process
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    if process.stdout is None:
        raise ProviderUnavailable("A child process has no output.")
    try:
        async with asyncio.timeout(ready_timeout):
            line = await process.stdout.readline()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise ProviderUnavailable(
            f"{argv[0]} … was not ready within {ready_timeout:g} s.", code="child_not_ready", hint=f"look into {log}"
        ) from None
    except asyncio.CancelledError:
        process.kill()
        raise
    if not line:
        code = await process.wait()
        raise ProviderUnavailable(
            f"{' '.join(argv[:3])} … ended with exit code {code} before it was ready.",
            code="child_failed",
            hint=f"look into {log}",
        )
    yield _Child(line.decode(errors="replace").strip())


@dataclass(frozen=True, slots=True)
class _Seat:
    """What a session has of a provider."""

    provider: str
    credential: str


class AdapterPool:
    """Enters the adapter of a pair and a key on first use, keeps it until `close`, and shares the keys among sessions.

    A provider's key setting may hold several keys, separated by commas; sessions are spread over them.

    Args:
        registry: Where the providers' settings are declared.
        home: The folder of everything that survives a restart.
        environ: Where keys and addresses of providers are read from.
        concurrency: How many sessions one key of a provider may have at once, by the provider's name; where it says
            nothing, what the provider itself declares.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        home: Path,
        environ: Mapping[str, str] = os.environ,
        concurrency: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._registry = registry
        self._home = home
        self._environ = environ
        self._concurrency = concurrency
        self._stack = AsyncExitStack()
        self._adapters: dict[tuple[str, str], Adapter] = {}
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._seats: dict[str, _Seat] = {}
        self._closed = False

    def admit(self, pair: PairSpec, session_id: str, credential: str | None = None) -> str:
        """Give a session one of the provider's keys, the one with the fewest sessions; nothing is asked of the provider.

        Admitting a session again changes nothing.

        Args:
            pair: What the session runs over.
            session_id: The session, until `release`.
            credential: The key that the session had before a restart, by name. Its call exists at the provider already,
                so it is counted and never refused for the number of sessions.

        Returns:
            The name of the key, "" for a provider without one.

        Raises:
            LimitExceeded: Each key has as many sessions as it may have (code `provider_busy`).
            InvalidInput: The provider needs a key and none is set (code `key_missing`).
            Unavailable: The key that the session had is set no more (code `credential_gone`).
        """
        if (seat := self._seats.get(session_id)) is not None:
            return seat.credential
        provider = self._registry.provider(pair.provider)
        keys = self._keys(provider)
        if credential is None:
            credential = self._least_busy(provider, keys)
        elif credential not in keys:
            raise _credential_gone(provider)
        self._seats[session_id] = _Seat(provider.name, credential)
        return credential

    def release(self, session_id: str) -> None:
        """Take back what a session was given; of one that has nothing, nothing is taken."""
        self._seats.pop(session_id, None)

    async def get(self, pair: PairSpec, credential: str) -> Adapter:
        """Return the adapter of `pair` that uses the key which `admit` named.

        Raises:
            InvalidInput: The provider needs a key and none is set (code `key_missing`).
            ProviderUnavailable: The adapter did not get ready.
            Unavailable: The key is set no more (code `credential_gone`), or the pool is closed.
        """
        name = (pair.name, credential)
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name not in self._adapters:
                self._adapters[name] = await self._enter(pair, credential)
            return self._adapters[name]

    async def close(self) -> None:
        """Leave all adapters."""
        self._closed = True
        self._adapters.clear()
        await self._stack.aclose()

    async def _enter(self, pair: PairSpec, credential: str) -> Adapter:
        if self._closed:
            raise Unavailable("This control plane is shutting down.", hint="try again in a moment")
        runtime = self._runtime(pair, credential)
        try:
            async with asyncio.timeout(_ENTER_TIMEOUT):
                adapter: Adapter = await self._stack.enter_async_context(load_attribute(pair.factory)(runtime))
        except TimeoutError:
            raise ProviderUnavailable(
                f"The adapter of {pair.name} did not get ready within {_ENTER_TIMEOUT:g} s.",
                code="adapter_not_ready",
                hint="look into the control plane's log and try again",
            ) from None
        return adapter

    def _least_busy(self, provider: ProviderInfo, keys: Mapping[str, SecretStr | None]) -> str:
        taken = Counter(seat.credential for seat in self._seats.values() if seat.provider == provider.name)
        best = min(keys, key=lambda name: taken[name])
        limit = self._concurrency.get(provider.name, provider.concurrency)
        if limit is not None and taken[best] >= limit:
            raise _busy(provider, limit, len(keys))
        return best

    def _runtime(self, pair: PairSpec, credential: str) -> _Runtime:
        provider = self._registry.provider(pair.provider)
        keys = self._keys(provider)
        if credential not in keys:
            raise _credential_gone(provider)
        data_dir = self._home / "adapters" / pair.provider
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _Runtime(
            base_url=self._url(provider),
            key=keys[credential],
            logger=logging.getLogger(f"agentfield.adapter.{pair.provider}"),
            data_dir=data_dir,
        )

    def _url(self, provider: ProviderInfo) -> str:
        override = self._environ.get(provider.url_setting, "") if provider.url_setting else ""
        return (override or provider.default_url).rstrip("/")

    def _keys(self, provider: ProviderInfo) -> dict[str, SecretStr | None]:
        """Return the provider's keys by their names, in the order in which they are set."""
        setting = self._environ.get(provider.key_setting, "") if provider.key_setting is not None else ""
        keys = [key for part in setting.split(",") if (key := part.strip())]
        if keys:
            return {credential_name(key): SecretStr(key) for key in keys}
        if provider.key_setting is not None and provider.key_required:
            raise InvalidInput(
                f"{provider.title} needs a key and the control plane has none.",
                code="key_missing",
                hint=f"start the control plane with {provider.key_setting} set",
                provider=provider.name,
            )
        return {"": None}


def _busy(provider: ProviderInfo, limit: int, keys: int) -> LimitExceeded:
    sessions = f"{limit} session{'s' if limit > 1 else ''}"
    having = f"with its key the {sessions}" if keys == 1 else f"with each of its {keys} keys the {sessions}"
    hint = f"wait for a session to end, or set AGENTFIELD_PROVIDER_CONCURRENCY={provider.name}=N to allow more"
    if provider.key_setting is not None:
        hint += f", or put another key into {provider.key_setting}, behind a comma"
    return LimitExceeded(
        f"{provider.title} is busy: the control plane has {having} that it may have at once.",
        code="provider_busy",
        hint=hint,
        provider=provider.name,
        limit=limit,
        retry_after=_RETRY_AFTER,
    )


def _credential_gone(provider: ProviderInfo) -> Unavailable:
    return Unavailable(
        f"The session's key of {provider.title} is not among those that the control plane has now.",
        code="credential_gone",
        hint=f"start the control plane with that key in {provider.key_setting}"
        if provider.key_setting
        else "start a new session",
        provider=provider.name,
    )
