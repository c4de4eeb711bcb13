"""`python -m agentfield_local`: the server as a process; it prints one JSON line when it is ready."""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentfield.errors import AgentFieldError, InvalidInput, Unavailable
from agentfield.realtime.gc_tuning import freeze_long_lived_objects
from agentfield_local.brain import BRAIN_NAMES, load_brain
from agentfield_local.faults.behaviour import Behaviour
from agentfield_local.http.tls import TlsOptions
from agentfield_local.process.state_file import new_token, read_token, remove_state, write_state
from agentfield_local.server import LocalServer
from agentfield_local.speech.engines import ENGINE_NAMES, load_engines
from agentfield_local.webrtc.options import MediaOptions, parse_ports

__all__ = ["main"]

_log = logging.getLogger("agentfield_local")
_LEVELS = ("debug", "info", "warning", "error")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped, or until there has been no client for the linger time.

    Args:
        arguments: The command line; None reads the process's own.

    Returns:
        The exit status: 0 after a clean end, 1 if the server could not start; then the only line on stdout is a
        problem document instead of the address.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=options.log.upper(), stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("aiortc").setLevel(logging.WARNING)  # debug messages contain the ICE password
    logging.getLogger("aioice").setLevel(logging.WARNING)
    try:
        asyncio.run(_serve(options))
    except AgentFieldError as error:
        _report_error(error)
        return 1
    except OSError as error:
        hint = "choose another port, or --port 0 for a free one" if error.errno == errno.EADDRINUSE else None
        text = f"the local server cannot start on {options.host}:{options.port}: {error}"
        _report_error(Unavailable(text, code="local_server_unusable", hint=hint))
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agentfield_local", description="A Realtime-compatible server with offline speech."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    parser.add_argument(
        "--engines",
        choices=ENGINE_NAMES,
        default="default",
        help="speech engines, or echo to measure media (%(default)s)",
    )
    parser.add_argument("--brain", choices=BRAIN_NAMES, default="obedient", help="what answers (%(default)s)")
    parser.add_argument(
        "--late-transcript", type=int, default=0, metavar="MS", help="delay transcripts of the caller by so many ms"
    )
    parser.add_argument("--token-file", type=Path, metavar="PATH", help="file that holds the key clients must send")
    parser.add_argument(
        "--state-file", type=Path, metavar="PATH", help="file to write pid, port, url and token to; makes a token"
    )
    parser.add_argument(
        "--linger",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="end when there was no client for so long; 0 never ends (%(default)s)",
    )
    _add_network(parser)
    parser.add_argument("--allow-origin", action="append", default=[], metavar="ORIGIN", help="web origin to serve")
    parser.add_argument("--log", choices=_LEVELS, default="warning", help="what is logged to stderr (%(default)s)")
    return parser


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--udp-ports", metavar="LOW-HIGH", help="UDP ports of calls' media; any free ones by default")
    parser.add_argument("--advertise", metavar="ADDRESS", help="IP address that callers are told for media")
    parser.add_argument(
        "--connect-seconds",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="end a call whose media does not connect in so long, as ice_failed (%(default)s)",
    )
    parser.add_argument(
        "--jitter-prefetch",
        type=int,
        default=1,
        metavar="FRAMES",
        help="frames of a caller's sound that are held back (%(default)s)",
    )
    parser.add_argument("--tls-cert", type=Path, metavar="PATH", help="PEM certificate; opens a second port with TLS")
    parser.add_argument("--tls-key", type=Path, metavar="PATH", help="PEM key of the certificate")
    parser.add_argument("--tls-port", type=int, default=0, help="port with TLS; 0 takes a free one")


def _media(options: argparse.Namespace) -> MediaOptions:
    return MediaOptions(
        connect_seconds=options.connect_seconds,
        udp_ports=None if options.udp_ports is None else parse_ports(options.udp_ports),
        advertise=options.advertise,
        jitter_prefetch=options.jitter_prefetch,
    )


def _tls(options: argparse.Namespace) -> TlsOptions | None:
    if options.tls_cert is None and options.tls_key is None:
        return None
    if options.tls_cert is None or options.tls_key is None:
        raise InvalidInput(
            "TLS needs a certificate and its key", hint="give both --tls-cert and --tls-key", field="tls_cert"
        )
    return TlsOptions(options.tls_cert, options.tls_key, options.tls_port)


async def _serve(options: argparse.Namespace) -> None:
    media, tls = _media(options), _tls(options)
    token = read_token(options.token_file) if options.token_file is not None else None
    if token is None and options.state_file is not None:
        token = new_token()
    engines = await asyncio.to_thread(load_engines, options.engines, progress=_log_progress)
    server = LocalServer(
        engines,
        load_brain(options.brain),
        behaviour=Behaviour(late_transcript_ms=options.late_transcript),
        key=token,
        host=options.host,
        port=options.port,
        origins=frozenset(options.allow_origin),
        media=media,
        tls=tls,
    )
    async with server:
        freeze_long_lived_objects()
        if options.state_file is not None:
            write_state(options.state_file, port=server.port, url=server.url, token=token)
        try:
            _print_ready_line(server)
            await _wait_for_end(server, options.linger)
        finally:
            if options.state_file is not None:
                remove_state(options.state_file)


def _print_ready_line(server: LocalServer) -> None:
    ready = {"url": server.url, "pid": os.getpid(), "port": server.port}
    if server.tls_url is not None:
        ready["tls_url"] = server.tls_url
    line = json.dumps(ready)
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _log.warning("the reader of the ready line is gone")


async def _wait_for_end(server: LocalServer, linger: float) -> None:
    """Wait for a signal, or until there has been no client for `linger` seconds."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    waits: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait())]
    if linger > 0:
        waits.append(asyncio.create_task(server.idle(linger)))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    _log.info("%s", "stopped by a signal" if stop.is_set() else f"no client for {linger:g} s")


def _log_progress(step: str, done: float) -> None:
    if done >= 1:
        _log.info("%s: done", step)


def _report_error(error: AgentFieldError) -> None:
    """Report an error: to the parent as one JSON line in place of the ready line, to a person on stderr."""
    sys.stdout.write(json.dumps(error.to_problem()) + "\n")
    sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))


if __name__ == "__main__":
    sys.exit(main())
