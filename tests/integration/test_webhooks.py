"""Webhooks: told at least once, signed, tried again, kept when given up, and never sent where they must not go."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from agentfield.client import ControlPlaneClient
from agentfield.errors import Forbidden, InvalidInput
from agentfield.wire.frames import Invoke
from agentfield.wire.rest import WebhookRequest
from agentfield_server.access.signatures import HEADER, check_signature, signature
from agentfield_server.engine.outbound import Allowed, outbound_session
from agentfield_server.engine.webhooks import ATTEMPTS, Webhooks
from agentfield_server.store.records import Webhook
from engine_kit import Plane, RawNode, plane, until, until_async


@dataclass
class Receiver:
    """Somebody else's server."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    """Statuses of the next answers; 200 when there is none left."""
    dead: bool = False
    """Whether it answers 503 to everything."""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        status = 503 if self.dead else self.answers.pop(0) if self.answers else 200
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 302 else {})

    def events(self) -> list[dict[str, Any]]:
        """Return what came, in order."""
        return [json.loads(body) for _, body in self.got]


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook?tenant=7"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


@pytest.fixture
async def cp(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path / "a.db") as running:
        yield running


async def work(cp: Plane, node: RawNode) -> str:
    """Let one execution run, and return the id of its run."""
    execution_id = await cp.start("node.fn")
    await node.answer(await node.next(Invoke), "done")
    return str((await cp.finished(execution_id))["run_id"])


async def add(cp: Plane, url: str, *events: str) -> dict[str, Any]:
    """Make a webhook."""
    status, body, _ = await cp.post("/webhooks", {"url": url, "events": list(events)})
    assert status == 201, body
    return body


async def tried(cp: Plane, webhook_id: str, times: int) -> list[dict[str, Any]]:
    """Return what is on its way to a webhook as soon as all of it was tried so many times, and that is recorded."""

    async def look() -> list[dict[str, Any]]:
        _, listed = await cp.get(f"/webhooks/{webhook_id}/deliveries")
        found: list[dict[str, Any]] = listed["deliveries"]
        return found if found and all(each["attempts"] == times for each in found) else []

    return await until_async(look)


async def test_events_come_as_they_were_recorded(cp: Plane, receiver: Receiver) -> None:
    """Whoever asked for a type is told of it, signed, in the bytes of the log, and of nothing else."""
    made = await add(cp, receiver.url, "execution.ended", "approval.*")
    async with RawNode().linked(cp) as node:
        run_id = await work(cp, node)
        await until(lambda: receiver.got)
    ((headers, body),) = receiver.got
    row = (await cp.store.read_events(run_id))[-1]
    assert (row.type, row.canonical) == ("execution.ended", body)
    assert (headers["X-AgentField-Event"], headers["Content-Type"]) == ("execution.ended", "application/json")
    check_signature(SecretStr(made["secret"]), headers[HEADER], body, now=time.time())
    _, listed = await cp.get(f"/webhooks/{made['id']}/deliveries")
    (delivery,) = listed["deliveries"]
    assert (delivery["id"], delivery["status"], delivery["attempts"], delivery["answer"]) == (
        headers["X-AgentField-Delivery"],
        "delivered",
        1,
        "HTTP 200",
    )


async def test_a_receiver_that_is_away_for_an_hour_misses_nothing(tmp_path: Path, receiver: Receiver) -> None:
    """It is tried again with growing pauses, over a restart too, under the same id; then everything arrives once."""
    now = [time.time() + 60]  # ahead of the clock that stamps what is recorded
    receiver.dead = True
    async with plane(tmp_path / "a.db", clock=lambda: now[0]) as cp:
        made = await add(cp, receiver.url, "execution.*")
        async with RawNode().linked(cp) as node:
            await work(cp, node)
        for attempt in range(1, 7):
            assert len(await tried(cp, made["id"], attempt)) == 3
            now[0] += 600
    async with plane(tmp_path / "a.db", clock=lambda: now[0]) as cp:
        await tried(cp, made["id"], 7)
        tries = len(receiver.got)
        receiver.dead = False
        now[0] += 600

        async def arrived() -> bool:
            _, listed = await cp.get(f"/webhooks/{made['id']}/deliveries?status=delivered")
            return len(listed["deliveries"]) == 3

        await until_async(arrived)
    ids = {headers["X-AgentField-Delivery"] for headers, _ in receiver.got}
    assert len(ids) == 3
    assert len(receiver.got) == tries + 3, "what arrived is not sent again"
    assert {event["type"] for event in receiver.events()} == {
        "execution.created",
        "execution.started",
        "execution.ended",
    }


