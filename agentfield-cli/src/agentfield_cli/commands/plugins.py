"""`af plugins`: lists the installed plugins and checks one of them."""

from __future__ import annotations

from typing import Annotated

import typer

from agentfield_cli.terminal.options import AsJson, Url

__all__ = ["app"]

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback(invoke_without_command=True)
def plugins(
    context: typer.Context,
    url: Url = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the tracebacks of broken plugins.")] = False,
    as_json: AsJson = False,
) -> None:
    """List and check the installed plugins.

    Without --url the list shows the plugins of this installation, with --url those of that control plane. The exit code
    is 1 if a plugin is broken, incompatible or invalid.

    \b
    Examples:
      af plugins
      af plugins --verbose
      af plugins check agentfield-openai
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    if context.invoked_subcommand is not None:
        return
    from agentfield_cli.diagnostics.inspection import installed_plugins, plugin_tracebacks
    from agentfield_cli.terminal.output import ExitCode, Output

    out = Output(as_json=as_json)
    views = _remote(url) if url else installed_plugins()
    out.result({"plugins": views})
    rows = [
        (
            view.name,
            view.distribution,
            view.version or None,
            view.state,
            ", ".join(view.pairs) or None,
            view.reason or None,
        )
        for view in views
    ]
    columns = ("name", "distribution", "version", "state", "pairs", "reason")
    out.table(columns, rows, empty="No plugins are installed.")
    if verbose and not url:
        for label, text in plugin_tracebacks():
            out.line(f"\n{label}\n{text}")
    if any(view.state not in ("ok", "disabled") for view in views):
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def check(
    distribution: Annotated[str, typer.Argument(metavar="DIST", help="Name of an installed distribution.")],
    as_json: AsJson = False,
) -> None:
    """Load one plugin and report all its problems.

    Loads the manifest, the pairs, and every object that they name. Warnings are not problems: a manifest with heavy
    imports, a pair that another plugin claims too, a missing peer for the conformance kit. The exit code is 1 if there
    is a problem.

    \b
    Examples:
      af plugins check agentfield-openai
      af plugins check agentfield-acme --json
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield_cli.diagnostics.inspection import inspect_plugin
    from agentfield_cli.terminal.output import ExitCode, Output

    out = Output(as_json=as_json)
    found = inspect_plugin(distribution)
    out.result(
        {
            "distribution": found.distribution,
            "version": found.version,
            "ok": not found.problems,
            "pairs": found.pairs,
            "transports": found.transports,
            "hooks": found.hooks,
            "settings": found.settings,
            "problems": found.problems,
            "warnings": found.warnings,
        }
    )
    out.line(f"{found.distribution} {found.version}: {', '.join(found.pairs) or 'no pairs'}")
    for title, names in (("transports", found.transports), ("hooks", found.hooks), ("settings", found.settings)):
        if names:
            out.line(f"{title}: {', '.join(names)}")
    for problem in found.problems:
        out.line(f"problem: {problem}", style="red")
    for warning in found.warnings:
        out.line(f"warning: {warning}", style="yellow")
    if not found.problems:
        out.line("no problems")
    else:
        raise typer.Exit(ExitCode.FAILED)


def _remote(url: str) -> list:  # type: ignore[type-arg]
    from agentfield_cli.connect import connected, run

    async def ask() -> list:  # type: ignore[type-arg]
        async with connected(url) as client:
            return list(await client.plugins())

    return run(ask())
