"""A control plane without sessions, and a node that sends raw frames."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import TestClient, TestServer
from msgspec.structs import replace
from pydantic import SecretStr

from agentfield.identity import NodeKey, b64url, digest, result_message, sign_results
from agentfield.ids import new_id
from agentfield.link.greetings import Greeter
from agentfield.link.known_control_planes import KnownControlPlanes
from agentfield.link.results import Outcome, ResultSigner
from agentfield.values import encode
from agentfield.wire.frames import (
    Accepted,
    Challenge,
    Hello,
    Invoke,
    Ping,
    Pong,
    Result,
    WatchHello,
    Welcome,
    decode_server_frame,
    encode_frame,
)
from agentfield.wire.framing import split_frames
from agentfield.wire.link_protocol import PROOFS
from agentfield.wire.node_declarations import FunctionSpec
from agentfield_server.access.browser_tokens import BrowserTokenService
from agentfield_server.api.application import build_application
from agentfield_server.api.resources import executions, nodes, workflows
from agentfield_server.api.resources.approvals import ApprovalRoutes
from agentfield_server.api.resources.proofs import ProofRoutes
from agentfield_server.api.resources.store import StoreRoutes
from agentfield_server.api.resources.webhooks import WebhookRoutes
from agentfield_server.bus import RECORDED, Bus
from agentfield_server.engine import Engine
from agentfield_server.engine.address_policy import AddressPolicy
from agentfield_server.engine.retention import Retention
from agentfield_server.engine.webhooks import WebhookService
from agentfield_server.nodes import LinkHub
from agentfield_server.proof.issuing import Issuer
from agentfield_server.proof.own_log import OwnLog
from agentfield_server.proof.secret_box import SecretBox
from agentfield_server.settings import Settings
from agentfield_server.store.records import EventRow
from agentfield_server.store.sqlite.store import SqliteStore
from support.server.access import guard_of, open_access
from support.server.log_entries import is_intact
from support.waiting import SECONDS, until

WEBHOOK_SECRET = "a secret of the test, long enough"


@dataclass
class Plane:
    """A running control plane."""

    client: TestClient[Any, Any]
    store: SqliteStore
    hub: LinkHub
    engine: Engine
    bus: Bus
    key: NodeKey
    issuer: Issuer
    url: str
    api_key: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Headers of a request with the key."""
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any], Any]:
        """POST JSON and return status, body and headers."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers["Content-Type"] = "application/json"
        data = io.BytesIO(json.dumps({} if body is None else body).encode())
        async with self.client.post("/api/v1" + path, data=data, headers=headers) as response:
            return response.status, await response.json(content_type=None), response.headers

    async def get(self, path: str) -> tuple[int, Any]:
        """GET and return status and body."""
        async with self.client.get("/api/v1" + path) as response:
            return response.status, await response.json(content_type=None)

    async def execute(self, target: str, **values: Any) -> tuple[int, dict[str, Any], Any]:
        """Call a target and wait for the result."""
        return await self.post(f"/execute/{target}", {"input": values})

    async def start(self, target: str, **values: Any) -> str:
        """Call a target without waiting; return the execution's id."""
        status, body, _ = await self.post(f"/execute/async/{target}", {"input": values})
        assert status == 202, body
        return str(body["id"])

    async def finished(self, execution_id: str) -> dict[str, Any]:
        """Wait until an execution has ended and return its view."""
        await self.engine.wait(execution_id, SECONDS)
        _, view = await self.get(f"/executions/{execution_id}")
        return dict(view)

    async def events(self, run_id: str) -> list[dict[str, Any]]:
        """Return the log of a run, checked: consecutive numbers, and each leaf the digest of its event."""
        rows = await self.store.read_events(run_id)
        assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
        assert all(is_intact(row.entry, row.body, row.salt, row.leaf) for row in rows)
        return [json.loads(row.canonical) for row in rows]


