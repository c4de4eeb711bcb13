"""Commands of `af` with which an operator looks after a control plane: its keys, nodes, approvals, webhooks and store.

As in the package above, each module holds a `typer.Typer` named `app`; `agentfield_cli.command_table.OPERATING` lists the names.
"""
