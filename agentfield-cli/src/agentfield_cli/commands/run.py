"""`af run`: an agent file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentfield_cli.options import AsJson, Url

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="A Python file that makes an Agent.")],
    url: Url = None,
    as_json: AsJson = False,  # noqa: ARG001 - errors are printed by the top of the command
) -> None:
    """Run an agent file.

    It runs as Python would run it, linked with the control plane. The file may end in app.run(); where it does not, the agent that it makes is run.

    \b
    Examples:
      af run agent.py
      af run agent.py --url http://127.0.0.1:9000
    """  # noqa: D301 - \b is typer's mark of a block that keeps its lines
    import os

    from agentfield.settings import discover_url
    from agentfield_cli.agentfile import run_agent_file

    if url:  # otherwise the agent looks again each time, and finds a control plane that is started later
        os.environ["AGENTFIELD_URL"] = discover_url(url)
    run_agent_file(file)