@asynccontextmanager
async def plane(
    path: Path,
    *,
    lease: float = 0.5,
    ping_interval: float = 2.0,
    ping_timeout: float = 6.0,
    port: int = 0,
    max_queued: int = 10_000,
    clock: Callable[[], float] = time.time,
    now: Callable[[], float] = time.time,
    api_key: str | None = None,
) -> AsyncIterator[Plane]:
    """Run a control plane on a database file; `async with` again on the same file is a restart.

    `now` is its clock, except for webhooks, whose clock is `clock`.
    """
    bus = Bus()

    def publish(rows: list[EventRow]) -> None:
        for row in rows:
            bus.publish(f"run:{row.run_id}", [row])
        bus.publish(RECORDED, {row.type for row in rows})
        if issuer is not None:
            issuer.note(rows)

    issuer: Issuer | None = None
    store = SqliteStore(path, on_commit=publish, clock=now)
    await store.open()
    key = NodeKey.load_or_create(path.with_suffix(".pem"))
    box = await SecretBox.open(store, key)
    hub = LinkHub(store, key=key, clock=now, ping_interval=ping_interval, ping_timeout=ping_timeout)
    try:
        async with (
            Engine(store, hub, bus, access=open_access(store), clock=now, lease=lease, max_queued=max_queued) as engine,
            Issuer(store, key, await OwnLog.open(store, key, clock=now), clock=now) as issuer,
        ):
            guard = await guard_of(
                Settings(home=path.parent, api_key=None if api_key is None else SecretStr(api_key)),
                BrowserTokenService(store, clock=now, code_ttl=60),
                store,
            )
            approvals = ApprovalRoutes(engine.approvals, store, secret=SecretStr(WEBHOOK_SECRET), clock=now)
            webhooks = WebhookService(store, bus, AddressPolicy(("127.0.0.0/8",)), box, clock=clock, tick=0.02)
            routes = [
                *WebhookRoutes(webhooks, store).routes(),
                *StoreRoutes(Retention(store, clock=time.time), store).routes(),
                *approvals.routes(),
                *executions.routes(engine, store),
                *workflows.routes(store, engine, bus),
                *nodes.routes(hub),
                *ProofRoutes(store, issuer, public_url=lambda: "http://127.0.0.1").routes(),
            ]
            server = TestServer(build_application(routes, guard), port=port or None)
            headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
            async with TestClient(server, headers=headers) as client, webhooks:
                try:
                    url = str(server.make_url("")).rstrip("/")
                    yield Plane(client, store, hub, engine, bus, key, issuer, url, api_key)
                finally:
                    await hub.close()
    finally:
        await store.close()


