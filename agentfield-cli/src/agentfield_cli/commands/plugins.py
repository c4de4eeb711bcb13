"""`af plugins`: the installed plugins and their state."""

from __future__ import annotations

from typing import Annotated

import typer

from agentfield_cli.options import AsJson

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def plugins(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of broken plugins.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the installed plugins and their state.

    The exit code is 1 when one is broken, incompatible or invalid.

    \b
    Examples:
      af plugins
      af plugins --verbose
    """  # noqa: D301 - \b is typer's mark of a block that keeps its lines
    from agentfield.plugins import Registry
    from agentfield_cli.output import ExitCode, Output

    out = Output(as_json=as_json)
    records = Registry.discover().plugins
    out.result(
        {
            "plugins": [
                {
                    "name": record.name,
                    "distribution": record.distribution,
                    "version": record.version,
                    "state": record.state,
                    "reason": record.reason or None,
                    "pairs": [spec.name for spec in record.manifest.pairs] if record.manifest else [],
                }
                for record in records
            ]
        }
    )
    rows = [
        (
            record.name,
            record.label,
            record.state,
            record.reason or ", ".join(spec.name for spec in (record.manifest.pairs if record.manifest else ())),
        )
        for record in records
    ]
    out.table(("name", "distribution", "state", "pairs"), rows, empty="No plugins are installed.")
    for record in records:
        if verbose and record.details:
            out.line(f"\n{record.label}\n{record.details}")
    if any(record.state not in ("ok", "disabled") for record in records):
        raise typer.Exit(ExitCode.FAILED)
