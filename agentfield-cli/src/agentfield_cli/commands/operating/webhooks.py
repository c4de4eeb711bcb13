"""`af webhooks`: webhooks and their deliveries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agentfield_cli.terminal.options import AsJson, Url

if TYPE_CHECKING:
    from agentfield.wire.rest import DeliveryView, WebhookView

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True)

WebhookId = Annotated[str, typer.Argument(help="An id that begins with whk_; af webhooks list shows them.")]


@app.callback()
def webhooks() -> None:
    """Send events to other systems.

    \b
    Examples:
      af webhooks add https://example.org/hook --event 'approval.*' --event session.state
      af webhooks list
      af webhooks deliveries whk_0198... --dead
      af webhooks redrive whk_0198...
    """  # noqa: D301 - \b tells typer to keep the lines of a block


@app.command()
def add(
    address: Annotated[str, typer.Argument(help="A public https:// address.")],
    event: Annotated[list[str], typer.Option("--event", help="An event type; * matches any part of it.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Add a webhook. The secret that signs its deliveries is shown only once."""
    from agentfield.wire.requests import make_request
    from agentfield.wire.rest import WebhookRequest
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    request = make_request(WebhookRequest, url=address, events=tuple(event))

    async def ask() -> WebhookView:
        async with connected(url) as client:
            return await client.add_webhook(request)

    made = run(ask())
    out = Output(as_json=as_json)
    out.result(made)
    out.line(f"webhook    {made.id}")
    out.line(f"secret     {made.secret}")


@app.command("list")
def list_(url: Url = None, as_json: AsJson = False) -> None:
    """List the webhooks."""
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    async def ask() -> list[WebhookView]:
        async with connected(url) as client:
            return await client.list_webhooks()

    found = run(ask())
    out = Output(as_json=as_json)
    out.result({"webhooks": found})
    rows = [(view.id, view.url, ", ".join(view.events)) for view in found]
    out.table(("webhook", "address", "events"), rows, empty="There are no webhooks.")


@app.command()
def remove(webhook_id: WebhookId, url: Url = None, as_json: AsJson = False) -> None:
    """Remove a webhook and its open deliveries."""
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    async def ask() -> None:
        async with connected(url) as client:
            await client.remove_webhook(webhook_id)

    run(ask())
    out = Output(as_json=as_json)
    out.result({"removed": webhook_id})
    out.line(f"{webhook_id} was removed")


@app.command()
def deliveries(
    webhook_id: WebhookId,
    dead: Annotated[bool, typer.Option("--dead", help="Only deliveries that were given up.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List deliveries that were sent in the last day, are pending, or were given up."""
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

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
    """Retry deliveries that were given up."""
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    async def ask() -> int:
        async with connected(url) as client:
            return await client.redrive(webhook_id)

    again = run(ask())
    out = Output(as_json=as_json)
    out.result({"redriven": again})
    out.line(f"{again} deliveries will be retried")