async def test_what_was_given_up_is_kept_and_can_be_tried_again(tmp_path: Path, receiver: Receiver) -> None:
    """After the last attempt a delivery is dead, listed with the last answer, and redriven when asked to."""
    now = [time.time() + 60]  # ahead of the clock that stamps what is recorded
    receiver.dead = True
    async with plane(tmp_path / "a.db", clock=lambda: now[0]) as cp, ControlPlaneClient(cp.url) as client:
        made = await client.add_webhook(WebhookRequest(url=receiver.url, events=("execution.ended",)))
        async with RawNode().linked(cp) as node:
            await work(cp, node)
        for attempt in range(1, ATTEMPTS + 1):
            await tried(cp, made.id, attempt)
            now[0] += 3601
        dead = await until_async(lambda: client.deliveries(made.id, "dead"))
        assert (dead[0].attempts, dead[0].answer) == (ATTEMPTS, "HTTP 503")
        receiver.dead = False
        assert await client.redrive(made.id) == 1
        await until(lambda: len(receiver.got) == ATTEMPTS + 1)
        assert await client.redrive(made.id) == 0


async def test_gone_is_gone(cp: Plane, receiver: Receiver) -> None:
    """410 ends a delivery at once; a redirect is no arrival, and is not followed."""
    receiver.answers = [410, 302]
    made = await add(cp, receiver.url, "execution.created", "execution.ended")
    async with RawNode().linked(cp) as node:
        await work(cp, node)
        await until(lambda: len(receiver.got) == 2)

    async def told() -> dict[str, str] | None:
        _, listed = await cp.get(f"/webhooks/{made['id']}/deliveries")
        answered = {each["answer"]: each["status"] for each in listed["deliveries"] if each["answer"]}
        return answered if len(answered) == 2 else None

    assert await until_async(told) == {"HTTP 410": "dead", "HTTP 302": "pending"}


async def test_a_webhook_that_is_removed_is_told_nothing_more(cp: Plane, receiver: Receiver) -> None:
    """Neither new events nor those that were on their way reach it; its secret was shown once."""
    receiver.dead = True
    async with RawNode().linked(cp) as node, ControlPlaneClient(cp.url) as client:
        made = await client.add_webhook(WebhookRequest(url=receiver.url, events=("*",)))
        assert made.secret is not None
        assert made.secret.startswith("whsec_")
        await work(cp, node)
        await until(lambda: len(receiver.got) == 3)
        (listed,) = await client.list_webhooks()
        assert listed.secret is None
        await client.remove_webhook(made.id)
        assert await client.list_webhooks() == []
        await work(cp, node)
        assert await cp.store.next_delivery() is None
    status, body, _ = await cp.post(f"/webhooks/{made.id}/redrive")
    assert (status, body["code"], body["hint"]) == (404, "unknown_webhook", "af webhooks list")


