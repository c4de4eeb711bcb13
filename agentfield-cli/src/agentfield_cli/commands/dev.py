"""`af dev`: a control plane with the agents and the page of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentfield_cli.options import AsJson

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def dev(
    folder: Annotated[Path, typer.Argument(help="A folder with agent.py or main.py, and maybe web/.")],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port, 0 takes a free one.")] = 8080,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of what survives a restart; else AGENTFIELD_HOME.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a control plane with the agents and the page of a folder.

    The page is the folder's web/, served from the address of the control plane. When a Python file there changes, new
    calls get the new code, and calls that are under way go on with the old one.

    \b
    Examples:
      af dev examples/voice_dictation
      af dev . --port 0
    """  # noqa: D301 - \b is typer's mark of a block that keeps its lines
    from agentfield_cli.connect import run
    from agentfield_cli.output import Output
    from agentfield_cli.serving import develop, server_settings

    settings = server_settings(host=host, port=port, home=data, web_dir=folder / "web")
    run(develop(folder, settings, Output(as_json=as_json)))
