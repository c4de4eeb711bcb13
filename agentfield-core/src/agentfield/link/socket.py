"""The WebSocket of a node link: negotiation, handshake, pings and reconnection with backoff."""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from agentfield.errors import AgentFieldError, InvalidInput, NodeRefused
from agentfield.link.results import UnsignedResult, unsigned
from agentfield.settings import client_tls, is_loopback
from agentfield.wire.frames import (
    Challenge,
    Ping,
    Refused,
    Welcome,
    decode_server_frame,
    encode_frame,
)
from agentfield.wire.framing import split_frames, take_frames
from agentfield.wire.link_protocol import PROTOCOLS, choose_protocol
from agentfield.wire.unreachable import unreachable_reason

__all__ = ["LinkDelegate", "LinkLost", "LinkSocket", "opened", "receive_frames"]

LINK_PATH = "/api/v1/nodes/link"
PING_INTERVAL = 2.0
"""Seconds between pings."""

SILENCE_TIMEOUT = 6.0
"""Seconds of silence after which the link counts as lost."""

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that connecting, and then the handshake, may take."""

MAX_OUTBOX = 20_000
"""Frames that may wait to be sent; beyond that the link is reopened, which sends only what is still unanswered."""

_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0
_LONGEST_LOCAL_DELAY = 1.0
_FULL_KERNEL = 0.001
"""Seconds between two looks at a connection whose send buffer in the kernel is full."""

_LAST_FRAMES = 1.0
"""Seconds that the frames which wait at the end of a link may take."""

_MAX_INCOMING = 16 * 1024 * 1024


class LinkDelegate(Protocol):
    """The node at this end of the link, called by `LinkSocket`."""

    @property
    def newest_protocol(self) -> int:
        """Newest version of the link that the node's work can be reported in."""

    def hello(self, challenge: Challenge, protocol: int, url: str) -> str:
        """Return the signed introduction for the chosen version of the link, as it is sent.

        Raises:
            NodeRefused: The control plane is not the one that this node knows.
        """

    def welcomed(self, welcome: Welcome, url: str) -> None:
        """Handle an opened link.

        Raises:
            NodeRefused: The control plane does not prove its DID.
        """

    def message(self, frames: Iterable[str | UnsignedResult]) -> str:
        """Return the text of a message, with its results signed."""

    def received(self, frame: Any) -> None:
        """Handle a frame without blocking."""

    def lost(self, url: str, reason: str) -> None:
        """Handle a link that was lost or could not be opened."""


class LinkLost(Exception):
    """Ends a connection; the text is the reason."""


