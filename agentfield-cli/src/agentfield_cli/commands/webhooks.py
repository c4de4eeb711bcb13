"""`af webhooks`: who is told of events, what is on its way, and what was given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agentfield_cli.options import AsJson, Url

if TYPE_CHECKING:
    from agentfield.wire.rest import DeliveryView, WebhookView

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True)

WebhookId = Annotated[str, typer.Argument(help="An id that begins with whk_; af webhooks list shows them.")]


@app.callback()
def webhooks() -> None:
    """Tell other systems of events.

    \b
    Examples:
      af webhooks add https://example.org/hook --event 'approval.*' --event session.state
      af webhooks list
      af webhooks deliveries whk_0198... --dead
      af webhooks redrive whk_0198...
    """  # noqa: D301 - \b is typer's mark of a block that keeps its lines


@app.command()
def add(
    address: Annotated[str, typer.Argument(help="A public https:// address.")],
    event: Annotated[list[str], typer.Option("--event", help="A type of events; * stands for any part of one.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Tell an address of events. The secret that signs them is shown this once."""
    from agentfield.wire.rest import WebhookRequest
    from agentfield_cli.connect import connected, run
    from agentfield_cli.output import Output

    async def ask() -> WebhookView:
        async with connected(url) as client:
            return await client.add_webhook(WebhookRequest(url=address, events=tuple(event)))

    made = run(ask())
    out = Output(as_json=as_json)
    out.result(made)
    out.line(f"webhook    {made.id}")
    out.line(f"secret     {made.secret}")


@app.command("list")
def list_(url: Url = None, as_json: AsJson = False) -> None:
    """List who is told of what."""
    from agentfield_cli.connect import connected, run
    from agentfield_cli.output import Output

    async def ask() -> list[WebhookView]:
        async with connected(url) as client:
            return await client.list_webhooks()

    found = run(ask())
    out = Output(as_json=as_json)
    out.result({"webhooks": found})
    rows = [(view.id, view.url, ", ".join(view.events)) for view in found]
    out.table(("webhook", "address", "events"), rows, empty="Nobody is told of events.")


@app.command()
def remove(webhook_id: WebhookId, url: Url = None, as_json: AsJson = False) -> None:
    """Forget a webhook and what is on its way to it."""
    from agentfield_cli.connect import connected, run
    from agentfield_cli.output import Output

    async def ask() -> None:
        async with connected(url) as client:
            await client.remove_webhook(webhook_id)

    run(ask())
    out = Output(as_json=as_json)
    out.result({"removed": webhook_id})
    out.line(f"{webhook_id} is forgotten")


@app.command()
def deliveries(
    webhook_id: WebhookId,
    dead: Annotated[bool, typer.Option("--dead", help="Only those that were given up.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List what was sent to a webhook in the last day, is to be sent, or was given up."""
    from agentfield_cli.connect import connected, run
    from agentfield_cli.output import Output

    async def ask() -> list[DeliveryView]:
        async with connected(url) as client:
            return await client.deliveries(webhook_id, "dead" if dead else None)

    found = run(ask())
    out = Output(as_json=as_json)
    out.result({"deliveries": found})
    rows = [(view.id, view.type, view.status, view.attempts, view.answer or "-") for view in found]
    out.table(("delivery", "event", "status", "attempts", "answer"), rows, empty="There are no deliveries.")


@app.command()
def redrive(webhook_id: WebhookId, url: Url = None, as_json: AsJson = False) -> None:
    """Try what was given up again."""
    from agentfield_cli.connect import connected, run
    from agentfield_cli.output import Output

    async def ask() -> int:
        async with connected(url) as client:
            return await client.redrive(webhook_id)

    again = run(ask())
    out = Output(as_json=as_json)
    out.result({"redriven": again})
    out.line(f"{again} deliveries are tried again")
