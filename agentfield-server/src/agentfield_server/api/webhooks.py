"""Webhooks over REST: who is told of which events, what is on its way, and what was given up."""

from __future__ import annotations

from dataclasses import asdict
from typing import get_args

from aiohttp import web

from agentfield.errors import InvalidInput
from agentfield.wire.rest import DeliveryStatus, DeliveryView, WebhookRequest, WebhookView
from agentfield_server.api.http import json_reply, read_limit, read_model
from agentfield_server.api.routes import Route
from agentfield_server.engine.webhooks import Webhooks
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import Webhook

__all__ = ["WebhookRoutes"]

_TOLD = (
    "Each event is sent at least once, as the bytes that were recorded, with its type, an `X-AgentField-Delivery` that is the "
    "same in every attempt, and `X-AgentField-Signature: t=SECONDS,v1=HEX`, the HMAC-SHA256 of the seconds, a dot and the body. "
    "Anything but 2xx is tried again, 16 times over about ten hours; 410 ends it. Redirects are not followed."
)


class WebhookRoutes:
    """The handlers of webhooks.

    Args:
        webhooks: Who sends.
        store: What is kept.
    """

    def __init__(self, webhooks: Webhooks, store: Store) -> None:
        self._webhooks = webhooks
        self._store = store

    def routes(self) -> list[Route]:
        """Return the routes of the resource."""
        base = "/api/v1/webhooks"
        one = base + "/{webhook_id}"
        return [
            Route(
                "POST",
                base,
                self.add,
                "operator",
                "Tell an address of events",
                request=WebhookRequest,
                response=WebhookView,
                description=_TOLD,
            ),
            Route("GET", base, self.index, "operator", "List the webhooks"),
            Route("DELETE", one, self.remove, "operator", "Forget a webhook and what is on its way to it"),
            Route("GET", one + "/deliveries", self.deliveries, "operator", "List what was sent, or is to be"),
            Route("POST", one + "/redrive", self.redrive, "operator", "Try what was given up again"),
        ]

    async def add(self, request: web.Request) -> web.Response:
        """Make a webhook; 201, with its secret this once."""
        body = await read_model(request, WebhookRequest)
        webhook = await self._webhooks.add(body.url, body.events)
        return json_reply(_view(webhook, secret=True), status=201)

    async def index(self, _: web.Request) -> web.Response:
        """List the webhooks, without their secrets."""
        rows = [_view(row).model_dump(mode="json") for row in await self._store.list_webhooks()]
        return json_reply({"webhooks": rows})

    async def remove(self, request: web.Request) -> web.Response:
        """Forget a webhook."""
        return json_reply(_view(await self._webhooks.remove(request.match_info["webhook_id"])))

    async def deliveries(self, request: web.Request) -> web.Response:
        """List deliveries, newest first: ``?status=``, ``?before=``, ``?limit=``."""
        webhook = await self._webhooks.find(request.match_info["webhook_id"])
        rows = await self._store.list_deliveries(
            webhook.id, status=_status(request), before=request.query.get("before"), limit=read_limit(request)
        )
        return json_reply({"deliveries": [DeliveryView(**asdict(row)).model_dump(mode="json") for row in rows]})

    async def redrive(self, request: web.Request) -> web.Response:
        """Try dead deliveries again."""
        again = await self._webhooks.redrive(request.match_info["webhook_id"])
        return json_reply({"redriven": again})


def _status(request: web.Request) -> DeliveryStatus | None:
    known: tuple[DeliveryStatus, ...] = get_args(DeliveryStatus)
    asked = request.query.get("status")
    found = next((status for status in known if status == asked), None)
    if asked is not None and found is None:
        raise InvalidInput(f"status is one of {', '.join(known)}.", hint="status=dead", field="status")
    return found


def _view(row: Webhook, *, secret: bool = False) -> WebhookView:
    return WebhookView(
        id=row.id, url=row.url, events=row.events, created_at=row.created_at, secret=row.secret if secret else None
    )
