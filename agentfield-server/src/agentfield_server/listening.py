"""The listening socket: bound once, its address announced to `af`, and a port in use explained."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from aiohttp import web

from agentfield.errors import Conflict
from agentfield_server.settings import Settings

__all__ = ["announced", "listen"]

_KEEP_ALIVE = 15.0
_SHUTDOWN = 5.0


@asynccontextmanager
async def listen(app: web.Application, settings: Settings) -> AsyncIterator[str]:
    """Serve `app` and yield the bound address.

    Raises:
        Conflict: The port is in use; the message says by whom where the system tells.
    """
    # slow headers and idle connections are closed; handlers learn when their client is gone
    runner = web.AppRunner(
        app, keepalive_timeout=_KEEP_ALIVE, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port)
        try:
            await site.start()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise port_in_use(settings.host, settings.port) from None
        port = runner.addresses[0][1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def port_in_use(host: str, port: int) -> Conflict:
    """Return the error for a port that somebody else listens on."""
    holder = _holder(port)
    return Conflict(
        f"Port {port} on {host} is in use{f' by {holder}' if holder else ''}.",
        code="port_in_use",
        hint=f"stop it, or take a free port: --port 0{'' if port == 0 else f' (or --port {port + 1})'}",
        port=port,
    )


def _holder(port: int) -> str | None:
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            if connection.status == psutil.CONN_LISTEN and address and address.port == port and connection.pid:
                process = psutil.Process(connection.pid)
                return f"process {connection.pid} ({(' '.join(process.cmdline()[:3]) or process.name())[:80]})"
    return None


@contextmanager
def announced(home: Path, url: str) -> Iterator[None]:
    """Write the address to ``current.json``, where `af` and nodes of this machine look for it."""
    path = home / "current.json"
    content = json.dumps({"url": url, "pid": os.getpid()})
    temporary = path.with_name(f".current.{os.getpid()}")
    temporary.write_text(content)
    temporary.chmod(0o600)
    temporary.replace(path)
    try:
        yield
    finally:
        # another control plane may have taken the place meanwhile
        with contextlib.suppress(OSError):
            if path.read_text() == content:
                path.unlink()
