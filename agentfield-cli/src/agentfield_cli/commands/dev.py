"""`af dev`: a control plane with the agent and the page of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentfield_cli.terminal.options import AsJson

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def dev(
    folder: Annotated[Path, typer.Argument(help="A folder with agent.py or main.py, and optionally web/.")],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 selects a free one.")] = 8080,
    data: Annotated[Path | None, typer.Option("--data", help="Data folder; default AGENTFIELD_HOME.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a control plane with the agent and the page of a folder.

    The page is the folder's web/, served at the root of the control plane. When a Python file in the folder changes,
    new calls use the new code; calls in progress finish with the old code.

    \b
    Examples:
      af dev examples/voice_dictation
      af dev . --port 0
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield.processes.event_loop import run
    from agentfield_cli.processes.serve import serve_folder
    from agentfield_cli.terminal.output import Output
    from agentfield_server.settings import read_settings

    settings = read_settings(host=host, port=port, home=data, web_dir=folder / "web")
    run(serve_folder(folder, settings, Output(as_json=as_json)))
