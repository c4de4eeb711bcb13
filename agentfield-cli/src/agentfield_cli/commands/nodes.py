"""`af nodes`: who is connected."""

from __future__ import annotations

import typer

from agentfield_cli.options import AsJson, Url

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def nodes(url: Url = None, as_json: AsJson = False) -> None:
    """List the agent nodes that are connected.

    Each line is an instance with what it offers.

    \b
    Examples:
      af nodes
      af nodes --json
    """  # noqa: D301 - \b is typer's mark of a block that keeps its lines
    from agentfield_cli.connect import connected, run
    from agentfield_cli.output import Output

    async def ask() -> None:
        out = Output(as_json=as_json)
        async with connected(url) as client:
            views = list(await client.nodes())
        out.result({"nodes": views})
        rows = [
            (
                view.node_id,
                view.instance_id,
                "connected" if view.connected else "away",
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

    run(ask())
