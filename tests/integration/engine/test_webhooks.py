"""Webhook delivery: at least once, signed, retried, kept when dead, and refused for private addresses."""

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
from agentfield_server.access.webhook_signatures import HEADER, check_signature, signature
from agentfield_server.engine.address_policy import AddressPolicy, outbound_session
from agentfield_server.engine.webhooks import ATTEMPTS, WebhookService
from agentfield_server.proof.secret_box import SecretBox
from agentfield_server.store.records import Webhook
from support.server.engine import Plane, RawNode, plane
from support.waiting import until, until_async


@dataclass
class Receiver:
    """A receiver of webhooks."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    """Statuses of the next answers; 200 when the list is empty."""
    dead: bool = False
    """Whether it answers 503 to everything."""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        status = 503 if self.dead else self.answers.pop(0) if self.answers else 200
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 302 else {})

    def events(self) -> list[dict[str, Any]]:
        """Return the received events in order."""
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
    """Run one execution and return the id of its run."""
    execution_id = await cp.start("node.fn")
    await node.answer(await node.next(Invoke), "done")
    return str((await cp.finished(execution_id))["run_id"])


async def add(cp: Plane, url: str, *events: str) -> dict[str, Any]:
    """Create a webhook."""
    status, body, _ = await cp.post("/webhooks", {"url": url, "events": list(events)})
    assert status == 201, body
    return body


async def tried(cp: Plane, webhook_id: str, times: int) -> list[dict[str, Any]]:
    """Return the deliveries of a webhook once each has `count` recorded attempts."""

    async def look() -> list[dict[str, Any]]:
        _, listed = await cp.get(f"/webhooks/{webhook_id}/deliveries")
        found: list[dict[str, Any]] = listed["deliveries"]
        return found if found and all(each["attempts"] == times for each in found) else []

    return await until_async(look)


async def test_subscribed_events_are_delivered_as_recorded(cp: Plane, receiver: Receiver) -> None:
    """A subscriber gets the signed bytes of the log, and no other type of event."""
    made = await add(cp, receiver.url, "execution.ended", "approval.*")
    async with RawNode().linked(cp) as node:
        run_id = await work(cp, node)
        await until(lambda: receiver.got)
    ((headers, body),) = receiver.got
    row = (await cp.store.read_events(run_id))[-1]
    assert (row.type, row.canonical) == ("execution.ended", body)
    assert (headers["X-AgentField-Event"], headers["Content-Type"]) == ("execution.ended", "application/json")
    check_signature(SecretStr(made["secret"]), headers[HEADER], body, now=time.time())
    # the receiver is called before its answer is recorded
    (delivery,) = await tried(cp, made["id"], 1)
    assert (delivery["id"], delivery["status"], delivery["attempts"], delivery["answer"]) == (
        headers["X-AgentField-Delivery"],
        "delivered",
        1,
        "HTTP 200",
    )


async def test_receiver_that_is_down_for_an_hour_misses_nothing(tmp_path: Path, receiver: Receiver) -> None:
    """Deliveries are retried with growing pauses, also after a restart, under the same id, and arrive once."""
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


async def test_dead_delivery_is_kept_and_can_be_redriven(tmp_path: Path, receiver: Receiver) -> None:
    """After the last attempt a delivery is dead and listed with the last answer."""
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


async def test_410_ends_a_delivery_and_redirects_are_not_followed(cp: Plane, receiver: Receiver) -> None:
    """410 makes a delivery dead at once; a redirect counts as a failure."""
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


async def test_removed_webhook_gets_no_more_deliveries(cp: Plane, receiver: Receiver) -> None:
    """Neither new nor pending events reach it; its secret was shown once."""
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


async def test_webhook_of_a_cancelled_request_gets_events(
    cp: Plane, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A webhook whose request was cancelled after the write began is kept and gets events."""
    begun, add_webhook = asyncio.Event(), cp.store.add_webhook

    async def begin(webhook: Webhook) -> None:
        begun.set()
        await add_webhook(webhook)

    monkeypatch.setattr(cp.store, "add_webhook", begin)
    box = await SecretBox.open(cp.store, cp.key)
    async with WebhookService(cp.store, cp.bus, AddressPolicy(("127.0.0.0/8",)), box, clock=time.time) as webhooks:
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
        ("https://[64:ff9b:1::808:808]/", "64:ff9b:1::808:808 is not on the public internet"),
        ("https://[fec0::1]/", "fec0::1 is not on the public internet"),
        ("https://[::7f00:1]/", "::7f00:1 is not on the public internet"),
        ("https://192.0.0.9/", "192.0.0.9 is not on the public internet"),
        ("https://①⓪.⓪.⓪.①/", "10.0.0.1 is not on the public internet"),
        ("https://\uff11\uff10.0.0.1/", "10.0.0.1 is not on the public internet"),
        ("https://10\u30020\u30020\u30021/", "10.0.0.1 is not on the public internet"),
        (
            "https://\uff2c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54/",
            "localhost is a name of this machine or network",
        ),
        ("https://xn--a.example/", "it cannot be encoded"),
        ("https://a\u200d.example/", "it cannot be encoded"),
        (f"https://{'a' * 64}.example/", "its host is malformed"),
        ("https://a..example/", "its host is malformed"),
        ("http://[::1", "its host is malformed"),
        ("https://a]b/", "its host is malformed"),
        ("https://example.org:99999/", "its port is not a number from 0 to 65535"),
        ("https://localhost/", "localhost is a name of this machine or network"),
        ("https://intranet/", "intranet is a name of this machine or network"),
    ],
)
async def test_private_addresses_are_refused(cp: Plane, url: str, why: str) -> None:
    """The refusal names the setting that allows an address."""
    status, body, _ = await cp.post("/webhooks", {"url": url, "events": ["*"]})
    assert (status, body["code"], body["detail"]) == (
        422,
        "forbidden_address",
        f"The address cannot be used: {why}.",
    )
    assert body["hint"].endswith("AGENTFIELD_WEBHOOK_ALLOW")
    assert "secret" not in json.dumps(body)


