"""Finds or starts the local server: adopts one that still runs, else starts one that outlives us and ends by itself."""

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

from agentfield.adapterkit.network import is_loopback
from agentfield.errors import AgentFieldError, ProviderUnavailable, error_from_problem
from agentfield.realtime.provider import AdapterRuntime
from agentfield_local.file_lock import alone
from agentfield_openai.account import RealtimeProvider
from agentfield_openai.calls import Calls

__all__ = ["LINGER", "STATE_FILE", "Supervisor", "local_provider"]

LINGER = 60.0
"""Seconds that a server stays after its last client."""
STATE_FILE = "server.json"
_READY_TIMEOUT = 75.0
_HEALTH_TIMEOUT = 2.0
_LARGEST_STATE = 64 * 1024


@dataclass(frozen=True, slots=True)
class _State:
    """A server as its state file describes it."""

    url: str
    pid: int
    token: str


class Supervisor:
    """Keeps one local server at hand.

    Args:
        runtime: What the control plane gives to adapters.
        http: Connections, owned by the caller.
        engines: Which speech engines a started server loads.
        brain: Which brain it has.
        linger: Seconds that it stays after its last client.
    """

    def __init__(
        self,
        runtime: AdapterRuntime,
        http: aiohttp.ClientSession,
        *,
        engines: str = "default",
        brain: str = "obedient",
        linger: float = LINGER,
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
        """Return a server that answers, starting one if there is none.

        Raises:
            SpeechUnavailable: The speech engines are not installed, or not for this system.
            ProviderUnavailable: A server was started and did not get ready.
        """
        async with self._lock:
            state = await self._running()
            if state is None:
                async with alone(self._state_file.with_suffix(".lock")):
                    # another pair, or another control plane of this home, may have started one meanwhile
                    state = await self._running() or await self._start()
            return local_provider(f"{state.url}/v1", state.token)

    async def find(self) -> RealtimeProvider | None:
        """Return a server that runs, None when there is none; starts nothing."""
        async with self._lock:
            state = await self._running()
            return None if state is None else local_provider(f"{state.url}/v1", state.token)

    async def close(self) -> None:
        """Let go of the servers that were started; they end by themselves."""
        await self._children.aclose()

    async def _running(self) -> _State | None:
        """Return the server of the state file if it is alive, ours, and takes its token."""
        state = await asyncio.to_thread(_read_state, self._state_file)
        if state is None or not _alive(state.pid) or not await self._healthy(state):
            return None
        try:
            # a call that nobody has: 404 is a success, 401 says that the token is another server's
            await Calls(local_provider(f"{state.url}/v1", state.token), self._http).hang_up("rtc_none")
        except AgentFieldError as error:
            self._runtime.logger.warning("the local server at %s is not ours: %s", state.url, error.message)
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
        ready = _ready(child.first_line)
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
    """Return how to reach and name a local server.

    Args:
        base_url: Its address, `/v1` included.
        token: Its key; None where it asks for none.
    """
    key = SecretStr(token or "local")  # a server without a key takes any
    return RealtimeProvider(title="The local server", base_url=base_url, key=key, url_setting="AGENTFIELD_LOCAL_URL")


def _require_speech(engines: str) -> None:
    """Fail here, with a typed error, rather than in the child."""
    if engines == "default":
        from agentfield_local.speech.models import locate

        locate()


def _ready(line: str) -> dict[str, Any]:
    """Return what the child said when it was ready.

    Raises:
        AgentFieldError: It said why it cannot start.
        ProviderUnavailable: It said something else.
    """
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if isinstance(said, dict):
        if isinstance(said.get("url"), str):
            return said
        if isinstance(said.get("code"), str):
            raise error_from_problem(said)
    raise ProviderUnavailable(
        "The local server was started and did not say where it is.", code="local_server_unusable", hint="start it again"
    )


def _read_state(path: Path) -> _State | None:
    """Return the state in a file, None when there is none that can be trusted: ours alone, on this machine."""
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
        return False  # somebody else's process has the number now
    return True
