"""Supervisor of the local server: adopts a running one, or starts one that outlives it and ends when it is idle."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import SecretStr

from agentfield.adapterkit.urls import is_loopback
from agentfield.errors import AgentFieldError, ProviderUnavailable, error_from_problem
from agentfield.realtime.provider import AdapterRuntime
from agentfield_local.process.file_lock import exclusive_lock
from agentfield_openai.calls import CallsClient
from agentfield_openai.provider import RealtimeProvider

__all__ = ["LINGER_SECONDS", "STATE_FILE", "Supervisor", "local_provider"]

LINGER_SECONDS = 60.0
"""Seconds that a server runs after its last client."""
STATE_FILE = "server.json"
_READY_TIMEOUT = 75.0
_HEALTH_TIMEOUT = 2.0
_LARGEST_STATE = 64 * 1024


@dataclass(frozen=True, slots=True)
class _State:
    """Content of a state file."""

    url: str
    pid: int
    token: str


class Supervisor:
    """Finds, starts and adopts a local server.

    Args:
        runtime: Runtime services of the control plane.
        http: HTTP session, owned by the caller.
        engines: Speech engines of a started server.
        brain: Brain of a started server.
        linger: Seconds that it runs after its last client.
    """

    def __init__(
        self,
        runtime: AdapterRuntime,
        http: aiohttp.ClientSession,
        *,
        engines: str = "default",
        brain: str = "obedient",
        linger: float = LINGER_SECONDS,
    ) -> None:
        self._runtime = runtime
        self._http = http
        self._engines = engines
        self._brain = brain
        self._linger = linger
        self._children = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._state_file = runtime.data_dir / STATE_FILE

    async def ensure(self) -> RealtimeProvider:
        """Return a server that answers; start one if there is none.

        Raises:
            SpeechUnavailable: The speech engines are not installed, or do not support this system.
            ProviderUnavailable: A server was started and did not become ready.
        """
        async with self._lock:
            state = await self._running()
            if state is None:
                async with exclusive_lock(self._state_file.with_suffix(".lock")):
                    # Another pair, or another control plane with the same data directory, may have started one meanwhile.
                    state = await self._running() or await self._start()
            return local_provider(f"{state.url}/v1", state.token)

    async def find(self) -> RealtimeProvider | None:
        """Return a running server, None if there is none; start nothing."""
        async with self._lock:
            state = await self._running()
            return None if state is None else local_provider(f"{state.url}/v1", state.token)

    async def close(self) -> None:
        """Release the started servers; they end when they are idle."""
        await self._children.aclose()

    async def _running(self) -> _State | None:
        """Return the server of the state file if it is alive and accepts the token of the file."""
        state = await asyncio.to_thread(_read_state, self._state_file)
        if state is None or not _alive(state.pid) or not await self._healthy(state):
            return None
        try:
            # The hang-up of an unknown call is the cheapest authenticated request: 404 is a success here, 401 says that
            # the port belongs to another server.
            await CallsClient(local_provider(f"{state.url}/v1", state.token), self._http).hang_up("rtc_none")
        except AgentFieldError as error:
            self._runtime.logger.warning(
                "the server at %s does not accept the token of the state file: %s", state.url, error.message
            )
            return None
        return state

    async def _healthy(self, state: _State) -> bool:
        timeout = aiohttp.ClientTimeout(total=_HEALTH_TIMEOUT)
        try:
            async with self._http.get(f"{state.url}/healthz", timeout=timeout, allow_redirects=False) as response:
                return response.status == 200
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False

    async def _start(self) -> _State:
        await asyncio.to_thread(_require_speech, self._engines)
        self._runtime.logger.info("starting the local server; its speech engines load in a few seconds")
        argv = [sys.executable, "-m", "agentfield_local", "--host", "127.0.0.1", "--port", "0"]
        argv += ["--state-file", str(self._state_file), "--linger", f"{self._linger:g}"]
        argv += ["--engines", self._engines, "--brain", self._brain]
        child = await self._children.enter_async_context(self._runtime.child(argv, ready_timeout=_READY_TIMEOUT))
        ready = _parse_ready_line(child.first_line)
        state = await asyncio.to_thread(_read_state, self._state_file)
        if state is None or state.url != ready["url"] or not await self._healthy(state):
            raise ProviderUnavailable(
                "The local server said that it was ready and cannot be used.",
                code="local_server_unusable",
                hint=f"look into {self._state_file.parent}",
            )
        self._runtime.logger.info("the local server is ready at %s (pid %d)", state.url, state.pid)
        return state


def local_provider(base_url: str, token: str | None) -> RealtimeProvider:
    """Return the provider settings of a local server.

    Args:
        base_url: Its address, including `/v1`.
        token: Its key; None if it requires none.
    """
    key = SecretStr(token or "local")  # a server without a key accepts any
    return RealtimeProvider(title="The local server", base_url=base_url, key=key, url_setting="AGENTFIELD_LOCAL_URL")


def _require_speech(engines: str) -> None:
    """Raise a typed error here instead of starting a child that cannot load its engines."""
    if engines == "default":
        from agentfield_local.speech.models import locate

        locate()


def _parse_ready_line(line: str) -> dict[str, Any]:
    """Return the content of the child's ready line.

    Raises:
        AgentFieldError: The line is a problem document: the child cannot start.
        ProviderUnavailable: The line is anything else.
    """
    try:
        content = json.loads(line)
    except ValueError:
        content = None
    if isinstance(content, dict):
        if isinstance(content.get("url"), str):
            return content
        if isinstance(content.get("code"), str):
            raise error_from_problem(content)
    raise ProviderUnavailable(
        "The local server was started and did not say where it is.", code="local_server_unusable", hint="start it again"
    )


def _read_state(path: Path) -> _State | None:
    """Return the state in a file; None unless it is private to this user and names a loopback address."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or (os.name == "posix" and not _private(found)):
                return None
            data = json.loads(file.read(_LARGEST_STATE))
    except (OSError, ValueError):
        return None
    match data:
        case {"url": str(url), "pid": int(pid), "token": str(token)} if is_loopback(url) and pid > 1 and token:
            return _State(url.rstrip("/"), pid, token)
        case _:
            return None


def _private(found: os.stat_result) -> bool:
    return found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) & 0o077 == 0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # the process id was reused by another user's process
    return True
