"""``python -m agentfield_server``: run a control plane without the `af` command."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from agentfield.errors import AgentFieldError
from agentfield.lossy import visible_text
from agentfield.processes import event_loop
from agentfield_server.app import ControlPlane, run_server
from agentfield_server.logs import configure_logs
from agentfield_server.redaction import known_secrets
from agentfield_server.settings import Settings, read_settings

__all__ = ["main"]

_EPILOG = """\
Settings are read from AGENTFIELD_* variables; docs/settings.md lists them. `af server` of agentfield-cli does the same
and has further commands. Exit codes: 0 stopped, 1 failed, 2 bad usage or refused.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM.

    Args:
        arguments: The command line without the program's name; those of this process by default.

    Returns:
        The exit code: 0 stopped, 1 failed, 2 refused.
    """
    given = _parser().parse_args(arguments)
    configure_logs(json_lines=given.json, secrets=known_secrets(os.environ))
    try:
        settings = read_settings(
            host=given.host, port=given.port, home=given.data, tls_cert=given.tls_cert, tls_key=given.tls_key
        )

        def ready(plane: ControlPlane) -> None:
            sys.stdout.write(f"{_ready_line(plane, settings) if given.json else plane.url}\n")
            sys.stdout.flush()

        event_loop.run(run_server(settings, ready=ready))
    except AgentFieldError as error:
        hint = f"hint: {error.hint}\n" if error.hint else ""
        sys.stderr.write(visible_text(f"error: {error.message}\n{hint}code: {error.code}\n"))
        return 2 if 400 <= error.status < 500 else 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agentfield_server",
        description="Run a control plane until it is stopped; print its address once it serves.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--host", help="address to listen on; default AGENTFIELD_HOST, else 127.0.0.1")
    parser.add_argument("--port", help="port, 0 selects a free one; default AGENTFIELD_PORT, else 8080")
    parser.add_argument("--data", type=Path, help="data folder; default AGENTFIELD_HOME, else ~/.agentfield")
    parser.add_argument(
        "--tls-cert", type=Path, help="PEM file of a certificate; default AGENTFIELD_TLS_CERT, else HTTP"
    )
    parser.add_argument("--tls-key", type=Path, help="PEM file of its key; default AGENTFIELD_TLS_KEY")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object with the address, and log JSON lines"
    )
    parser.add_argument("--version", action="version", version=f"agentfield-server {version('agentfield-server')}")
    return parser


def _ready_line(plane: ControlPlane, settings: Settings) -> str:
    pairs = [spec.name for spec, _ in plane.registry.pairs()]
    return json.dumps({"url": plane.url, "home": str(settings.home), "pairs": pairs})


if __name__ == "__main__":
    sys.exit(main())
