"""`af doctor`: is this installation in order?"""

from __future__ import annotations

import typer

from agentfield_cli.options import AsJson, Url

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def doctor(url: Url = None, as_json: AsJson = False) -> None:
    """Look whether this installation is in order.

    It looks at the versions, at packages that are in the place of ours, at plugins, settings (their values are never
    shown), the data folder, and whether a control plane answers. The exit code is 1 when there is a problem.

    \b
    Examples:
      af doctor
      af doctor --json
    """  # noqa: D301 - \b is typer's mark of a block that keeps its lines
    import dataclasses

    from agentfield_cli.doctor import examine
    from agentfield_cli.output import ExitCode, Output

    out = Output(as_json=as_json)
    checks = examine(url)
    ok = all(check.state != "problem" for check in checks)
    out.result({"ok": ok, "checks": [dataclasses.asdict(check) for check in checks]})
    for check in checks:
        style = {"warning": "yellow", "problem": "red"}.get(check.state)
        out.line(f"{check.state:8} {check.name}: {check.text}", style=style)
        if check.hint:
            out.line(f"         {check.hint}", style="dim")
    if not ok:
        raise typer.Exit(ExitCode.FAILED)