class _WebSocket(aiohttp.ClientWebSocketResponse):
    """A WebSocket that knows whether the kernel has everything that was sent."""

    def __init__(
        self,
        reader: Any,
        writer: Any,
        protocol: str | None,
        response: aiohttp.ClientResponse,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(reader, writer, protocol, response, *args, **kwargs)
        connection = response.connection
        self._transport: Any = None if connection is None else connection.transport

    async def flushed(self) -> None:
        """Return once the kernel has everything that was sent."""
        # the event loop writes to the kernel at once, or at its next turn; it keeps what a full send buffer does not take
        while self._transport is not None and self._transport.get_write_buffer_size():
            if self._transport.is_closing():
                raise ConnectionResetError("the connection was closed")
            await asyncio.sleep(_FULL_KERNEL)


class LinkSocket:
    """Keeps one WebSocket to the control plane open.

    Args:
        delegate: The node that is linked.
        url: Returns the control plane's address; called before each connection attempt.
        api_key: The control plane's API key, if it needs one.
    """

    def __init__(self, delegate: LinkDelegate, *, url: Callable[[], str], api_key: str | None = None) -> None:
        self._delegate = delegate
        self._url = url
        self._api_key = api_key
        self._outbox: asyncio.Queue[str | UnsignedResult] | None = None
        self._queued = 0
        """Frames that were put into the outbox of this link."""
        self._written = 0
        """Those of them that the kernel has."""
        self._writes: deque[tuple[int, asyncio.Future[bool]]] = deque()
        """By number of queued frames: who waits until the kernel has them."""
        self._overflow = asyncio.Event()
        self._heard = 0.0

    def send(self, frame: Any, leaf: bytes | None = None) -> None:
        """Queue a frame; without a link it is dropped, since `LinkState` sends unanswered frames again on the next one.

        Args:
            frame: The frame.
            leaf: Of a result that is signed when it is written: its leaf.
        """
        if self._outbox is None:
            return
        try:
            self._outbox.put_nowait(encode_frame(frame) if leaf is None else unsigned(frame, leaf))
            self._queued += 1
        except asyncio.QueueFull:
            self._overflow.set()

    async def written(self) -> bool:
        """Wait until the kernel has every frame that was queued before; return False if the link is lost before."""
        if self._outbox is None:
            return False
        if self._written == self._queued:
            return True
        done = asyncio.get_running_loop().create_future()
        self._writes.append((self._queued, done))
        return bool(await done)

    async def run(self) -> NodeRefused:
        """Keep the link open until the control plane refuses the node for good, and return that refusal."""
        delay = _FIRST_DELAY
        while True:
            url = self._url()
            welcomed, reason = False, ""
            try:
                async with self._connected(url) as socket:
                    welcomed = True
                    reason = await self._pump(socket)
            except NodeRefused as refused:
                if not refused.data.get("retry"):
                    return refused
                reason = refused.message
            except (aiohttp.ClientError, OSError, TimeoutError, LinkLost) as error:
                reason = unreachable_reason(error)
            self._delegate.lost(url, reason)
            longest = _LONGEST_LOCAL_DELAY if is_loopback(url) else _LONGEST_DELAY
            delay = _FIRST_DELAY if welcomed else min(delay * 2, longest)
            # Jitter keeps a fleet of nodes from reconnecting at the same instant.
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 -- not used for cryptography

    @asynccontextmanager
    async def _connected(self, url: str) -> AsyncIterator[_WebSocket]:
        async with opened(url, self._api_key) as socket:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                welcome = await self._handshake(socket, url)
            outbox = self._outbox = asyncio.Queue[str | UnsignedResult](MAX_OUTBOX)
            self._queued = self._written = 0
            self._overflow.clear()
            try:
                self._delegate.welcomed(welcome, url)
                yield socket
            finally:
                self._outbox = None
                while self._writes:
                    _resolve(self._writes.popleft()[1], written=False)
                # a link that is closed in order has delivered all that was sent over it
                with suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with asyncio.timeout(_LAST_FRAMES):
                        while not outbox.empty() and not socket.closed:
                            frames = take_frames(outbox.get_nowait(), outbox)
                            await socket.send_str(self._delegate.message(frames))

    async def _handshake(self, socket: aiohttp.ClientWebSocketResponse, url: str) -> Welcome:
        challenge, *_ = await receive_frames(socket)
        if isinstance(challenge, Refused):
            raise _refusal(challenge)
        if not isinstance(challenge, Challenge):
            raise LinkLost("the control plane did not open with a challenge")
        offered = challenge.protocols or (challenge.protocol,)
        protocol = choose_protocol(offered, newest=self._delegate.newest_protocol)
        if protocol is None:
            raise NodeRefused(
                f"The control plane at {url} speaks version {_versions(offered)} of the node link,"
                f" this node {_versions(PROTOCOLS)}.",
                hint="Install the same version of agentfield-core and agentfield-server.",
            )
        await socket.send_str(self._delegate.hello(challenge, protocol, url))
        answer, *_ = await receive_frames(socket)
        match answer:
            case Welcome():
                return answer
            case Refused():
                raise _refusal(answer)
            case _:
                raise LinkLost(f"the control plane answered hello with {answer.type}")

    async def _pump(self, socket: _WebSocket) -> str:
        """Carry frames both ways until the link is lost, and return the reason."""
        pumps = [
            asyncio.create_task(self._read(socket)),
            asyncio.create_task(self._write(socket)),
            asyncio.create_task(self._keep_alive()),
        ]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        error = next(filter(None, (pump.exception() for pump in done if not pump.cancelled())), None)
        if error is None or isinstance(error, (aiohttp.ClientError, OSError, TimeoutError, LinkLost)):
            return unreachable_reason(error) if error else "the link was closed"
        raise error

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        loop = asyncio.get_running_loop()
        while True:
            frames = await receive_frames(socket)
            self._heard = loop.time()
            for frame in frames:
                if isinstance(frame, Refused):
                    raise _refusal(frame)
                try:
                    self._delegate.received(frame)
                except AgentFieldError as error:
                    raise LinkLost(error.message) from error

    async def _write(self, socket: _WebSocket) -> None:
        outbox = self._outbox
        while outbox is not None:
            text = self._delegate.message(take_frames(await outbox.get(), outbox))
            taken = self._queued - outbox.qsize()
            async with asyncio.timeout(SILENCE_TIMEOUT):
                await socket.send_str(text)
                await socket.flushed()
            self._written = taken
            while self._writes and self._writes[0][0] <= taken:
                _resolve(self._writes.popleft()[1], written=True)

    async def _keep_alive(self) -> None:
        """Ping at intervals, and end the link when nothing arrives for `SILENCE_TIMEOUT` or the outbox overflows."""
        loop = asyncio.get_running_loop()
        last = self._heard = loop.time()
        while loop.time() - self._heard < SILENCE_TIMEOUT:
            self.send(Ping())
            try:
                async with asyncio.timeout(PING_INTERVAL):
                    await self._overflow.wait()
                raise LinkLost("more frames are queued than the link can carry")
            except TimeoutError:
                pass
            now = loop.time()
            # User code blocked the event loop: frames that arrived meanwhile are unread, which is not silence of the peer.
            if now - last > 2 * PING_INTERVAL:
                self._heard = now
            last = now
        raise LinkLost(f"the control plane was silent for {SILENCE_TIMEOUT:g} seconds")


@asynccontextmanager
async def opened(url: str, api_key: str | None) -> AsyncIterator[_WebSocket]:
    """Open a WebSocket to the control plane's node endpoint, and close it in order."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = aiohttp.ClientWSTimeout(ws_close=2.0)
    connector = aiohttp.TCPConnector(ssl=client_tls())
    async with aiohttp.ClientSession(
        connector=connector, trust_env=not is_loopback(url), ws_response_class=_WebSocket
    ) as http:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            try:
                socket = await http.ws_connect(
                    _link_url(url), headers=headers, timeout=timeout, max_msg_size=_MAX_INCOMING
                )
            except aiohttp.WSServerHandshakeError as error:
                raise _handshake_error(url, error.status) from error
        assert isinstance(socket, _WebSocket)  # noqa: S101 -- the class given to the session
        try:
            yield socket
        finally:
            await socket.close()


async def receive_frames(socket: aiohttp.ClientWebSocketResponse) -> list[Any]:
    """Return the frames of the next message.

    Raises:
        LinkLost: The link was closed, or a frame cannot be read.
    """
    message = await socket.receive()
    match message.type:
        case aiohttp.WSMsgType.TEXT:
            try:
                return [decode_server_frame(frame) for frame in split_frames(message.data)]
            except InvalidInput as error:
                kind = _type_of(message.data)
                raise LinkLost(f"the control plane sent a frame that this node cannot read ({kind})") from error
        case aiohttp.WSMsgType.CLOSE | aiohttp.WSMsgType.CLOSING | aiohttp.WSMsgType.CLOSED:
            raise LinkLost("the control plane closed the link")
        case _:
            raise LinkLost(f"the control plane sent a message that is not text ({message.type.name})")


def _resolve(done: asyncio.Future[bool], *, written: bool) -> None:
    if not done.done():
        done.set_result(written)


def _versions(versions: tuple[int, ...]) -> str:
    return " and ".join(map(str, versions))


def _type_of(text: str) -> str:
    try:
        return str(json.loads(text)["type"])[:40]
    except (ValueError, KeyError, TypeError):
        return "not a JSON frame"


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
            hint="set AGENTFIELD_API_KEY to a key with the scope node; an operator makes one with: af keys create --scope node",
        )
    return LinkLost(f"the server at {url} does not accept node links (HTTP {status})")


def _link_url(url: str) -> str:
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + LINK_PATH, "", ""))
