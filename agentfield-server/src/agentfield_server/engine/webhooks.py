"""Webhooks: recorded events, told at least once to whoever asked for them, signed, with retries and a place for the dead."""

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
from pydantic import SecretStr

from agentfield.errors import AgentFieldError, LimitExceeded, NotFound
from agentfield.ids import new_id
from agentfield_server.access.signatures import HEADER, signature
from agentfield_server.bus import RECORDED, Bus, Subscription
from agentfield_server.engine.backoff import pause
from agentfield_server.engine.outbound import Allowed, outbound_session
from agentfield_server.engine.tasks import Tasks
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import Delivery, EventRow, Webhook

__all__ = ["ATTEMPTS", "Webhooks"]

_log = logging.getLogger("agentfield.webhooks")

ATTEMPTS = 16
"""How often a delivery is tried, over about ten hours."""

_FIRST_PAUSE = 5.0
_LONGEST_PAUSE = 3600.0
_ANSWER = 10.0
_AT_ONCE = 16
_PAGE = 64
_AFTER_FAILURE = 1.0
_MOST = 100
_GONE = 410
_ANY = "*"
"""A hint to look, whatever was recorded."""


class Webhooks:
    """Sends what the store has on its way.

    Args:
        store: What is kept.
        bus: Says when something was recorded.
        allowed: Which addresses may be used.
        clock: Seconds since the epoch.
        tick: Seconds between two looks at the clock while a delivery waits for its time, so that a jump of it is noticed.
    """

    def __init__(
        self, store: Store, bus: Bus, allowed: Allowed, *, clock: Callable[[], float], tick: float = 1.0
    ) -> None:
        self._store = store
        self._bus = bus
        self._allowed = allowed
        self._clock = clock
        self._tick = tick
        self._tasks = Tasks()
        self._wanted: dict[str, tuple[str, ...]] = {}
        """What each webhook wants to be told of, so that the store is asked only when something of that was recorded."""

    async def __aenter__(self) -> Self:
        """Start to send."""
        self._wanted = {webhook.id: webhook.events for webhook in await self._store.list_webhooks()}
        self._tasks.start(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; what is on its way is sent by the next control plane."""
        await self._tasks.close()

    async def add(self, url: str, events: tuple[str, ...]) -> Webhook:
        """Make a webhook, with a secret of its own.

        Raises:
            InvalidInput: The address cannot be used (code `forbidden_address`).
            LimitExceeded: There are a hundred already.
        """
        self._allowed.check_url(url)
        if len(await self._store.list_webhooks()) >= _MOST:
            raise LimitExceeded(f"There are {_MOST} webhooks already.", hint="af webhooks remove WEBHOOK")
        webhook = Webhook(
            id=new_id("whk"),
            url=url,
            events=tuple(dict.fromkeys(events)),
            secret=f"whsec_{secrets.token_urlsafe(32)}",
            created_at=self._clock(),
        )
        self._wanted[webhook.id] = webhook.events  # before the first event can be on its way to it
        try:
            await self._store.add_webhook(webhook)
        except AgentFieldError:
            del self._wanted[webhook.id]
            raise  # who asked may be cancelled meanwhile: then it is kept all the same
        return webhook

    async def remove(self, webhook_id: str) -> Webhook:
        """Forget a webhook and what is on its way to it; returns it.

        Raises:
            NotFound: There is none (code `unknown_webhook`).
        """
        webhook = await self.find(webhook_id)
        await self._store.remove_webhook(webhook_id)
        self._wanted.pop(webhook_id, None)
        return webhook

    async def find(self, webhook_id: str) -> Webhook:
        """Return a webhook.

        Raises:
            NotFound: There is none (code `unknown_webhook`).
        """
        for webhook in await self._store.list_webhooks():
            if webhook.id == webhook_id:
                return webhook
        raise NotFound(f"There is no webhook {webhook_id!r}.", code="unknown_webhook", hint="af webhooks list")

    async def redrive(self, webhook_id: str) -> int:
        """Try what was given up again; returns how much."""
        await self.find(webhook_id)
        again = await self._store.redrive(webhook_id)
        self._bus.publish(RECORDED, {_ANY})
        return again

    async def _run(self) -> None:
        async with outbound_session(self._allowed, seconds=_ANSWER, at_once=_AT_ONCE) as http:
            with self._bus.subscribe(RECORDED) as news:
                while True:
                    try:
                        await self._sleep(news, await self._send_due(http))
                    except AgentFieldError as error:
                        _log.warning("deliveries could not be recorded, they will be tried again: %s", error.message)
                        await asyncio.sleep(_AFTER_FAILURE)

    async def _send_due(self, http: aiohttp.ClientSession) -> float | None:
        """Send everything that is due; returns when the next one is."""
        while due := await self._store.due_deliveries(now=self._clock(), limit=_PAGE):
            async with asyncio.TaskGroup() as group:
                for delivery, webhook, event in due:
                    group.create_task(self._send(http, delivery, webhook, event))
        return await self._store.next_delivery()

    async def _sleep(self, news: Subscription, until: float | None) -> None:
        """Wait until something was recorded that a webhook wants to be told of, or a delivery that waits is due."""
        wait = None if until is None else min(max(until - self._clock(), 0.0), self._tick)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while True:
                    async for types in news:
                        if self._concerns(types):
                            return
                    if self._wanted:
                        return  # hints were lost: look

    def _concerns(self, types: object) -> bool:
        """Tell whether one of these types of events is wanted by a webhook; patterns are matched as the store does it."""
        if not self._wanted or not isinstance(types, set):
            return False
        patterns = {pattern for wanted in self._wanted.values() for pattern in wanted}
        return _ANY in types or any(fnmatchcase(kind, pattern) for kind in types for pattern in patterns)

    async def _send(self, http: aiohttp.ClientSession, delivery: Delivery, webhook: Webhook, event: EventRow) -> None:
        try:
            self._allowed.check_url(webhook.url)
            status = await self._post(http, delivery, webhook, event)
            answer = f"HTTP {status}"
        except AgentFieldError as error:
            status, answer = 0, error.message
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # of what went wrong only the kind: an address may hold a secret of its owner
            status, answer = 0, "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
        if 200 <= status < 300:
            await self._store.delivered(delivery.id, answer)
            return
        attempt = delivery.attempts + 1
        again = None
        if attempt < ATTEMPTS and status != _GONE:
            again = self._clock() + pause(_FIRST_PAUSE, attempt, longest=_LONGEST_PAUSE)
        else:
            _log.warning("%s to webhook %s was given up: %s", delivery.id, webhook.id, answer)
        await self._store.not_delivered(delivery.id, answer, not_before=again)

    async def _post(self, http: aiohttp.ClientSession, delivery: Delivery, webhook: Webhook, event: EventRow) -> int:
        headers = {
            "Content-Type": "application/json",
            "X-AgentField-Delivery": delivery.id,
            "X-AgentField-Event": event.type,
            HEADER: signature(SecretStr(webhook.secret), event.canonical, at=self._clock()),
        }
        async with http.post(webhook.url, data=event.canonical, headers=headers, allow_redirects=False) as response:
            return response.status
