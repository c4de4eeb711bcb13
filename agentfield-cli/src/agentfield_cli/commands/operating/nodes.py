"""`af nodes`: lists the connected agent nodes, drains them, and administers the keys that may link as a node id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agentfield_cli.terminal.options import AsJson, Url

if TYPE_CHECKING:
    from agentfield.wire.node_views import NodeDidView, NodeView

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def nodes(context: typer.Context, url: Url = None, as_json: AsJson = False) -> None:
    """List and drain the connected agent nodes; admit and revoke their keys.

    Without a subcommand, prints one line per node instance with the functions and sessions that it offers.

    \b
    Examples:
      af nodes
      af nodes --json
      af nodes drain voice-support
      af nodes dids
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    if context.invoked_subcommand is not None:
        return
    from agentfield_cli.connect import connected, run

    async def ask() -> list[NodeView]:
        async with connected(url) as client:
            return await client.nodes()

    _show(run(ask()), as_json=as_json)


@app.command()
def drain(
    name: Annotated[str, typer.Argument(help="A node id, or an instance id.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Drain a node: it takes no new work and ends when its work is done.

    Runs and calls may use the drain time that the node was started with, 30 seconds by default. Calls that are still
    open after that continue on another instance with the same declaration of their session.

    \b
    Examples:
      af nodes drain voice-support
      af nodes drain node_0198...
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield_cli.connect import connected, run

    async def ask() -> list[NodeView]:
        async with connected(url) as client:
            return await client.drain(name)

    _show(run(ask()), as_json=as_json)


_NodeId = Annotated[str, typer.Argument(metavar="NODE", help="A node id.")]
_Did = Annotated[str, typer.Argument(metavar="DID", help="A DID of a key, as af nodes dids prints it.")]


@app.command()
def dids(
    node: Annotated[str | None, typer.Argument(metavar="[NODE]", help="A node id; all by default.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List the DIDs that may link as a node id, and those that were revoked.

    \b
    Examples:
      af nodes dids
      af nodes dids voice-support --json
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield_cli.connect import connected, run

    async def ask() -> list[NodeDidView]:
        async with connected(url) as client:
            return await client.node_dids(node)

    _show_dids(run(ask()), as_json=as_json)


@app.command()
def admit(node: _NodeId, did: _Did, url: Url = None, as_json: AsJson = False) -> None:
    """Let a further key link as a node id.

    The log of a refused node names its DID.

    \b
    Examples:
      af nodes admit voice-support DID
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield_cli.connect import connected, run

    async def ask() -> NodeDidView:
        async with connected(url) as client:
            return await client.admit_did(node, did)

    _show_dids([run(ask())], as_json=as_json)


@app.command()
def revoke(node: _NodeId, did: _Did, url: Url = None, as_json: AsJson = False) -> None:
    """Refuse a key from now on, and close its links; what they held counts as lost.

    \b
    Examples:
      af nodes revoke voice-support DID
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield_cli.connect import connected, run

    async def ask() -> NodeDidView:
        async with connected(url) as client:
            return await client.revoke_did(node, did)

    _show_dids([run(ask())], as_json=as_json)


@app.command()
def forget(node: _NodeId, did: _Did, url: Url = None, as_json: AsJson = False) -> None:
    """Delete a key of a node id that is not linked.

    The next node that links as a node id without any key decides its key.

    \b
    Examples:
      af nodes forget voice-support DID
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    async def ask() -> None:
        async with connected(url) as client:
            await client.forget_did(node, did)

    run(ask())
    out = Output(as_json=as_json)
    out.result({"node_id": node, "did": did, "forgotten": True})
    out.line(f"{node} does not have {did} any more")


def _show_dids(views: list[NodeDidView], *, as_json: bool) -> None:
    from agentfield_cli.terminal.output import Output

    out = Output(as_json=as_json)
    out.result({"dids": views})
    rows = [
        (
            view.node_id,
            view.did,
            "revoked" if view.state == "revoked" else f"{view.linked} linked" if view.linked else "away",
            view.admitted_by,
        )
        for view in views
    ]
    out.table(("node", "did", "state", "admitted by"), rows, empty="No node has linked yet.")


def _show(views: list[NodeView], *, as_json: bool) -> None:
    from agentfield_cli.terminal.output import Output

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
    for view in views:
        if view.connected and view.blocked:
            by = f" by {view.blocked_by}" if view.blocked_by else ""
            out.line(f"{view.instance_id} gets no new work: its event loop is blocked{by}", style="yellow")


def _state(view: NodeView) -> str:
    if not view.connected:
        return "away"
    if view.blocked:
        return f"blocked {view.blocked:.0f} s"
    return "draining" if view.draining else "connected"
