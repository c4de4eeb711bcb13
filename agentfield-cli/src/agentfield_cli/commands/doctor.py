"""`af doctor`: checks this installation."""

from __future__ import annotations

import typer

from agentfield_cli.terminal.options import AsJson, Url

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def doctor(url: Url = None, as_json: AsJson = False) -> None:
    """Check this installation.

    Checks the versions, foreign packages that shadow agentfield, plugins, settings (values are never shown), the data
    folder, and whether a control plane answers. The exit code is 1 if a check finds a problem.

    \b
    Examples:
      af doctor
      af doctor --json
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    import dataclasses

    from agentfield_cli.diagnostics.doctor import run_checks
    from agentfield_cli.terminal.output import ExitCode, Output

    out = Output(as_json=as_json)
    checks = run_checks(url)
    ok = all(check.state != "problem" for check in checks)
    out.result({"ok": ok, "checks": [dataclasses.asdict(check) for check in checks]})
    for check in checks:
        style = {"warning": "yellow", "problem": "red"}.get(check.state)
        out.line(f"{check.state:8} {check.name}: {check.text}", style=style)
        if check.hint:
            out.line(f"         {check.hint}", style="dim")
    if not ok:
        raise typer.Exit(ExitCode.FAILED)
