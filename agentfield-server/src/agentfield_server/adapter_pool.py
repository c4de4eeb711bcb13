"""Adapter pool: one adapter per pair and key, entered on first use and exited at shutdown; leases of keys to sessions."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pydantic import SecretStr

from agentfield.errors import InvalidInput, LimitExceeded, ProviderUnavailable, Unavailable
from agentfield.plugins import PairSpec, ProviderSpec, Registry
from agentfield.realtime.provider import ChildProcess
from agentfield.settings import child_environment, private_folder
from agentfield_server.adapter_lifetime import Adapter, AdapterLifetime

__all__ = ["AdapterPool", "credential_name"]

_ENTER_TIMEOUT = 90.0
"""Seconds in which an adapter must enter; enough to load the offline speech engines."""


_RETRY_AFTER = 5
"""Retry-After, in seconds, of a refused session start."""


def credential_name(key: str) -> str:
    """Return the name of a key, safe to store and log: the start of its SHA-256; "" for no key."""
    return hashlib.sha256(key.encode()).hexdigest()[:10] if key else ""


@dataclass(frozen=True, slots=True)
class _Child:
    first_line: str


@dataclass(frozen=True, slots=True)
class _Runtime:
    """The argument of an adapter factory (`agentfield.realtime.provider.AdapterRuntime`)."""

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
        # a process session of its own: Ctrl-C in this terminal does not reach it, and it survives a restart of this process
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env=child_environment(),
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
            f"{argv[0]} … was not ready within {ready_timeout:g} s.", code="child_not_ready", hint=f"see {log}"
        ) from None
    except asyncio.CancelledError:
        process.kill()
        raise
    if not line:
        code = await process.wait()
        raise ProviderUnavailable(
            f"{' '.join(argv[:3])} … ended with exit code {code} before it was ready.",
            code="child_failed",
            hint=f"see {log}",
        )
    yield _Child(line.decode(errors="replace").strip())


@dataclass(frozen=True, slots=True)
class _CredentialLease:
    """The key of a provider that a session holds."""

    provider: str
    credential: str


class AdapterPool:
    """Enters the adapter of a pair and a key on first use, keeps it until `close`, and leases the keys to sessions.

    A provider's key setting may hold several keys, separated by commas; sessions are spread over them.

    Args:
        registry: The installed plugins, which declare the providers' settings.
        home: The data directory.
        environ: Source of the providers' keys and addresses.
        concurrency: Maximum concurrent sessions per key, by provider name; the provider's own declaration by default.
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
        self._lifetimes: dict[tuple[str, str], AdapterLifetime] = {}
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._leases: dict[str, _CredentialLease] = {}
        self._closed = False

    def lease_credential(self, pair: PairSpec, session_id: str, credential: str | None = None) -> str:
        """Lease the provider's key with the fewest sessions; the provider is not contacted. Idempotent per session.

        Args:
            pair: The pair of the session.
            session_id: The session, which holds the lease until `release_credential`.
            credential: Name of the key that the session had before a restart. Its call exists at the provider already,
                so it is counted but never refused by the limit.

        Returns:
            The name of the key, "" for a provider without one.

        Raises:
            LimitExceeded: Every key has reached its session limit (code `provider_busy`).
            InvalidInput: The provider needs a key and none is set (code `key_missing`).
            Unavailable: The session's earlier key is not set any more (code `credential_gone`).
        """
        if (lease := self._leases.get(session_id)) is not None:
            return lease.credential
        provider = self._registry.provider(pair.provider)
        keys = self._keys(provider)
        if credential is None:
            credential = self._least_busy(provider, keys)
        elif credential not in keys:
            raise _credential_gone_error(provider)
        self._leases[session_id] = _CredentialLease(provider.name, credential)
        return credential

    def release_credential(self, session_id: str) -> None:
        """End the lease of a session; idempotent."""
        self._leases.pop(session_id, None)

    async def get(self, pair: PairSpec, credential: str) -> Adapter:
        """Return the adapter of `pair` that uses the leased key.

        Raises:
            InvalidInput: The provider needs a key and none is set (code `key_missing`).
            ProviderUnavailable: The adapter did not enter in time (code `adapter_not_ready`).
            PluginBroken: Its factory raised, or is none; the message names the plugin.
            Unavailable: The key is not set any more (code `credential_gone`), or the pool is closed.
        """
        name = (pair.name, credential)
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name not in self._lifetimes:
                self._lifetimes[name] = await self._enter(pair, credential)
            return self._lifetimes[name].adapter

    def secrets(self, pair: PairSpec) -> list[str]:
        """Return the keys of a pair's provider."""
        setting = self._registry.provider(pair.provider).key_setting
        keys = self._environ.get(setting, "") if setting is not None else ""
        return [key for part in keys.split(",") if (key := part.strip())]

    async def close(self) -> None:
        """Exit all adapters at once; one that does not exit in time is abandoned, and named in the log."""
        self._closed = True
        lifetimes = list(self._lifetimes.values())
        self._lifetimes.clear()
        await asyncio.gather(*(lifetime.close() for lifetime in lifetimes))

    async def _enter(self, pair: PairSpec, credential: str) -> AdapterLifetime:
        if self._closed:
            raise Unavailable("This control plane is shutting down.", hint="try again in a moment")
        label = self._registry.pair_plugin(pair).label
        return await AdapterLifetime.enter(pair, label, self._runtime(pair, credential), seconds=_ENTER_TIMEOUT)

    def _least_busy(self, provider: ProviderSpec, keys: Mapping[str, SecretStr | None]) -> str:
        taken = Counter(lease.credential for lease in self._leases.values() if lease.provider == provider.name)
        best = min(keys, key=lambda name: taken[name])
        limit = self._concurrency.get(provider.name, provider.concurrency)
        if limit is not None and taken[best] >= limit:
            raise _provider_busy_error(provider, limit, len(keys))
        return best

    def _runtime(self, pair: PairSpec, credential: str) -> _Runtime:
        provider = self._registry.provider(pair.provider)
        keys = self._keys(provider)
        if credential not in keys:
            raise _credential_gone_error(provider)
        data_dir = self._home / "adapters" / pair.provider
        private_folder(data_dir)
        return _Runtime(
            base_url=self._url(provider),
            key=keys[credential],
            logger=logging.getLogger(f"agentfield.adapter.{pair.provider}"),
            data_dir=data_dir,
        )

    def _url(self, provider: ProviderSpec) -> str:
        override = self._environ.get(provider.url_setting, "") if provider.url_setting else ""
        return (override or provider.default_url).rstrip("/")

    def _keys(self, provider: ProviderSpec) -> dict[str, SecretStr | None]:
        """Return the provider's keys by name, in the order of the setting."""
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


def _provider_busy_error(provider: ProviderSpec, limit: int, keys: int) -> LimitExceeded:
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


def _credential_gone_error(provider: ProviderSpec) -> Unavailable:
    return Unavailable(
        f"The session's key of {provider.title} is not among those that the control plane has now.",
        code="credential_gone",
        hint=f"start the control plane with that key in {provider.key_setting}"
        if provider.key_setting
        else "start a new session",
        provider=provider.name,
    )