@pytest.mark.parametrize("events", [[], ["Approval.Requested"], ["execution.ended; drop"], ["e" * 101]])
async def test_invalid_event_patterns_are_refused(cp: Plane, events: list[str]) -> None:
    """A type is lower-case words with dots."""
    assert (await cp.post("/webhooks", {"url": "https://example.org/", "events": events}))[0] == 422


async def test_name_that_resolves_to_a_private_address_is_not_connected(receiver: Receiver) -> None:
    """The resolved address is checked at each connection."""
    port = int(receiver.url.split(":")[2].split("/")[0])
    infos = socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)
    assert infos
    async with outbound_session(AddressPolicy(), seconds=5, at_once=1) as http:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await http.post(f"http://localhost:{port}/hook")
        assert "not on the public internet" in str(caught.value.os_error)
    async with (
        outbound_session(AddressPolicy(("localhost",)), seconds=5, at_once=1) as http,
        http.post(f"http://localhost:{port}/hook") as response,
    ):
        assert response.status == 200
    assert len(receiver.got) == 1


async def test_the_address_that_is_connected_to_is_checked(receiver: Receiver) -> None:
    """A literal address is not resolved, so the socket is refused, in every spelling of it."""
    port = int(receiver.url.split(":")[2].split("/")[0])
    async with outbound_session(AddressPolicy(), seconds=5, at_once=1) as http:
        for host in ("127.0.0.1", "[::ffff:127.0.0.1]", "①②⑦.⓪.⓪.①", "\uff11\uff12\uff17.0.0.1"):
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await http.post(f"http://{host}:{port}/hook")
            assert "not on the public internet" in str(caught.value.os_error)
    assert not receiver.got


@pytest.mark.parametrize("url", ["https://xn--a.example/", "https://a\u200d.example/", "https://[::1", "http://①.②/"])
async def test_an_address_that_cannot_be_requested_stops_no_other_webhook(
    cp: Plane, receiver: Receiver, url: str
) -> None:
    """A stored address that an older version accepted fails by itself; the others go on."""
    await cp.store.add_webhook(Webhook(id="whk_bad", url=url, events=("*",), secret="whsec_x", created_at=0.0))
    await add(cp, receiver.url, "execution.ended")
    async with RawNode().linked(cp) as node:
        for _ in range(2):
            receiver.got.clear()
            await work(cp, node)
            await until(lambda: receiver.got)
    for each in await tried(cp, "whk_bad", 1):
        assert each["answer"].startswith("The address cannot be used")


@pytest.mark.parametrize(
    "network",
    [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/128",
        "::1/128",
        "::ffff:127.0.0.0/104",
        "64:ff9b::a00:0/104",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "2002:a00::/24",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    ],
)
def test_special_ranges_are_not_public(network: str) -> None:
    """The ends of each special range (IANA special-purpose address registries) are refused."""
    found = ipaddress.ip_network(network)
    assert not AddressPolicy().address(found[0])
    assert not AddressPolicy().address(found[-1])
    assert AddressPolicy((network,)).address(found[-1])


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_addresses_are_allowed(address: str) -> None:
    """Addresses of the public internet need no list."""
    assert AddressPolicy().address(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_embedded_ipv4_addresses_are_judged_alike(address: ipaddress.IPv4Address) -> None:
    """An IPv4 address inside an IPv6 one is as public as by itself."""
    allowed = AddressPolicy()
    for prefix in ("::ffff:0:0", "64:ff9b::"):
        wrapped = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) + int(address))
        assert allowed.address(wrapped) == allowed.address(address)


def test_invalid_allow_list_is_refused() -> None:
    """An invalid network stops the control plane instead of allowing anything."""
    with pytest.raises(InvalidInput):
        AddressPolicy(("10.0.0.0/99",))


@given(st.binary(max_size=200), st.integers(0, 2**33), st.binary(max_size=20))
def test_signature_covers_body_and_time(body: bytes, at: int, more: bytes) -> None:
    """Another body, another secret or more than five minutes of difference is refused."""
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
