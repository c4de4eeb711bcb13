"""`af init`: begin a project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from agentfield_cli.options import AsJson

__all__ = ["app"]

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def init() -> None:
    """Begin a project.

    \b
    Examples:
      af init plugin acme
    """  # noqa: D301 - \b is typer's mark of a block that keeps its lines


@app.command()
def plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called by in provider= or transport=.")],
    kind: Annotated[Literal["provider", "transport"], typer.Option("--kind", help="What it brings.")] = "provider",
    into: Annotated[Path | None, typer.Option("--into", help="The folder; else agentfield-NAME.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the skeleton of a plugin: a manifest, the code, and a fake of its other end for the conformance kit.

    It works as it is, with an invented service or line; put yours in its place. Nothing is overwritten.

    \b
    Examples:
      af init plugin acme
      af init plugin pager --kind transport --into ~/src/pager
    """  # noqa: D301 - \b is typer's mark of a block that keeps its lines
    from agentfield_cli.output import Output
    from agentfield_cli.skeleton import write_plugin

    folder = into or Path(f"agentfield-{name.replace('_', '-')}")
    written = write_plugin(name, kind, folder)
    out = Output(as_json=as_json)
    out.result({"folder": str(folder), "files": [str(path) for path in written]})
    for path in written:
        out.line(str(path))
    pair = f"{name}/websocket" if kind == "provider" else f"'*/{name}'"
    out.line(f"\ncd {folder} && pip install -e '.[testing]'")
    out.line(f"pytest --pyargs agentfield.testing.conformance --adapter {pair}")
