"""Checks that a call leaves nothing behind: no running task, no open execution or session, the provider's key nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

import aiohttp
import apsw

from agentfield.client import ControlPlaneClient
from support.waiting import until

__all__ = ["CANARY", "RecordingClient", "no_key_in", "nothing_open", "own_tasks", "tasks_are_over"]

CANARY = "sk-canary-c0ntract-7Jq2Lw9x"
"""A provider key that must not be stored or shown anywhere."""

_OPEN = (
    "SELECT kind || ' ' || target || ': ' || status FROM executions"
    " WHERE status NOT IN ('succeeded', 'failed', 'cancelled', 'timeout')"
    " UNION ALL SELECT 'session ' || id || ': ' || state FROM sessions WHERE state <> 'ended'"
)
_OWN: ContextVar[set[asyncio.Task[Any]]] = ContextVar("own_tasks")


# --- tasks


def own_tasks() -> set[asyncio.Task[Any]]:
    """Collect the tasks that the running task, and the tasks made by it, create from now on."""
    own: set[asyncio.Task[Any]] = set()
    _OWN.set(own)
    asyncio.get_running_loop().set_task_factory(_adopt)
    return own


def _adopt(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **how: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(coroutine, loop=loop, **how)
    own = _OWN.get(None)
    if own is not None:
        own.add(task)
        task.add_done_callback(own.discard)
    return task


async def tasks_are_over(own: set[asyncio.Task[Any]], *, torn: bool = False) -> None:
    """Wait until all these tasks have ended; none is cancelled, so that a forgotten one is found.

    Args:
        own: The tasks.
        torn: Whether a WebRTC connection was torn down while it was being made: the library's own tasks then take longer to end.
    """
    await until(lambda: not [task for task in own if not (torn and _of_webrtc(task))], f"the end of {own}")


def _of_webrtc(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and any(f"/{name}/" in code.co_filename for name in ("aiortc", "aioice"))


# --- the store


def nothing_open(home: Path) -> None:
    """Check that a stopped control plane's store holds no open execution or session."""
    store = apsw.Connection(str(home / "agentfield.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        left = [row[0] for row in store.execute(_OPEN)]
        assert not left, f"{left}"
    finally:
        store.close()


def no_key_in(home: Path) -> None:
    """Check that no file of a control plane holds the provider's key."""
    files = [path for path in home.rglob("*") if path.is_file()]
    assert [path.name for path in files if CANARY.encode() in path.read_bytes()] == []


# --- responses


class RecordingClient(ControlPlaneClient):
    """A client that keeps every response that is not a stream, with its headers, errors included.

    Args:
        url: Address of the control plane.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.received = bytearray()

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        assert self._http is not None
        await self._http.close()
        trace = aiohttp.TraceConfig()
        trace.on_response_chunk_received.append(self._chunk)
        trace.on_request_end.append(self._headers)
        timeout = aiohttp.ClientTimeout(total=None)
        self._http = aiohttp.ClientSession(trust_env=False, timeout=timeout, trace_configs=[trace])
        return self

    async def _chunk(self, _session: Any, _context: Any, got: aiohttp.TraceResponseChunkReceivedParams) -> None:
        self.received += got.chunk

    async def _headers(self, _session: Any, _context: Any, got: aiohttp.TraceRequestEndParams) -> None:
        self.received += str(got.response.headers).encode()
