"""`af store`: shows the size of the store, prunes old runs and compacts the file, while the control plane runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agentfield_cli.terminal.options import AsJson, Url

if TYPE_CHECKING:
    from agentfield.wire.rest import PruneView, StoreView

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True)

_KINDS = ("runs", "executions", "sessions", "events", "approvals", "deliveries", "payloads")


@app.callback()
def store() -> None:
    """Show the size of the store, prune old runs, compact the file.

    \b
    Examples:
      af store stats
      af store prune --older-than 30d --dry-run
      af store prune --older-than 30d
      af store compact
    """  # noqa: D301 - \b tells typer to keep the lines of a block


@app.command()
def stats(url: Url = None, as_json: AsJson = False) -> None:
    """Show the size of the store and its number of rows."""
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    async def ask() -> StoreView:
        async with connected(url) as client:
            return await client.store_stats()

    view = run(ask())
    out = Output(as_json=as_json)
    out.result(view)
    out.line(f"size       {_size(view.bytes)}, of which {_size(view.free_bytes)} free; log {_size(view.log_bytes)}")
    out.table(("kept", "rows"), [(kind, getattr(view, kind)) for kind in _KINDS], empty="")
    out.line(f"open       {view.open_executions} executions")
    out.line(f"pruned     {view.pruned_runs} runs")


@app.command()
def prune(
    older_than: Annotated[
        str, typer.Option("--older-than", help="Days since the last event of a run, such as 30d; at least 1d.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only, delete nothing.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Delete runs that ended long ago, each as a whole; never a run with an open or suspended execution."""
    from agentfield.wire.requests import make_request
    from agentfield.wire.rest import PruneRequest
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    days = _days(older_than)

    async def ask() -> list[PruneView]:
        rounds, after = [], ""
        async with connected(url) as client:
            while True:
                done = await client.prune_store(
                    make_request(PruneRequest, older_than_days=days, dry_run=dry_run, after=after)
                )
                rounds.append(done)
                if done.next is None:
                    return rounds
                after = done.next

    rounds = run(ask())
    sums = {name: sum(getattr(done, name) for done in rounds) for name in ("runs", "executions", "events")}
    out = Output(as_json=as_json)
    out.result({**sums, "dry_run": dry_run})
    verb = "would be deleted" if dry_run else "were deleted"
    out.line(f"{sums['runs']} runs with {sums['executions']} executions and {sums['events']} events {verb}")


@app.command()
def compact(url: Url = None, as_json: AsJson = False) -> None:
    """Return free space to the disk in small steps."""
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    async def ask() -> tuple[StoreView, StoreView]:
        async with connected(url) as client:
            before = await client.store_stats()
            left = (await client.compact_store()).free_pages
            # stop once a step frees nothing: pages that others free meanwhile are left for the next time
            while left and (now := (await client.compact_store()).free_pages) < left:
                left = now
            return before, await client.store_stats()

    before, after = run(ask())
    out = Output(as_json=as_json)
    out.result({"before": before, "after": after})
    out.line(f"{_size(before.bytes + before.log_bytes)} before, {_size(after.bytes + after.log_bytes)} now")


def _days(text: str) -> float:
    try:
        days = float(text.removesuffix("d"))
    except ValueError:
        days = 0.0
    if not 1 <= days <= 36_500:
        raise typer.BadParameter("expected a number of days, at least 1d", param_hint="--older-than")
    return days


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
