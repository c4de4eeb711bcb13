"""The carrier of a link: one WebSocket to the control plane, opened again whenever it is lost."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from pydantic import ValidationError

from agentfield.errors import AgentFieldError, NodeRefused
from agentfield.settings import is_loopback
from agentfield.wire.frames import (
    PROTOCOL,
    Challenge,
    Hello,
    Ping,
    Refused,
    Welcome,
    decode_server_frame,
    encode_frame,
)
from agentfield.wire.lines import frames_of, message_of

__all__ = ["LinkSocket", "Peer"]

LINK_PATH = "/api/v1/nodes/link"
PING_EVERY = 2.0
"""Seconds between pings."""

DEAD_AFTER = 6.0
"""Seconds of silence after which the control plane is given up."""

GREETING = 10.0
"""Seconds that connecting and greeting may take."""

MAX_OUTBOX = 20_000
"""Frames that wait for the wire; beyond that the link is opened anew, which sends only what is still owed."""

_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0
_LONGEST_LOCAL_DELAY = 1.0
_MAX_INCOMING = 16 * 1024 * 1024


class Peer(Protocol):
    """What lives at this end of the link."""

    def hello(self, challenge: Challenge) -> Hello:
        """Return the signed introduction."""

    def welcomed(self, welcome: Welcome, url: str) -> None:
        """The link stands."""

    def received(self, frame: Any) -> None:
        """A frame came; must not block."""

    def lost(self, url: str, why: str) -> None:
        """The link is gone, or could not be opened."""


class _Lost(Exception):
    """The link ended; the text says why."""


class LinkSocket:
    """Keeps a link open.

    Args:
        peer: Who is linked.
        url: Gives the control plane's address, asked before each attempt.
        api_key: Key for it, if any.
    """

    def __init__(self, peer: Peer, *, url: Callable[[], str], api_key: str | None = None) -> None:
        self._peer = peer
        self._url = url
        self._api_key = api_key
        self._outbox: asyncio.Queue[str] | None = None
        self._overflow = asyncio.Event()
        self._heard = 0.0

    def send(self, frame: Any) -> None:
        """Queue a frame for the link that stands; without one it is dropped, since what is owed is sent again."""
        if self._outbox is None:
            return
        try:
            self._outbox.put_nowait(encode_frame(frame))
        except asyncio.QueueFull:
            self._overflow.set()

    async def run(self) -> NodeRefused:
        """Keep the link open until the control plane refuses the node for good; return that refusal."""
        delay = _FIRST_DELAY
        while True:
            url = self._url()
            welcomed, why = False, ""
            try:
                async with self._connected(url) as socket:
                    welcomed = True
                    why = await self._pump(socket)
            except NodeRefused as refused:
                if not refused.data.get("retry"):
                    return refused
                why = refused.message
            except (aiohttp.ClientError, OSError, TimeoutError, _Lost) as error:
                why = _reason(error)
            self._peer.lost(url, why)
            longest = _LONGEST_LOCAL_DELAY if is_loopback(url) else _LONGEST_DELAY
            delay = _FIRST_DELAY if welcomed else min(delay * 2, longest)
            # Jitter keeps a fleet of nodes from knocking all at the same instant.
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 -- no secret depends on it

    @asynccontextmanager
    async def _connected(self, url: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        timeout = aiohttp.ClientWSTimeout(ws_close=2.0)
        async with aiohttp.ClientSession(trust_env=not is_loopback(url)) as http:
            async with asyncio.timeout(GREETING):
                try:
                    socket = await http.ws_connect(
                        _link_url(url), headers=headers, timeout=timeout, max_msg_size=_MAX_INCOMING
                    )
                except aiohttp.WSServerHandshakeError as error:
                    raise _handshake_error(url, error.status) from error
            try:
                async with asyncio.timeout(GREETING):
                    welcome = await self._greet(socket, url)
                self._outbox = asyncio.Queue(MAX_OUTBOX)
                self._overflow.clear()
                self._peer.welcomed(welcome, url)
                yield socket
            finally:
                self._outbox = None
                await socket.close()

    async def _greet(self, socket: aiohttp.ClientWebSocketResponse, url: str) -> Welcome:
        challenge, *_ = await _receive(socket)
        if isinstance(challenge, Refused):
            raise _refusal(challenge)
        if not isinstance(challenge, Challenge):
            raise _Lost("the control plane did not open with a challenge")
        if challenge.protocol != PROTOCOL:
            raise NodeRefused(
                f"The control plane at {url} speaks version {challenge.protocol} of the node link, this node {PROTOCOL}.",
                hint="Install the same version of agentfield-core and agentfield-server.",
            )
        await socket.send_str(encode_frame(self._peer.hello(challenge)))
        answer, *_ = await _receive(socket)
        match answer:
            case Welcome():
                return answer
            case Refused():
                raise _refusal(answer)
            case _:
                raise _Lost(f"the control plane answered hello with {answer.type}")

    async def _pump(self, socket: aiohttp.ClientWebSocketResponse) -> str:
        """Carry frames both ways until the link is lost; return why."""
        pumps = [
            asyncio.create_task(self._read(socket)),
            asyncio.create_task(self._write(socket)),
            asyncio.create_task(self._watch()),
        ]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        error = next(filter(None, (pump.exception() for pump in done if not pump.cancelled())), None)
        if error is None or isinstance(error, (aiohttp.ClientError, OSError, TimeoutError, _Lost)):
            return _reason(error) if error else "the link was closed"
        raise error

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        loop = asyncio.get_running_loop()
        while True:
            frames = await _receive(socket)
            self._heard = loop.time()
            for frame in frames:
                if isinstance(frame, Refused):
                    raise _refusal(frame)
                try:
                    self._peer.received(frame)
                except AgentFieldError as error:
                    raise _Lost(error.message) from error

    async def _write(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        outbox = self._outbox
        while outbox is not None:
            text = message_of(await outbox.get(), outbox)
            async with asyncio.timeout(DEAD_AFTER):
                await socket.send_str(text)

    async def _watch(self) -> None:
        """Ping, and give the control plane up when it is silent; a loop that user code blocked is no silence."""
        loop = asyncio.get_running_loop()
        last = self._heard = loop.time()
        while loop.time() - self._heard < DEAD_AFTER:
            self.send(Ping())
            try:
                async with asyncio.timeout(PING_EVERY):
                    await self._overflow.wait()
                raise _Lost("more frames wait than the link can carry")
            except TimeoutError:
                pass
            now = loop.time()
            if now - last > 2 * PING_EVERY:
                self._heard = now
            last = now
        raise _Lost(f"the control plane was silent for {DEAD_AFTER:g} seconds")


async def _receive(socket: aiohttp.ClientWebSocketResponse) -> list[Any]:
    message = await socket.receive()
    match message.type:
        case aiohttp.WSMsgType.TEXT:
            try:
                return [decode_server_frame(frame) for frame in frames_of(message.data)]
            except ValidationError as error:
                kind = _type_of(message.data)
                raise _Lost(f"the control plane sent a frame that this node cannot read ({kind})") from error
        case aiohttp.WSMsgType.CLOSE | aiohttp.WSMsgType.CLOSING | aiohttp.WSMsgType.CLOSED:
            raise _Lost("the control plane closed the link")
        case _:
            raise _Lost(f"the control plane sent a message that is no text ({message.type.name})")


def _type_of(text: str) -> str:
    try:
        return str(json.loads(text)["type"])[:40]
    except (ValueError, KeyError, TypeError):
        return "no JSON frame"


def _refusal(frame: Refused) -> NodeRefused:
    problem = frame.problem
    message = str(problem.get("detail") or problem.get("title") or "The control plane refused this node.")
    code = str(problem.get("code") or NodeRefused.code)
    return NodeRefused(message, code=code, hint=problem.get("hint"), retry=frame.retry)


def _handshake_error(url: str, status: int) -> Exception:
    if status in {401, 403}:
        return NodeRefused(
            f"The control plane at {url} does not accept this node's API key."
            if status == 401
            else f"The control plane at {url} does not let this node link.",
            hint="Set AGENTFIELD_API_KEY to the control plane's key.",
        )
    return _Lost(f"what answers at {url} does not open node links (HTTP {status})")


def _link_url(url: str) -> str:
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + LINK_PATH, "", ""))


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return "nothing answers there"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    return str(error) or type(error).__name__
