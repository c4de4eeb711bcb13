"""A fake of Telnyx and a telephone, as the peer of the conformance kit.

It signs webhooks, takes commands at an API of its own, opens the stream with its token, sends frames of 20 ms, returns marks.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentfield.testing.peer import CallEndpoint

__all__ = ["FakeTelnyx", "TelnyxCaller", "fake_telnyx", "peer"]

_FRAME = 160
"""Bytes of 20 ms."""
_STREAM = "32de0dea-53cb-4b21-89a4-9e1819c043bc"
_TOKEN_HEADER = "x-telnyx-streaming-auth-token"  # noqa: S105 - its name


class FakeTelnyx:
    """Telnyx without its network: its key pair, its signed webhooks, and the commands that it was sent.

    Args:
        api_key: The account's API key; commands without it are refused.
        http: Sends the webhooks.
    """

    def __init__(self, api_key: str, http: aiohttp.ClientSession) -> None:
        self.commands: list[tuple[str, str, dict[str, Any]]] = []
        """The accepted commands: call, action, body."""
        self.refuse: dict[str, int] = {}
        """Statuses with which actions are refused."""
        self.url = ""
        self._api_key = api_key
        self._http = http
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(api_key.encode()).digest())
        self._executed: set[tuple[str, str]] = set()

    @property
    def settings(self) -> dict[str, str]:
        """The settings of a transport for this account."""
        public = base64.b64encode(self._key.public_key().public_bytes_raw()).decode()
        return {"TELNYX_API_KEY": self._api_key, "TELNYX_PUBLIC_KEY": public, "TELNYX_API_URL": self.url}

    def signed(self, body: bytes, *, at: float | None = None) -> dict[str, str]:
        """Return the headers of a signed webhook.

        Args:
            body: The body.
            at: Seconds since the epoch; by default now.
        """
        timestamp = str(int(time.time() if at is None else at))
        signature = self._key.sign(timestamp.encode() + b"|" + body)
        return {
            "Content-Type": "application/json",
            "telnyx-timestamp": timestamp,
            "telnyx-signature-ed25519": base64.b64encode(signature).decode(),
        }

    async def send_event(self, url: str, kind: str, call: str, **payload: Any) -> tuple[int, str]:
        """Deliver an event of a call; return status and body of the response."""
        about = {"call_control_id": call, "call_session_id": "ff55a038", "connection_id": "7267", "client_state": None}
        data = {"record_type": "event", "event_type": kind, "id": "0ccc7b54", "payload": {**about, **payload}}
        body = json.dumps({"data": data, "meta": {"attempt": 1, "delivered_to": url}}).encode()
        async with self._http.post(url, data=body, headers=self.signed(body)) as response:
            return response.status, await response.text()

    def command(self, call: str, action: str) -> dict[str, Any]:
        """Return the body of a command that a call was sent."""
        for each, name, body in self.commands:
            if (each, name) == (call, action):
                return body
        raise AssertionError(f"{action!r} was not sent; only {[name for _, name, _ in self.commands]}")

    def is_hung_up(self, call: str) -> bool:
        """Return whether a call was hung up."""
        return (call, "hangup") in [(each, name) for each, name, _ in self.commands]

    async def handle_command(self, request: web.Request) -> web.Response:
        """Execute a command; a `command_id` is executed once for a call."""
        if request.headers.get("Authorization") != f"Bearer {self._api_key}":
            return _error(401, "10009", "Authentication failed")
        call, action = request.match_info["call"], request.match_info["action"]
        if status := self.refuse.get(action):
            return _error(status, "90018", "Call has already ended")
        body = await request.json()
        if (call, body["command_id"]) not in self._executed:
            self._executed.add((call, body["command_id"]))
            self.commands.append((call, action, body))
        return web.json_response({"data": {"result": "ok"}})


@asynccontextmanager
async def fake_telnyx(api_key: str) -> AsyncIterator[tuple[FakeTelnyx, aiohttp.ClientSession]]:
    """Serve a fake on this machine; yield it, and an HTTP session.

    Args:
        api_key: The account's API key.
    """
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as http:
        fake = FakeTelnyx(api_key, http)
        app = web.Application()
        app.router.add_post("/v2/calls/{call}/actions/{action}", fake.handle_command)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v2"
            yield fake, http
        finally:
            await runner.cleanup()


class TelnyxCaller:
    """One telephone call (`agentfield.testing.peer.CallerPeer`).

    Args:
        telnyx: The company.
        http: Opens the stream.
        call: The call control id.
    """

    def __init__(self, telnyx: FakeTelnyx, http: aiohttp.ClientSession, call: str = "v3:0123") -> None:
        self.settings = telnyx.settings
        self._telnyx = telnyx
        self._http = http
        self._call = call
        self._audio = bytearray()
        self._cleared = 0
        self._sent = 0
        self._chunks = 0
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the call goes on: its stream is open, and nobody hung up."""
        return self._reader is not None and not self._reader.done() and not self._telnyx.is_hung_up(self._call)

    @property
    def heard(self) -> bytes:
        """Received audio."""
        return bytes(self._audio)

    @property
    def cleared(self) -> int:
        """How often the stream was cleared."""
        return self._cleared

    async def call_unverified(self, endpoint: CallEndpoint) -> int:
        """Deliver an event with the signature of another one."""
        headers = self._telnyx.signed(b"{}")
        async with self._http.post(f"{endpoint.url}/voice/{endpoint.target}", data=b"[]", headers=headers) as response:
            return response.status

    async def call(self, endpoint: CallEndpoint) -> None:
        """Deliver the events of a call up to its stream, and open that."""
        webhook = f"{endpoint.url}/voice/{endpoint.target}"
        ends = {"from": "+15550100", "to": "+15550199"}
        await self._deliver(webhook, "call.initiated", direction="incoming", state="parked", **ends)
        state = self._telnyx.command(self._call, "answer")["client_state"]
        await self._deliver(webhook, "call.answered", client_state=state, **ends)
        wanted = self._telnyx.command(self._call, "streaming_start")
        token = wanted["stream_auth_token"]
        self._socket = await self._http.ws_connect(wanted["stream_url"], headers={_TOKEN_HEADER: token})
        await self._socket.send_json({"event": "connected", "version": "1.0.0", "connected": {_TOKEN_HEADER: token}})
        about = {
            "user_id": "3e6f995f-85f7-4705-9741-53b116d28237",
            "call_control_id": self._call,
            "call_session_id": "ff55a038-6f5d-11ef-9692-02420aeffb1f",
            **ends,
            "client_state": state,
            "media_format": {"encoding": wanted["stream_codec"], "sample_rate": 8000, "channels": 1},
        }
        await self._send(event="start", start=about)
        self._reader = asyncio.create_task(self._read(self._socket), name="reader of the fake Telnyx")

    async def speak(self, data: bytes) -> None:
        """Send audio in frames of 20 ms; two neighbours change places, since their order is not promised."""
        frames = [data[at : at + _FRAME] for at in range(0, len(data), _FRAME)]
        numbered = [(self._chunks + at + 1, frame) for at, frame in enumerate(frames)]
        self._chunks += len(frames)
        numbered[1:3] = reversed(numbered[1:3])
        for chunk, frame in numbered:
            payload = base64.b64encode(frame).decode()
            media = {"track": "inbound", "chunk": str(chunk), "timestamp": str(chunk * 20), "payload": payload}
            await self._send(event="media", media=media)

    async def press_key(self, digit: str) -> None:
        """Press a key."""
        await self._send(event="dtmf", dtmf={"digit": digit})

    async def send_text(self, text: str) -> None:
        """Do nothing: the transport declares no `text_input`."""

    async def commit(self) -> None:
        """Do nothing: the transport declares no `commits`."""

    async def stall(self) -> None:
        """Stop reading."""
        await self._stop()

    async def hang_up(self) -> None:
        """End the call: send `stop`, then close the stream."""
        await self._send(event="stop", stop={"user_id": "3e6f995f", "call_control_id": self._call})
        await self.close()

    async def drop(self) -> None:
        """Drop the connection."""
        transport = None if self._socket is None else self._socket.get_extra_info("socket")
        if transport is not None:
            transport.shutdown(2)

    async def close(self) -> None:
        """Stop reading and close the stream."""
        await self._stop()
        if self._socket is not None:
            await self._socket.close()

    async def _deliver(self, url: str, kind: str, **payload: Any) -> None:
        status, text = await self._telnyx.send_event(url, kind, self._call, **payload)
        if status != 200:
            raise AssertionError(f"the webhook answered {kind!r} with {status}: {text}")

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            match json.loads(message.data):
                case {"event": "media", "media": {"payload": str(payload)}}:
                    audio = base64.b64decode(payload)
                    if not _FRAME <= len(audio) <= 1500 * _FRAME:
                        raise AssertionError(f"a message with {len(audio)} bytes: Telnyx takes 20 ms to 30 s")
                    self._audio += audio
                case {"event": "mark", "mark": dict(mark)}:
                    await self._send(event="mark", mark=mark)
                case {"event": "clear"}:
                    self._cleared += 1

    async def _send(self, **message: Any) -> None:
        if self._socket is None:
            raise AssertionError("there is no call")
        self._sent += 1
        await self._socket.send_json({"sequence_number": str(self._sent), "stream_id": _STREAM, **message})

    async def _stop(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)


@asynccontextmanager
async def peer(secret: str) -> AsyncIterator[TelnyxCaller]:
    """Yield a caller of an account whose API key is `secret`."""
    async with fake_telnyx(secret) as (telnyx, http):
        caller = TelnyxCaller(telnyx, http)
        try:
            yield caller
        finally:
            await caller.close()


def _error(status: int, code: str, title: str) -> web.Response:
    return web.json_response({"errors": [{"code": code, "title": title, "detail": title}]}, status=status)
