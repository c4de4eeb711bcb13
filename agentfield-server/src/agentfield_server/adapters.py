"""The adapters of this process: each is entered on first use, with its own settings, and left at shutdown."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from agentfield.errors import InvalidInput, ProviderUnavailable
from agentfield.plugins import PairSpec, ProviderInfo, Registry
from agentfield.plugins.registry import load_attribute
from agentfield.realtime.provider import ChildProcess, DirectAdapter

__all__ = ["AdapterPool"]

_ENTER_TIMEOUT = 90.0
"""Seconds that an adapter may take to get ready; the offline speech engines load within it."""


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


class AdapterPool:
    """Enters the adapter of a pair on first use and keeps it until `close`.

    Args:
        registry: Where the providers' settings are declared.
        home: The folder of everything that survives a restart.
        environ: Where keys and addresses of providers are read from.
    """

    def __init__(self, registry: Registry, *, home: Path, environ: Mapping[str, str] = os.environ) -> None:
        self._registry = registry
        self._home = home
        self._environ = environ
        self._stack = AsyncExitStack()
        self._adapters: dict[str, DirectAdapter] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def get(self, pair: PairSpec) -> DirectAdapter:
        """Return the adapter of `pair`.

        Raises:
            InvalidInput: The provider needs a key and none is set (code `key_missing`).
            ProviderUnavailable: The adapter did not get ready.
        """
        lock = self._locks.setdefault(pair.name, asyncio.Lock())
        async with lock:
            if pair.name not in self._adapters:
                async with asyncio.timeout(_ENTER_TIMEOUT):
                    self._adapters[pair.name] = await self._stack.enter_async_context(
                        load_attribute(pair.factory)(self._runtime(pair))
                    )
            return self._adapters[pair.name]

    async def close(self) -> None:
        """Leave all adapters."""
        self._adapters.clear()
        await self._stack.aclose()

    def _runtime(self, pair: PairSpec) -> _Runtime:
        provider = self._registry.provider(pair.provider)
        data_dir = self._home / "adapters" / pair.provider
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _Runtime(
            base_url=self._url(provider),
            key=self._key(provider),
            logger=logging.getLogger(f"agentfield.adapter.{pair.provider}"),
            data_dir=data_dir,
        )

    def _url(self, provider: ProviderInfo) -> str:
        override = self._environ.get(provider.url_setting, "") if provider.url_setting else ""
        return (override or provider.default_url).rstrip("/")

    def _key(self, provider: ProviderInfo) -> SecretStr | None:
        if provider.key_setting is None:
            return None
        value = self._environ.get(provider.key_setting, "")
        if not value and not provider.key_required:
            return None
        if not value:
            raise InvalidInput(
                f"{provider.title} needs a key and the control plane has none.",
                code="key_missing",
                hint=f"start the control plane with {provider.key_setting} set",
                provider=provider.name,
            )
        return SecretStr(value)
