"""`af store`: how large the store is, old runs taken away, room given back to the disk; all while calls go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agentfield_cli.options import AsJson, Url

if TYPE_CHECKING:
    from agentfield.wire.rest import PruneView, StoreView

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True)

_KINDS = ("runs", "executions", "sessions", "events", "approvals", "deliveries", "payloads")


@app.callback()
def store() -> None:
    """See how large the store is, take old runs away, give room back.

    \b
    Examples:
      af store stats
      af store prune --older-than 30d --dry-run
      af store prune --older-than 30d
      af store compact
    """  # noqa: D301 - \b is typer's mark of a block that keeps its lines


@app.command()
def stats(url: Url = None, as_json: AsJson = False) -> None:
    """Show how large the store is and what is in it."""
    from agentfield_cli.connect import connected, run
    from agentfield_cli.output import Output

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
        str, typer.Option("--older-than", help="Days since the last event of a run: 30d; 1d at least.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Take runs away that ended long ago, whole; never one with anything open or parked."""
    from agentfield.wire.rest import PruneRequest
    from agentfield_cli.connect import connected, run
    from agentfield_cli.output import Output

    days = _days(older_than)

    async def ask() -> list[PruneView]:
        rounds, after = [], ""
        async with connected(url) as client:
            while True:
                done = await client.prune_store(PruneRequest(older_than_days=days, dry_run=dry_run, after=after))
                rounds.append(done)
                if done.next is None:
                    return rounds
                after = done.next

    rounds = run(ask())
    sums = {name: sum(getattr(done, name) for done in rounds) for name in ("runs", "executions", "events")}
    out = Output(as_json=as_json)
    out.result({**sums, "dry_run": dry_run})
    verb = "would be taken away" if dry_run else "were taken away"
    out.line(f"{sums['runs']} runs with {sums['executions']} executions and {sums['events']} events {verb}")


@app.command()
def compact(url: Url = None, as_json: AsJson = False) -> None:
    """Give free room back to the disk, a little at a time."""
    from agentfield_cli.connect import connected, run
    from agentfield_cli.output import Output

    async def ask() -> tuple[StoreView, StoreView]:
        async with connected(url) as client:
            before = await client.store_stats()
            left = (await client.compact_store()).free_pages
            # what others free meanwhile is left for the next time
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
        raise typer.BadParameter("it is a number of days, 1d at least", param_hint="--older-than")
    return days


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
