"""`af run`: runs an agent file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentfield_cli.terminal.options import AsJson, Url

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="A Python file that creates an Agent.")],
    url: Url = None,
    as_json: AsJson = False,  # noqa: ARG001 - main.run reads --json when it prints an error
) -> None:
    """Run an agent file.

    Python runs the file in this process, linked with the control plane. If the file does not call app.run() itself, the
    agent that it creates is run afterwards.

    \b
    Examples:
      af run agent.py
      af run agent.py --url http://127.0.0.1:9000
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    import os

    from agentfield.settings import discover_url
    from agentfield_cli.processes.agent_file import run_agent_file

    # without --url the agent looks the address up at each attempt, and so finds a control plane that is started later
    if url:
        os.environ["AGENTFIELD_URL"] = discover_url(url)
    run_agent_file(file)
