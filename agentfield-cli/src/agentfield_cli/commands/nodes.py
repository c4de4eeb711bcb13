"""`af nodes`: who is connected, and how one of them is let go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agentfield_cli.options import AsJson, Url

if TYPE_CHECKING:
    from agentfield.wire.rest import NodeView

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def nodes(context: typer.Context, url: Url = None, as_json: AsJson = False) -> None:
    """List the agent nodes that are connected.

    Each line is an instance with what it offers.

    \b
    Examples:
      af nodes
      af nodes --json
      af nodes drain voice-support
    """  # noqa: D301 - \b is typer's mark of a block that keeps its lines
    if context.invoked_subcommand is not None:
        return
    from agentfield_cli.connect import connected, run

    async def ask() -> list[NodeView]:
        async with connected(url) as client:
            return await client.nodes()

    _show(run(ask()), as_json=as_json)


@app.command()
def drain(
    name: Annotated[str, typer.Argument(help="A node, or one instance of it.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Let a node end once its work is done; it takes nothing new.

    Runs and calls have as long as the node was started with, 30 seconds by default. Calls that are not over then go on
    with another instance that declares their session alike.

    \b
    Examples:
      af nodes drain voice-support
      af nodes drain node_0198...
    """  # noqa: D301 - \b is typer's mark of a block that keeps its lines
    from agentfield_cli.connect import connected, run

    async def ask() -> list[NodeView]:
        async with connected(url) as client:
            return await client.drain(name)

    _show(run(ask()), as_json=as_json)


def _show(views: list[NodeView], *, as_json: bool) -> None:
    from agentfield_cli.output import Output

    out = Output(as_json=as_json)
    out.result({"nodes": views})
    rows = [
        (
            view.node_id,
            view.instance_id,
            _state(view),
            f"{view.running}/{view.concurrency}",
            ", ".join(
                (
                    *view.functions,
                    *(f"{name} (session)" for name in view.sessions),
                    *(f"{name} (session, refused: {code})" for name, code in view.refused.items()),
                )
            ),
        )
        for view in views
    ]
    empty = "No node is connected. Start one with: af run agent.py"
    out.table(("node", "instance", "state", "running", "offers"), rows, empty=empty)


def _state(view: NodeView) -> str:
    if not view.connected:
        return "away"
    return "draining" if view.draining else "connected"
