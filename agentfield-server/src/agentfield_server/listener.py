"""HTTP listener: binds the socket, announces its address to `af`, explains a port that is in use."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from aiohttp import web

from agentfield.errors import Conflict, InvalidInput
from agentfield_server.settings import Settings

__all__ = ["announce_address", "listen"]

_KEEP_ALIVE = 15.0
_SHUTDOWN = 5.0


@asynccontextmanager
async def listen(app: web.Application, settings: Settings) -> AsyncIterator[str]:
    """Serve `app` and yield the bound URL.

    Raises:
        Conflict: The port is in use (code `port_in_use`); the message names the process if the system reveals it.
        InvalidInput: The address cannot be bound (code `cannot_listen`).
    """
    # idle connections are closed, and handlers are cancelled when their client disconnects
    runner = web.AppRunner(
        app, keepalive_timeout=_KEEP_ALIVE, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port)
        try:
            await site.start()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise port_in_use_error(settings.host, settings.port) from None
            raise _cannot_listen(settings, error) from None
        port = runner.addresses[0][1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def port_in_use_error(host: str, port: int) -> Conflict:
    """Return the error for a port that another process listens on."""
    owner = _port_owner(port)
    return Conflict(
        f"Port {port} on {host} is in use{f' by {owner}' if owner else ''}.",
        code="port_in_use",
        hint=f"stop it, or take a free port: --port 0{'' if port == 0 else f' (or --port {port + 1})'}",
        port=port,
    )


def _cannot_listen(settings: Settings, error: OSError) -> InvalidInput:
    port = error.errno in (errno.EACCES, errno.EPERM)
    return InvalidInput(
        f"The control plane cannot listen on {settings.host} port {settings.port}: {_reason(error)}.",
        code="cannot_listen",
        hint="use --port with a number above 1023"
        if port
        else "use --host 127.0.0.1, or another address of this machine",
        field="port" if port else "host",
    )


def _reason(error: OSError) -> str:
    """Return the system's words for an error; asyncio puts a sentence with the address around them."""
    if isinstance(error, socket.gaierror) or error.errno is None or error.errno < 0:
        return "no address has this name"
    return os.strerror(error.errno).lower()


def _port_owner(port: int) -> str | None:
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            if connection.status == psutil.CONN_LISTEN and address and address.port == port and connection.pid:
                process = psutil.Process(connection.pid)
                return f"process {connection.pid} ({(' '.join(process.cmdline()[:3]) or process.name())[:80]})"
    return None


@contextmanager
def announce_address(home: Path, url: str) -> Iterator[None]:
    """Write the URL to ``current.json`` while the context is entered; `af` and nodes on this machine read it there."""
    path = home / "current.json"
    content = json.dumps({"url": url, "pid": os.getpid()})
    temporary = path.with_name(f".current.{os.getpid()}")
    temporary.write_text(content)
    temporary.chmod(0o600)
    temporary.replace(path)
    try:
        yield
    finally:
        # another control plane may have written its own address meanwhile
        with contextlib.suppress(OSError):
            if path.read_text() == content:
                path.unlink()
