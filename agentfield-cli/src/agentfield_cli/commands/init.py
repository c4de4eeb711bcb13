"""`af init`: creates a project from a template."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from agentfield_cli.terminal.options import AsJson

__all__ = ["app"]

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def init() -> None:
    """Create a project from a template.

    \b
    Examples:
      af init plugin acme
    """  # noqa: D301 - \b tells typer to keep the lines of a block


@app.command()
def plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name used in provider= or transport=.")],
    kind: Annotated[
        Literal["provider", "transport", "hooks"], typer.Option("--kind", help="What the plugin adds.")
    ] = "provider",
    into: Annotated[Path | None, typer.Option("--into", help="The folder; default agentfield-NAME.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the skeleton of a plugin: a manifest, the code, and a test peer for the conformance kit, or tests of its hooks.

    The skeleton works as it is, with an invented protocol; replace that with yours. No file is overwritten.

    \b
    Examples:
      af init plugin acme
      af init plugin pager --kind transport --into ~/src/pager
      af init plugin audit --kind hooks
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield_cli.skeleton import write_plugin
    from agentfield_cli.terminal.output import Output

    folder = into or Path(f"agentfield-{name.replace('_', '-')}")
    written = write_plugin(name, kind, folder)
    out = Output(as_json=as_json)
    out.result({"folder": str(folder), "files": [str(path) for path in written]})
    for path in written:
        out.line(str(path))
    out.line(f"\ncd {folder} && pip install -e '.[testing]'")
    if kind == "hooks":
        out.line("pytest")
    else:
        pair = f"{name}/websocket" if kind == "provider" else f"'*/{name}'"
        out.line(f"pytest --pyargs agentfield.testing.conformance --adapter {pair}")
