"""Command modules of `af`, one per command or command group.

Each module holds a `typer.Typer` named `app`. `agentfield_cli.main` imports it on first use, so a module imports heavy
libraries inside its functions only. A command reads its options, calls `call`, `demo`, `diagnostics`, `processes` or
the control plane's client, and prints through `terminal.output`. `agentfield_cli.command_table` lists the names.
"""
