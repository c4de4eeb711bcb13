"""`af server`: runs a control plane."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def server(
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; default AGENTFIELD_HOST.")] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help="Port; 0 selects a free one; default AGENTFIELD_PORT."),
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Data folder; default AGENTFIELD_HOME.")] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option("--tls-cert", help="PEM file of a certificate: HTTPS is served; default AGENTFIELD_TLS_CERT."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", help="PEM file of its key; default AGENTFIELD_TLS_KEY.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Log one JSON object per line; the first one holds the address.")
    ] = False,
) -> None:
    """Run a control plane.

    Runs until stopped. Without AGENTFIELD_API_KEY only this machine may connect.

    \b
    Examples:
      af server
      af server --port 0 --data ./data
      AGENTFIELD_API_KEY=... OPENAI_API_KEY=... af server --host 0.0.0.0 \\
        --tls-cert cert.pem --tls-key key.pem
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    import json
    import os

    from agentfield.processes.event_loop import run
    from agentfield_server.app import ControlPlane, run_server
    from agentfield_server.logs import configure_logs
    from agentfield_server.redaction import known_secrets
    from agentfield_server.settings import read_settings

    settings = read_settings(host=host, port=port, home=data, tls_cert=tls_cert, tls_key=tls_key)
    configure_logs(json_lines=as_json, secrets=known_secrets(os.environ))

    def ready(plane: ControlPlane) -> None:
        pairs = ", ".join(spec.name for spec, _ in plane.registry.pairs()) or "none"
        if as_json:
            typer.echo(json.dumps({"url": plane.url, "home": str(settings.home), "pairs": pairs.split(", ")}))
        else:
            typer.echo(f"control plane  {plane.url}\ndata           {settings.home}\npairs          {pairs}")

    run(run_server(settings, ready=ready))
