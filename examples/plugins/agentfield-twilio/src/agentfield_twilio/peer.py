"""A fake of Twilio and a telephone, as the peer of the conformance kit: it signs, sends frames of 20 ms, returns marks."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape
from typing import Any

import aiohttp

from agentfield.testing.peer import CallEndpoint
from agentfield_twilio.signature import signature

__all__ = ["TwilioCaller", "peer"]

_FRAME = 160
"""Bytes of 20 ms."""
_FORM = {"AccountSid": "AC0123", "CallSid": "CA0123", "From": "+15550100", "To": "+15550199"}
_STREAM = "MZ0123"
_URL = re.compile(r'<Stream url="([^"]+)"')
_PARAMETER = re.compile(r'<Parameter name="([^"]+)" value="([^"]*)"')


class TwilioCaller:
    """One telephone call (`agentfield.testing.peer.CallerPeer`).

    Args:
        token: The account's token.
        http: Opens the connections.
    """

    def __init__(self, token: str, http: aiohttp.ClientSession) -> None:
        self.settings = {"TWILIO_AUTH_TOKEN": token}
        self._token = token
        self._http = http
        self._audio = bytearray()
        self._cleared = 0
        self._sent = 0
        self._chunks = 0
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the stream is open."""
        return self._reader is not None and not self._reader.done()

    @property
    def heard(self) -> bytes:
        """Received audio."""
        return bytes(self._audio)

    @property
    def cleared(self) -> int:
        """How often the stream was cleared."""
        return self._cleared

    async def call_unverified(self, endpoint: CallEndpoint) -> int:
        """Request the webhook, signed with another token."""
        url = f"{endpoint.url}/voice/{endpoint.target}"
        signed = signature(f"not {self._token}", url, _FORM.items())
        async with self._http.post(url, data=_FORM, headers={"X-Twilio-Signature": signed}) as response:
            return response.status

    async def call(self, endpoint: CallEndpoint) -> None:
        """Request the webhook, and open the stream in its response."""
        url = f"{endpoint.url}/voice/{endpoint.target}"
        signed = signature(self._token, url, _FORM.items())
        async with self._http.post(url, data=_FORM, headers={"X-Twilio-Signature": signed}) as response:
            answer = await response.text()
        found = _URL.search(answer)
        if found is None:
            raise AssertionError(f"the voice webhook answered with {response.status}, and no stream: {answer}")
        stream = unescape(found[1])
        parameters = {name: unescape(value) for name, value in _PARAMETER.findall(answer)}
        self._socket = await self._http.ws_connect(
            stream, headers={"X-Twilio-Signature": signature(self._token, stream)}
        )
        await self._send(event="connected", protocol="Call", version="1.0.0")
        about = {
            "accountSid": _FORM["AccountSid"],
            "callSid": _FORM["CallSid"],
            "streamSid": _STREAM,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": parameters,
        }
        await self._send(event="start", start=about)
        self._reader = asyncio.create_task(self._read(self._socket), name="reader of the fake Twilio")

    async def speak(self, data: bytes) -> None:
        """Send audio in frames of 20 ms."""
        for at in range(0, len(data), _FRAME):
            payload = base64.b64encode(data[at : at + _FRAME]).decode()
            self._chunks += 1
            media = {"track": "inbound", "chunk": str(self._chunks), "timestamp": str(self._chunks * 20)}
            await self._send(event="media", media={**media, "payload": payload})

    async def press_key(self, digit: str) -> None:
        """Press a key."""
        await self._send(event="dtmf", dtmf={"track": "inbound_track", "digit": digit})

    async def send_text(self, text: str) -> None:
        """Do nothing: the transport declares no `text_input`."""

    async def commit(self) -> None:
        """Do nothing: the transport declares no `commits`."""

    async def stall(self) -> None:
        """Stop reading."""
        await self._stop()

    async def hang_up(self) -> None:
        """End the call: send `stop`, then close the stream."""
        await self._send(event="stop", stop={"accountSid": _FORM["AccountSid"], "callSid": _FORM["CallSid"]})
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

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            match json.loads(message.data):
                case {"event": "media", "media": {"payload": str(payload)}}:
                    self._audio += base64.b64decode(payload)
                case {"event": "mark", "mark": dict(mark)}:
                    await self._send(event="mark", mark=mark)
                case {"event": "clear"}:
                    self._cleared += 1

    async def _send(self, **message: Any) -> None:
        if self._socket is None:
            raise AssertionError("there is no call")
        self._sent += 1
        named = {} if message["event"] == "connected" else {"streamSid": _STREAM}
        await self._socket.send_json({"sequenceNumber": str(self._sent), **named, **message})

    async def _stop(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)


@asynccontextmanager
async def peer(secret: str) -> AsyncIterator[TwilioCaller]:
    """Yield a caller whose account has the token `secret`."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as http:
        caller = TwilioCaller(secret, http)
        try:
            yield caller
        finally:
            await caller.close()
