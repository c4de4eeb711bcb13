"""`af local`: the offline speech server."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(invoke_without_command=True, add_completion=False)


@app.callback()
def local(context: typer.Context) -> None:
    """Run the offline speech server.

    The server speaks the Realtime protocol and needs neither a key nor a network.

    \b
    Examples:
      af local serve --port 8765
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def serve(context: typer.Context) -> None:
    """Serve until stopped. Takes the options of python -m agentfield_local (see af local serve --help).

    \b
    Examples:
      af local serve --port 8765 --linger 0
      OPENAI_BASE_URL=http://127.0.0.1:8765/v1 af server
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    import importlib.util

    from agentfield.errors import Unavailable
    from agentfield.plugins.install import install_hint

    if importlib.util.find_spec("agentfield_local") is None:
        raise Unavailable(
            "The offline speech server is not installed.",
            code="local_not_installed",
            hint=install_hint("agentfield-local", "speech"),
        )
    from agentfield_local.__main__ import main

    raise typer.Exit(main(context.args))
