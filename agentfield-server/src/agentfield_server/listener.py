"""HTTP listener: binds the socket, announces its address to `af`, explains a port that is in use."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import ssl
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
        InvalidInput: The address cannot be bound (code `cannot_listen`), or the certificate cannot be used (`bad_setting`).
    """
    tls = _tls_context(settings)
    # idle connections are closed, and handlers are cancelled when their client disconnects
    runner = web.AppRunner(
        app, keepalive_timeout=_KEEP_ALIVE, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port, ssl_context=tls)
        try:
            await site.start()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise port_in_use_error(settings.host, settings.port) from None
            raise _cannot_listen(settings, error) from None
        port = runner.addresses[0][1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        yield f"http{'' if tls is None else 's'}://{host}:{port}"
    finally:
        await runner.cleanup()


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
