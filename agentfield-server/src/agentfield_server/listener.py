"""HTTP listener: binds the socket, announces its address to `af`, explains a port that is in use."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import cast

from aiohttp import web

from agentfield.errors import Conflict, InvalidInput
from agentfield_server.access.attempts import ClientAddresses
from agentfield_server.settings import Settings

__all__ = ["announce_address", "listen"]

_KEEP_ALIVE = 15.0
_SHUTDOWN = 5.0
_HANDSHAKE = 10.0
MAX_CONNECTIONS = 8000
"""Most open connections; fewer where the process may not open so many files."""
MAX_OF_ADDRESS = 1000
"""Most open connections of an address that is no trusted proxy's; of IPv6, of its network of 64 bits."""
_OTHER_FILES = 128
"""Descriptors that are kept for files, providers and webhooks."""
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def listen(
    app: web.Application, settings: Settings, *, protocol: type[web.RequestHandler] = web.RequestHandler
) -> AsyncIterator[str]:
    """Serve `app` and yield the bound URL.

    Args:
        app: The application.
        settings: The address, the certificate and the trusted proxies.
        protocol: Serves the requests of a connection.

    Raises:
        Conflict: The port is in use (code `port_in_use`); the message names the process if the system reveals it.
        InvalidInput: The address cannot be bound (code `cannot_listen`), or the certificate cannot be used (`bad_setting`).
    """
    tls = _tls_context(settings)
    # handlers are cancelled when their client disconnects
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=_SHUTDOWN)
    await runner.setup()
    try:
        server = await _serve(runner, settings, tls, protocol)
        try:
            port = server.sockets[0].getsockname()[1]
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            yield f"http{'' if tls is None else 's'}://{host}:{port}"
        finally:
            server.close()
    finally:
        await runner.cleanup()


async def _serve(
    runner: web.AppRunner, settings: Settings, tls: ssl.SSLContext | None, protocol: type[web.RequestHandler]
) -> asyncio.Server:
    places = _Places(ClientAddresses(settings.trusted_proxies))
    handshake = None if tls is None else _HANDSHAKE
    loop = asyncio.get_running_loop()
    server = cast("web.Server", runner.server)

    def make() -> asyncio.Protocol:
        # idle connections, and those that do not finish their headers, are closed
        return protocol(server, loop=loop, keepalive_timeout=_KEEP_ALIVE, access_log=None)  # type: ignore[arg-type]

    try:
        return await loop.create_server(
            lambda: _Entrance(places, make), settings.host, settings.port, ssl=tls, ssl_handshake_timeout=handshake
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise port_in_use_error(settings.host, settings.port) from None
        raise _cannot_listen(settings, error) from None


class _Places:
    """Open connections, of all and by address."""

    def __init__(self, addresses: ClientAddresses) -> None:
        self._addresses = addresses
        self._open: dict[asyncio.BaseTransport, str] = {}
        self._by_address: Counter[str] = Counter()
        self._most = min(MAX_CONNECTIONS, _descriptors() - _OTHER_FILES)

    def take(self, transport: asyncio.BaseTransport) -> bool:
        """Count a connection; return False if there is no place for it."""
        peer = transport.get_extra_info("peername")
        address = self._addresses.of_peer(str(peer[0])) if isinstance(peer, tuple) else ""
        if len(self._open) >= self._most or self._by_address[address] >= MAX_OF_ADDRESS:
            self._forget_closed()
        if len(self._open) >= self._most or (address and self._by_address[address] >= MAX_OF_ADDRESS):
            return False
        self._open[transport] = address
        self._by_address[address] += 1
        return True

    def _forget_closed(self) -> None:
        for transport in [each for each in self._open if each.is_closing()]:
            self._by_address[self._open.pop(transport)] -= 1


class _Entrance(asyncio.Protocol):
    """The protocol of a new connection: it hands over to the one of HTTP, or refuses."""

    def __init__(self, places: _Places, make: Callable[[], asyncio.Protocol]) -> None:
        self._places = places
        self._make = make

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, or answer 503."""
        there = cast("asyncio.Transport", transport)
        if not self._places.take(there):
            there.write(_BUSY)
            there.close()
            return
        protocol = self._make()
        there.set_protocol(protocol)
        protocol.connection_made(there)


def _descriptors() -> int:
    """Return how many files this process may open; on Windows there is no such limit."""
    if sys.platform == "win32":
        return MAX_CONNECTIONS + _OTHER_FILES
    import resource

    return max(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 2 * _OTHER_FILES)


def _tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the context of HTTPS; None without a certificate.

    Raises:
        InvalidInput: A file cannot be used, or one belongs to a certificate that is not set (code `bad_setting`).
    """
    if settings.tls_cert is None:
        for name in ("tls_key", "tls_client_ca"):
            if getattr(settings, name) is not None:
                raise _bad_tls(name, "it belongs to a certificate, and none is set", "set AGENTFIELD_TLS_CERT as well")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # a password, which would be asked for on a terminal, is none
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=lambda: "")
    except (OSError, ValueError) as error:
        key = settings.tls_key
        files = str(settings.tls_cert) if key is None else f"{settings.tls_cert} and {key}"
        why = f"{files} cannot be used ({_tls_reason(error)})"
        raise _bad_tls("tls_cert", why, "give PEM files: the certificate with its chain, and its key") from None
    if settings.tls_client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except (OSError, ValueError) as error:
            why = f"{settings.tls_client_ca} cannot be used ({_tls_reason(error)})"
            raise _bad_tls("tls_client_ca", why, "give a PEM file with certificates of authorities") from None
    return context


def _bad_tls(setting: str, why: str, hint: str) -> InvalidInput:
    return InvalidInput(f"The setting {setting} is invalid: {why}.", code="bad_setting", hint=hint, field=setting)


def _tls_reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no PEM file").lower().replace("_", " ")
    return (getattr(error, "strerror", None) or type(error).__name__).lower()


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
