"""Webhooks over REST: subscriptions to events, their deliveries, and the redrive of dead ones."""

from __future__ import annotations

from typing import get_args

from aiohttp import web
from msgspec.structs import asdict

from agentfield.errors import InvalidInput
from agentfield.wire.rest import DeliveryStatus, DeliveryView, WebhookRequest, WebhookView
from agentfield_server.api.http.bodies import json_reply, read_limit, read_model
from agentfield_server.api.http.route import Route
from agentfield_server.engine.webhooks import WebhookService
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import Webhook

__all__ = ["WebhookRoutes"]

_DELIVERY_DESCRIPTION = (
    "Each event is sent at least once, as the recorded bytes, with its type, an `X-AgentField-Delivery` that is the "
    "same in every attempt, and `X-AgentField-Signature: t=SECONDS,v1=HEX`, the HMAC-SHA256 of the seconds, a dot and the body. "
    "Any other status than 2xx is retried, 16 times over about ten hours; 410 ends it. Redirects are not followed."
)


class WebhookRoutes:
    """The routes of webhooks.

    Args:
        webhooks: The webhook service.
        store: The store.
    """

    def __init__(self, webhooks: WebhookService, store: Store) -> None:
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
                ("operator",),
                "Create a webhook",
                request=WebhookRequest,
                response=WebhookView,
                description=_DELIVERY_DESCRIPTION,
            ),
            Route("GET", base, self.index, ("operator",), "List the webhooks"),
            Route("DELETE", one, self.remove, ("operator",), "Delete a webhook and its pending deliveries"),
            Route("GET", one + "/deliveries", self.deliveries, ("operator",), "List the deliveries of a webhook"),
            Route("POST", one + "/redrive", self.redrive, ("operator",), "Retry the dead deliveries of a webhook"),
        ]

    async def add(self, request: web.Request) -> web.Response:
        """Create a webhook; respond 201 with its secret, which is shown this once only."""
        body = await read_model(request, WebhookRequest)
        webhook = await self._webhooks.add(body.url, body.events)
        return json_reply(_view(webhook, secret=True), status=201)

    async def index(self, _: web.Request) -> web.Response:
        """List the webhooks, without their secrets."""
        rows = [_view(row).model_dump(mode="json") for row in await self._store.list_webhooks()]
        return json_reply({"webhooks": rows})

    async def remove(self, request: web.Request) -> web.Response:
        """Delete a webhook and its pending deliveries."""
        return json_reply(_view(await self._webhooks.remove(request.match_info["webhook_id"])))

    async def deliveries(self, request: web.Request) -> web.Response:
        """List deliveries, newest first: ``?status=``, ``?before=``, ``?limit=``."""
        webhook = await self._webhooks.find(request.match_info["webhook_id"])
        rows = await self._store.list_deliveries(
            webhook.id, status=_status(request), before=request.query.get("before"), limit=read_limit(request)
        )
        return json_reply({"deliveries": [DeliveryView(**asdict(row)).model_dump(mode="json") for row in rows]})

    async def redrive(self, request: web.Request) -> web.Response:
        """Retry dead deliveries."""
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