@dataclass
class RawNode:
    """A node that sends only what the test sends."""

    node_id: str = "node"
    functions: tuple[FunctionSpec, ...] = (FunctionSpec(name="fn", input_schema={"type": "object"}),)
    key: NodeKey = field(default_factory=NodeKey.generate)
    instance_id: str = field(default_factory=lambda: new_id("node"))
    concurrency: int = 100
    protocol: int = 2
    """Version of the link that it speaks."""
    mute: bool = False
    """Whether it leaves pings unanswered."""
    frames: list[Any] = field(default_factory=list)
    waiting: deque[str] = field(default_factory=deque)
    """Further frames of the last message."""
    challenge: Challenge | None = None
    welcome: Welcome | None = None
    socket: aiohttp.ClientWebSocketResponse | None = None

    @asynccontextmanager
    async def linked(self, at: Plane, **hello: Any) -> AsyncIterator[RawNode]:
        """Link to a control plane until the block ends."""
        url = f"{at.url}/api/v1/nodes/link"
        async with aiohttp.ClientSession(headers=at.headers) as http, http.ws_connect(url) as socket:
            self.socket = socket
            self.frames = []
            self.waiting.clear()
            answer = await self.greet(**hello)
            assert isinstance(answer, Welcome), answer
            self.welcome = answer
            reader = asyncio.create_task(self._read(socket))
            try:
                # the hub lists the instance after it has sent the welcome
                await until(lambda: at.hub.instance(self.instance_id) is not None, "the hub lists the instance")
                yield self
            finally:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
                await socket.close()

    async def greet(self, **values: Any) -> Any:
        """Answer the challenge and return the next frame."""
        challenge = await self.receive()
        assert isinstance(challenge, Challenge)
        self.challenge = challenge
        signature = values.pop("signature", None)
        hello = Hello(
            protocol=self.protocol,
            node_id=self.node_id,
            instance_id=self.instance_id,
            did=self.key.did,
            signature="",
            nonce=None if self.protocol < PROOFS else new_id("op"),
            concurrency=self.concurrency,
            functions=self.functions,
        ).model_copy(update=values)
        text = Greeter(self.key, KnownControlPlanes()).hello(hello, challenge, "http://plane")
        if signature is not None:
            text = encode_frame(hello.model_copy(update={"signature": signature}))
        assert self.socket is not None
        await self.socket.send_str(text)
        return await self.receive()

    async def receive(self) -> Any:
        """Return the next frame."""
        assert self.socket is not None
        async with asyncio.timeout(SECONDS):
            if not self.waiting:
                self.waiting.extend(split_frames(await self.socket.receive_str()))
        return decode_server_frame(self.waiting.popleft())

    async def send(self, frame: Any) -> None:
        """Send a frame."""
        assert self.socket is not None
        await self.socket.send_str(encode_frame(frame))

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        # the message with the welcome may hold further frames
        while self.waiting:
            await self._take(decode_server_frame(self.waiting.popleft()))
        async for message in socket:
            for frame in map(decode_server_frame, split_frames(message.data)):
                await self._take(frame)

    async def _take(self, frame: Any) -> None:
        """Answer a ping; keep any other frame for the test."""
        if not isinstance(frame, Ping):
            self.frames.append(frame)
        elif not self.mute:
            await self.send(Pong())

    async def next(self, kind: type[Any], **values: Any) -> Any:
        """Wait for the next frame of a kind (with these values) and take it out of `frames`."""

        def found() -> Any:
            return next(
                (
                    frame
                    for frame in self.frames
                    if isinstance(frame, kind) and all(getattr(frame, n) == v for n, v in values.items())
                ),
                None,
            )

        await until(found, f"a frame {kind.__name__}")
        frame = found()
        self.frames.remove(frame)
        return frame

    def acceptance(self, invoke: Invoke) -> Accepted:
        """Return the frame that accepts an invocation."""
        context = invoke.context
        return Accepted(execution_id=context.execution_id, attempt=context.attempt, epoch=invoke.epoch)

    async def accept(self, invoke: Invoke) -> None:
        """Accept an invocation."""
        await self.send(self.acceptance(invoke))

    def result_of(self, invoke: Invoke, output: Any = None, **changes: Any) -> Result:
        """Return the signed result of an attempt; `changes` are made after a proof and before a signature of its own.

        With `retry`, `status`, `problem` or `pause` the result says so from the start.
        """
        if self.protocol >= PROOFS:
            said = {
                name: changes.pop(name) for name in ("status", "problem", "pause", "retry", "took") if name in changes
            }
            return replace(self.proven(invoke, output, **said), **changes)
        values: dict[str, Any] = {
            "execution_id": invoke.context.execution_id,
            "attempt": invoke.context.attempt,
            "epoch": invoke.epoch,
            "status": "succeeded",
            "output": output,
            "input_digest": digest(invoke.input),
            **changes,
        }
        given = digest(output) if values["status"] == "succeeded" else None
        values.setdefault("output_digest", given)
        message = result_message(
            values["execution_id"],
            values["attempt"],
            values["status"],
            values["input_digest"],
            values["output_digest"],
        )
        values.setdefault("signature", b64url(self.key.sign(message)))
        return Result(**values)

    def proven(self, invoke: Invoke, output: Any = None, **outcome: Any) -> Result:
        """Return the result of an attempt with a proof of its own."""
        result, leaf = self.stated(invoke, output, **outcome)
        assert self.challenge is not None
        (proof,) = sign_results(self.key, audience=self.challenge.did or "", leaves=[leaf])
        return replace(result, proof=proof.document())

    def stated(self, invoke: Invoke, output: Any = None, **outcome: Any) -> tuple[Result, bytes]:
        """Return the result of an attempt without its proof, and its leaf."""
        assert self.challenge is not None
        signer = ResultSigner(self.key, node_id=self.node_id, instance_id=self.instance_id)
        signer.audience = self.challenge.did or ""
        status, took = outcome.pop("status", "succeeded"), outcome.pop("took", None)
        body = encode(output, name="output") if status == "succeeded" else None
        result, leaf = signer.result(invoke, Outcome(status, output=body, **outcome), took=took)
        assert leaf is not None
        return result, leaf

    async def answer(self, invoke: Invoke, output: Any = None, **changes: Any) -> None:
        """Accept an invocation and send its result."""
        await self.accept(invoke)
        await self.send(self.result_of(invoke, output, **changes))

    async def answer_at_once(self, invoke: Invoke, output: Any = None, **changes: Any) -> None:
        """Accept an invocation and send its result in one message."""
        assert self.socket is not None
        frames = (self.acceptance(invoke), self.result_of(invoke, output, **changes))
        await self.socket.send_str("\n".join(map(encode_frame, frames)))

    async def leave(self) -> None:
        """Close the link in order, as a node does that stops."""
        assert self.socket is not None
        await self.socket.close()

    @asynccontextmanager
    async def watching(self, at: Plane) -> AsyncIterator[Callable[[Any], Awaitable[None]]]:
        """Open the connection of the node's watchdog; yield a function that sends a frame over it."""
        url = f"{at.url}/api/v1/nodes/link"
        async with aiohttp.ClientSession(headers=at.headers) as http, http.ws_connect(url) as socket:
            challenge = decode_server_frame(await socket.receive_str())
            hello = WatchHello(
                protocol=self.protocol,
                node_id=self.node_id,
                instance_id=self.instance_id,
                did=self.key.did,
                signature="",
            )
            await socket.send_str(Greeter(self.key, KnownControlPlanes()).watch(hello, challenge, at.url))

            async def send(frame: Any) -> None:
                await socket.send_str(encode_frame(frame))

            yield send

    def vanish(self) -> None:
        """Abort the connection, as a killed process does."""
        assert self.socket is not None
        transport = self.socket._response.connection.transport  # type: ignore[union-attr]
        assert transport is not None
        transport.abort()