async def test_a_webhook_that_nobody_waited_for_is_told_all_the_same(
    cp: Plane, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who made it went away in the middle: it is kept, and hears of what is recorded from then on."""
    begun, add_webhook = asyncio.Event(), cp.store.add_webhook

    async def begin(webhook: Webhook) -> None:
        begun.set()
        await add_webhook(webhook)

    monkeypatch.setattr(cp.store, "add_webhook", begin)
    async with Webhooks(cp.store, cp.bus, Allowed(("127.0.0.0/8",)), clock=time.time) as webhooks:
        adding = asyncio.create_task(webhooks.add(receiver.url, ("execution.ended",)))
        await begun.wait()
        adding.cancel()
        await asyncio.gather(adding, return_exceptions=True)
        await until_async(cp.store.list_webhooks)
        async with RawNode().linked(cp) as node:
            await work(cp, node)
            await until(lambda: len(receiver.got) == 1)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://example.org/", "an https:// address without user or fragment is needed"),
        ("https://user:secret@example.org/", "an https:// address without user or fragment is needed"),
        ("http://example.org/", "http:// can be read on its way"),
        ("https://10.1.2.3/", "10.1.2.3 is not on the public internet"),
        ("https://169.254.169.254/latest/meta-data", "169.254.169.254 is not on the public internet"),
        ("https://[::1]/", "::1 is not on the public internet"),
        ("https://[::ffff:10.0.0.1]/", "::ffff:10.0.0.1 is not on the public internet"),
        ("https://[64:ff9b::a00:1]/", "64:ff9b::a00:1 is not on the public internet"),
        ("https://localhost/", "localhost is a name of this machine or network"),
        ("https://intranet/", "intranet is a name of this machine or network"),
    ],
)
async def test_addresses_that_are_not_public_are_refused(cp: Plane, url: str, why: str) -> None:
    """What would reach into our own network is refused when it is given, with the setting that allows it."""
    status, body, _ = await cp.post("/webhooks", {"url": url, "events": ["*"]})
    assert (status, body["code"], body["detail"]) == (
        422,
        "forbidden_address",
        f"The address cannot be used: {why}.",
    )
    assert body["hint"].endswith("AGENTFIELD_WEBHOOK_ALLOW")
    assert "secret" not in json.dumps(body)


@pytest.mark.parametrize("events", [[], ["Approval.Requested"], ["execution.ended; drop"], ["e" * 101]])
async def test_events_that_cannot_be_are_refused(cp: Plane, events: list[str]) -> None:
    """A type is lower-case words with dots; nothing else gets into a pattern."""
    assert (await cp.post("/webhooks", {"url": "https://example.org/", "events": events}))[0] == 422


async def test_a_name_that_leads_into_our_network_is_not_connected_to(receiver: Receiver) -> None:
    """The check is made with the address that a connection would go to, whatever the name said before."""
    port = int(receiver.url.split(":")[2].split("/")[0])
    infos = socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)
    assert infos
    async with outbound_session(Allowed(), seconds=5, at_once=1) as http:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await http.post(f"http://localhost:{port}/hook")
        assert "not on the public internet" in str(caught.value.os_error)
    async with (
        outbound_session(Allowed(("localhost",)), seconds=5, at_once=1) as http,
        http.post(f"http://localhost:{port}/hook") as response,
    ):
        assert response.status == 200
    assert len(receiver.got) == 1


@given(st.ip_addresses(v=4))
def test_an_address_is_judged_alike_however_it_is_written(address: ipaddress.IPv4Address) -> None:
    """The same IPv4 address behind an IPv6 one is as public as by itself."""
    allowed = Allowed()
    for prefix in ("::ffff:0:0", "64:ff9b::"):
        wrapped = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) + int(address))
        assert allowed.address(wrapped) == allowed.address(address)


def test_a_list_that_makes_no_sense_is_refused() -> None:
    """A network that is none stops the control plane, it does not open anything."""
    with pytest.raises(InvalidInput):
        Allowed(("10.0.0.0/99",))


@given(st.binary(max_size=200), st.integers(0, 2**33), st.binary(max_size=20))
def test_a_signature_fits_its_body_and_its_time_only(body: bytes, at: int, more: bytes) -> None:
    """Any other body, secret or a time more than five minutes away is refused."""
    secret = SecretStr("a secret that is long enough")
    header = signature(secret, body, at=at)
    check_signature(secret, header, body, now=at + 299)
    wrong: list[Callable[[], None]] = [
        lambda: check_signature(secret, header, body, now=at + 301),
        lambda: check_signature(SecretStr("another secret, also long"), header, body, now=at),
        lambda: check_signature(None, header, body, now=at),
    ]
    if more:
        wrong.append(lambda: check_signature(secret, header, body + more, now=at))
    for attempt in wrong:
        with pytest.raises(Forbidden):
            attempt()
