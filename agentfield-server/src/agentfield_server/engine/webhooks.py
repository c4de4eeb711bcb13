"""Webhook delivery: recorded events are posted at least once, signed, with retries and a dead-letter state."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Self

import aiohttp
from msgspec import structs
from pydantic import SecretStr
from yarl import URL

from agentfield.errors import AgentFieldError, LimitExceeded, NotFound
from agentfield.ids import new_id
from agentfield_server.access.webhook_signatures import HEADER, signature
from agentfield_server.bus import RECORDED, Bus, Subscription
from agentfield_server.engine.address_policy import AddressPolicy, outbound_session
from agentfield_server.engine.backoff import backoff_delay
from agentfield_server.engine.tasks import BackgroundTasks
from agentfield_server.proof.secret_box import SecretBox
from agentfield_server.store.proofs import ProofStore
from agentfield_server.store.records import Delivery, EventRow, Webhook

__all__ = ["ATTEMPTS", "WebhookService"]

_log = logging.getLogger("agentfield.webhooks")

ATTEMPTS = 16
"""Attempts of a delivery, over about ten hours."""

_FIRST_PAUSE = 5.0
_LONGEST_PAUSE = 3600.0
_RESPONSE_TIMEOUT = 10.0
_AT_ONCE = 16
_PAGE = 64
_AFTER_FAILURE = 1.0
_MAX_WEBHOOKS = 100
_HTTP_GONE = 410
_ANY_EVENT = "*"
"""Stands for every type of event: look for due deliveries in any case."""


class WebhookService:
    """Manages webhooks and sends their deliveries. An asynchronous context manager that owns the sending task.

    Args:
        store: Holds webhooks and deliveries.
        bus: Announces recorded events.
        allowed: Policy of addresses.
        box: Encrypts the stored secrets of webhooks.
        clock: Seconds since the epoch.
        tick: Seconds between two reads of the clock while a delivery is not due, so that a jump of the clock is noticed.
    """

    def __init__(
        self,
        store: ProofStore,
        bus: Bus,
        allowed: AddressPolicy,
        box: SecretBox,
        *,
        clock: Callable[[], float],
        tick: float = 1.0,
    ) -> None:
        self._store = store
        self._bus = bus
        self._allowed = allowed
        self._box = box
        self._clock = clock
        self._tick = tick
        self._tasks = BackgroundTasks()
        self._subscribed: dict[str, tuple[str, ...]] = {}
        """Event patterns by webhook, so that the store is queried only when a matching event was recorded."""

    async def __aenter__(self) -> Self:
        """Encrypt secrets that were stored before there was a data key, and start sending."""
        webhooks = await self._store.list_webhooks()
        self._subscribed = {webhook.id: webhook.events for webhook in webhooks}
        for webhook in webhooks:
            if not self._box.is_sealed(webhook.secret):
                await self._store.replace_webhook_secret(webhook.id, self._box.seal(webhook.id, webhook.secret))
        self._tasks.start(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; the next control plane sends pending deliveries."""
        await self._tasks.close()

    async def add(self, url: str, events: tuple[str, ...]) -> Webhook:
        """Create a webhook with a new secret.

        Raises:
            InvalidInput: The address is not allowed (code `forbidden_address`).
            LimitExceeded: There are a hundred webhooks.
        """
        self._allowed.check_url(url)
        if len(await self._store.list_webhooks()) >= _MAX_WEBHOOKS:
            raise LimitExceeded(f"There are {_MAX_WEBHOOKS} webhooks already.", hint="af webhooks remove WEBHOOK")
        webhook = Webhook(
            id=new_id("whk"),
            url=url,
            events=tuple(dict.fromkeys(events)),
            secret=f"whsec_{secrets.token_urlsafe(32)}",
            created_at=self._clock(),
        )
        self._subscribed[webhook.id] = webhook.events  # before the commit: an event may be recorded for it right after
        try:
            await self._store.add_webhook(structs.replace(webhook, secret=self._box.seal(webhook.id, webhook.secret)))
        except AgentFieldError:
            del self._subscribed[webhook.id]
            raise  # a cancellation does not undo the write, so the patterns stay
        return webhook

    async def remove(self, webhook_id: str) -> Webhook:
        """Remove a webhook and its deliveries; return it.

        Raises:
            NotFound: It does not exist (code `unknown_webhook`).
        """
        webhook = await self.find(webhook_id)
        await self._store.remove_webhook(webhook_id)
        self._subscribed.pop(webhook_id, None)
        return webhook

    async def find(self, webhook_id: str) -> Webhook:
        """Return a webhook.

        Raises:
            NotFound: It does not exist (code `unknown_webhook`).
        """
        for webhook in await self._store.list_webhooks():
            if webhook.id == webhook_id:
                return webhook
        raise NotFound(f"There is no webhook {webhook_id!r}.", code="unknown_webhook", hint="af webhooks list")

    async def redrive(self, webhook_id: str) -> int:
        """Retry the dead deliveries of a webhook; return how many."""
        await self.find(webhook_id)
        again = await self._store.redrive(webhook_id)
        self._bus.publish(RECORDED, {_ANY_EVENT})
        return again

    async def _run(self) -> None:
        async with outbound_session(self._allowed, seconds=_RESPONSE_TIMEOUT, at_once=_AT_ONCE) as http:
            with self._bus.subscribe(RECORDED) as news:
                while True:
                    try:
                        await self._sleep(news, await self._send_due(http))
                    except AgentFieldError as error:
                        _log.warning("deliveries could not be recorded, they will be tried again: %s", error.message)
                        await asyncio.sleep(_AFTER_FAILURE)
                    except Exception as error:  # noqa: BLE001 - one delivery must not end the others for good
                        _log.error("deliveries failed, they will be tried again", exc_info=error)
                        await asyncio.sleep(_AFTER_FAILURE)

    async def _send_due(self, http: aiohttp.ClientSession) -> float | None:
        """Send all due deliveries; return when the next one is due."""
        while due := await self._store.due_deliveries(now=self._clock(), limit=_PAGE):
            async with asyncio.TaskGroup() as group:
                for delivery, webhook, event in due:
                    group.create_task(self._send(http, delivery, webhook, event))
        return await self._store.next_delivery()

    async def _sleep(self, news: Subscription, until: float | None) -> None:
        """Wait until an event with a subscribed type is recorded, or the next delivery is due."""
        wait = None if until is None else min(max(until - self._clock(), 0.0), self._tick)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while True:
                    async for types in news:
                        if self._is_wanted(types):
                            return
                    if self._subscribed:
                        return  # the subscription lagged and lost messages: query the store

    def _is_wanted(self, types: object) -> bool:
        """Return whether a webhook subscribes to one of these event types; matches patterns as the store's GLOB does."""
        if not self._subscribed or not isinstance(types, set):
            return False
        patterns = {pattern for wanted in self._subscribed.values() for pattern in wanted}
        return _ANY_EVENT in types or any(fnmatchcase(kind, pattern) for kind in types for pattern in patterns)

    async def _send(self, http: aiohttp.ClientSession, delivery: Delivery, webhook: Webhook, event: EventRow) -> None:
        try:
            url = self._allowed.check_url(webhook.url)
            status = await self._post(http, delivery, webhook, event, url)
            answer = f"HTTP {status}"
        except AgentFieldError as error:
            status, answer = 0, error.message
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # only the kind of the error: its text may contain the address, and that may contain a secret
            status, answer = 0, "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
        except Exception as error:  # noqa: BLE001 - of this delivery only; its text may contain the address as well
            _log.warning("%s to webhook %s failed with %s", delivery.id, webhook.id, type(error).__name__)
            status, answer = 0, type(error).__name__
        if 200 <= status < 300:
            await self._store.record_delivered(delivery.id, answer)
            return
        attempt = delivery.attempts + 1
        again = None
        if attempt < ATTEMPTS and status != _HTTP_GONE:
            again = self._clock() + backoff_delay(_FIRST_PAUSE, attempt, longest=_LONGEST_PAUSE)
        else:
            _log.warning("%s to webhook %s was given up: %s", delivery.id, webhook.id, answer)
        await self._store.record_not_delivered(delivery.id, answer, not_before=again)

    async def _post(
        self, http: aiohttp.ClientSession, delivery: Delivery, webhook: Webhook, event: EventRow, url: URL
    ) -> int:
        secret = SecretStr(self._box.open_text(webhook.id, webhook.secret))
        headers = {
            "Content-Type": "application/json",
            "X-AgentField-Delivery": delivery.id,
            "X-AgentField-Event": event.type,
            HEADER: signature(secret, event.canonical, at=self._clock()),
        }
        async with http.post(url, data=event.canonical, headers=headers, allow_redirects=False) as response:
            return response.status
