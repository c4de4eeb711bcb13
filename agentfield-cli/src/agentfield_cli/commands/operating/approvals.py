"""`af approvals`: pending approvals and their decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from agentfield_cli.terminal.options import AsJson, Url

if TYPE_CHECKING:
    from agentfield.wire.rest import ApprovalView

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True)

ApprovalId = Annotated[str, typer.Argument(help="An id that begins with apr_; af approvals list shows them.")]
By = Annotated[str | None, typer.Option("--by", help="A name for the record; it is not verified.", envvar="USER")]
Note = Annotated[str | None, typer.Option("--note", help="A note for the reasoner and the record.")]
Data = Annotated[str | None, typer.Option("--data", metavar="JSON", help="JSON data for the reasoner.")]


@app.callback()
def approvals() -> None:
    """List pending approvals and decide them.

    A reasoner that calls `app.pause` is suspended until a decision is made or the approval expires.

    \b
    Examples:
      af approvals list
      af approvals show apr_0198...
      af approvals approve apr_0198... --note "fine with me"
      af approvals request-changes apr_0198... --data '{"amount": 20}'
    """  # noqa: D301 - \b tells typer to keep the lines of a block


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Include decided approvals.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List pending approvals, newest first."""
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    async def ask() -> list[ApprovalView]:
        async with connected(url) as client:
            return await client.list_approvals(None if everything else "pending")

    found = run(ask())
    out = Output(as_json=as_json)
    out.result({"approvals": found})
    rows = [(view.id, view.target, view.title, _status(view), _when(view.expires_at)) for view in found]
    out.table(("approval", "target", "title", "status", "expires"), rows, empty="No approvals are pending.")


@app.command()
def show(approval_id: ApprovalId, url: Url = None, as_json: AsJson = False) -> None:
    """Show one approval with its details."""
    from agentfield_cli.connect import connected, run

    async def ask() -> ApprovalView:
        async with connected(url) as client:
            return await client.get_approval(approval_id)

    _print(run(ask()), as_json=as_json)


@app.command()
def approve(
    approval_id: ApprovalId,
    by: By = None,
    note: Note = None,
    data: Data = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Approve; the reasoner continues."""
    _decide(approval_id, "approved", by, note, data, url, as_json=as_json)


@app.command()
def reject(
    approval_id: ApprovalId,
    by: By = None,
    note: Note = None,
    data: Data = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Reject; the reasoner continues with the rejection."""
    _decide(approval_id, "rejected", by, note, data, url, as_json=as_json)


@app.command("request-changes")
def request_changes(
    approval_id: ApprovalId,
    by: By = None,
    note: Note = None,
    data: Data = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Request changes; the reasoner continues with your note and data."""
    _decide(approval_id, "changes_requested", by, note, data, url, as_json=as_json)


def _decide(
    approval_id: str,
    decision: Literal["approved", "rejected", "changes_requested"],
    by: str | None,
    note: str | None,
    data: str | None,
    url: str | None,
    *,
    as_json: bool,
) -> None:
    from agentfield.wire.requests import make_request
    from agentfield.wire.rest import DecisionRequest
    from agentfield_cli.connect import connected, run

    request = make_request(DecisionRequest, decision=decision, by=by or None, note=note, data=_json(data))

    async def ask() -> ApprovalView:
        async with connected(url) as client:
            return await client.decide(approval_id, request)

    _print(run(ask()), as_json=as_json)


def _json(text: str | None) -> Any:
    from agentfield_cli.terminal.options import parse_json_option

    return None if text is None else parse_json_option("--data", text, example="--data '{\"amount\": 20}'")


def _print(view: ApprovalView, *, as_json: bool) -> None:
    import json

    from agentfield_cli.terminal.output import Output

    out = Output(as_json=as_json)
    out.result(view)
    decided = f" by {view.principal}" if view.principal else ""
    decided += f" ({view.by})" if view.by else ""
    for name, value in (
        ("approval", view.id),
        ("title", view.title),
        ("status", f"{_status(view)}{decided}"),
        ("target", view.target),
        ("execution", view.execution_id),
        ("session", view.session_id or "-"),
        ("expires", _when(view.expires_at)),
        ("note", view.note or "-"),
    ):
        out.line(f"{name:10} {value}")
    if view.details is not None:
        out.line(json.dumps(view.details, indent=2, ensure_ascii=False))


def _status(view: ApprovalView) -> str:
    return view.status.replace("_", " ")


def _when(seconds: float) -> str:
    import datetime as dt

    return dt.datetime.fromtimestamp(seconds, dt.UTC).astimezone().strftime("%Y-%m-%d %H:%M")
