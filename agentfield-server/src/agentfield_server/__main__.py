"""``python -m agentfield_server``: run a control plane configured by the environment."""

from __future__ import annotations

import asyncio
import os
import sys

from agentfield.errors import AgentFieldError
from agentfield_server.app import ControlPlane, run_server
from agentfield_server.logs import configure_logs
from agentfield_server.redaction import known_secrets
from agentfield_server.settings import Settings


def main() -> int:
    """Run until SIGINT or SIGTERM; return the exit code."""
    configure_logs(secrets=known_secrets(os.environ))

    def ready(plane: ControlPlane) -> None:
        sys.stdout.write(f"{plane.url}\n")
        sys.stdout.flush()

    try:
        asyncio.run(run_server(Settings(), ready=ready))
    except AgentFieldError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
