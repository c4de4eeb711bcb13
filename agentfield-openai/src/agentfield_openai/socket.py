"""The carrier of a session: a WebSocket into a call or of its own, opened with patience, and again when it drops, closed once."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidState, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import Event

from agentfield.adapterkit.network import proxy_for, socket_url
from agentfield.adapterkit.refusals import unreachable
from agentfield.errors import AgentFieldError, ProviderUnavailable
from agentfield_openai.account import RealtimeProvider
from agentfield_openai.refusals import call_not_found, refused

__all__ = ["Dropped", "RealtimeSocket"]

_MAX_FRAME = 32 * 1024 * 1024
"""An item may carry 15 MiB of audio as base64."""
_MAX_WAITING = 1024
"""Frames that wait to be read before the provider is made to wait."""
_OPEN_TIMEOUT = 10.0
_CLOSE_TIMEOUT = 2.0
_SEND_TIMEOUT = 10.0
_PATIENCE = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds between attempts: a call that was just created may not be known everywhere yet."""
_REOPEN_PATIENCE = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
_COMES_BACK = frozenset({1001, 1005, 1006, 1011, 1012, 1013, 1015})
"""Close codes after which the same call can be attached to again."""
_FAULTS = frozenset({1002, 1003, 1007, 1008, 1009, 1010})
"""Close codes that say that somebody did something wrong (RFC 6455, section 7.4.1); no call is over by them."""

_BETWEEN = frozenset({Opcode.PING, Opcode.PONG})
"""Frames that may come in the midst of a message."""


class Dropped(Exception):
    """The connection is gone.

    Args:
        code: The WebSocket close code.
        reason: What was said about it, without secrets.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"the connection was closed with code {code}")
        self.code = code
        self.reason = reason

    @property
    def comes_back(self) -> bool:
        """Whether it may be opened again."""
        return self.code in _COMES_BACK

    @property
    def is_fault(self) -> bool:
        """Whether it was closed because of a mistake, and not because the call is over."""
        return self.code in _FAULTS


class _Connection(ClientConnection):
    """A connection that can be written to without waiting, and whose frames can be looked at as they arrive.

    What arrives as exactly one text frame, which is how audio comes as it is spoken, is looked at before the library's
    parser sees it; that costs a tenth of a carried call less. Everything else, and what was looked at and not taken, is the
    library's to parse.
    """

    look: Callable[[bytes], bool] | None = None
    """Takes a whole text frame, or leaves it to be received."""
    drained = False
    """Whether the reader waits and has nothing to read."""
    _head = b""
    """What was received of the handshake."""
    _rest: int | None = None
    """Bytes that the parser holds of a frame that is not whole, None until the handshake is over."""
    _alone = True
    """Whether a text frame would be a whole message: none is half read, and the peer has not said goodbye."""

    def data_received(self, data: bytes) -> None:
        """Let `look` have what is one text frame; the parser gets the rest."""
        if self._rest is None:
            self._head += data
        elif self._rest == 0 and self._alone and self.drained and self.look is not None and _is_text_frame(data):
            if self.look(data[4:]):
                return
            self._rest = len(data)
        else:
            self._rest += len(data)
        super().data_received(data)

    def process_event(self, event: Event) -> None:
        """Let `look` have a text frame if nothing before it waits to be read."""
        if not isinstance(event, Frame):  # the answer to the handshake; frames may follow on its heels
            _, _, after = self._head.partition(b"\r\n\r\n")
            self._rest, self._head = len(after), b""
        else:
            self._rest = (self._rest or 0) - _frame_size(event)
            if event.opcode not in _BETWEEN:
                self._alone = event.fin and event.opcode is not Opcode.CLOSE
                if self._taken(event):
                    return
                self.drained = False
        super().process_event(event)

    def _taken(self, frame: Frame) -> bool:
        whole = frame.fin and frame.opcode is Opcode.TEXT
        return whole and self.drained and self.look is not None and self.look(bytes(frame.data))

    def post(self, data: bytes) -> bool:
        """Write a text frame, or nothing; returns whether it was written."""
        if self.paused:
            return False
        try:
            self.protocol.send_text(data)
        except InvalidState:
            return False
        for piece in self.protocol.data_to_send():
            self.transport.write(piece)
        return True


def _is_text_frame(data: bytes) -> bool:
    """Tell whether it is one whole text frame of 126 to 65535 bytes as a server writes it (RFC 6455, section 5.2)."""
    return data[:2] == b"\x81\x7e" and int.from_bytes(data[2:4], "big") == len(data) - 4


def _frame_size(frame: Frame) -> int:
    """Return how long a server's frame is at least; one with a wasteful length only looks as if bytes of it were left."""
    size = len(frame.data)
    return size + (2 if size < 126 else 4 if size < 65536 else 10)


class RealtimeSocket:
    """A WebSocket of the protocol: `call` is a second leg of a call, `conversation` a session of its own.

    Args:
        provider: Whom to talk to.
        query: What the address asks for, ``call_id`` or ``model``, and the value.
        logger: Where to report; the bytes and headers of the connection are never logged.
        headers: Headers beside the key.
        patience: Seconds between attempts to open it while the provider does not know the call.
    """

    def __init__(
        self,
        provider: RealtimeProvider,
        query: tuple[Literal["call_id", "model"], str],
        logger: logging.Logger,
        *,
        headers: Mapping[str, str] | None = None,
        patience: Sequence[float] = (),
    ) -> None:
        self._provider = provider
        self._name, self._value = query
        self._what = "attach to the call" if self._name == "call_id" else "open the session"
        path = f"{provider.dialect.socket_path}?{self._name}={quote(self._value, safe='')}"
        self._url = f"{socket_url(provider.base_url)}{path}"
        self._headers = {**provider.dialect.headers, **(headers or {})}
        self._patience = patience
        # of its own, since the library logs every header at DEBUG and one of them is the key
        self._logger = logging.Logger("agentfield_openai.socket", logging.INFO)  # noqa: LOG001
        self._logger.parent = logger
        self._connection: _Connection | None = None
        self.look: Callable[[bytes], bool] | None = None
        """May take a text frame as it arrives, while the reader waits in `receive` and has read all before it."""
        self._up = asyncio.Event()
        self._closed = False

    @classmethod
    def call(
        cls, provider: RealtimeProvider, call_id: str, logger: logging.Logger, *, patience: Sequence[float] = _PATIENCE
    ) -> RealtimeSocket:
        """Return the sideband of a call."""
        return cls(provider, ("call_id", call_id), logger, patience=patience)

    @classmethod
    def conversation(
        cls, provider: RealtimeProvider, model: str, logger: logging.Logger, *, safety_id: str | None = None
    ) -> RealtimeSocket:
        """Return the socket of a session of its own with a model; a refusal is final.

        Args:
            provider: Whom to talk to.
            model: The model.
            logger: Where to report.
            safety_id: A stable hash that stands for the end user.
        """
        name = provider.dialect.safety_header
        headers = {name: safety_id} if name is not None and safety_id is not None else None
        return cls(provider, ("model", model), logger, headers=headers)

    async def open(self) -> None:
        """Connect.

        Raises:
            NotFound: The provider has no such call, also after a few seconds.
            ProviderError: It refused.
            ProviderUnavailable: It could not be reached in time.
        """
        await self._open(self._patience, insist=False)

    async def reopen(self) -> None:
        """Attach again after `Dropped`.

        Raises:
            NotFound: The call is over.
            ProviderError: The provider refused.
            ProviderUnavailable: It could not be reached in time.
        """
        self._up.clear()
        await self._open(_REOPEN_PATIENCE, insist=True)

    async def send(self, event: Mapping[str, Any]) -> None:
        """Send one client event; waits a moment for a connection that the reader is opening again.

        Raises:
            ProviderUnavailable: There is no connection.
        """
        data = json.dumps(event, ensure_ascii=False)
        try:
            async with asyncio.timeout(_SEND_TIMEOUT):
                while not await self._sent(data):
                    if self.closed():
                        raise self._gone()
        except TimeoutError:
            raise self._gone() from None

    async def send_now(self, event: Mapping[str, Any]) -> bool:
        """Send one client event as the reader, who waits for nobody; tell whether the connection was up."""
        try:
            async with asyncio.timeout(_SEND_TIMEOUT):
                return self._up.is_set() and await self._sent(json.dumps(event, ensure_ascii=False))
        except TimeoutError:
            return False

    def post(self, data: bytes) -> bool:
        """Send the text of one client event if that needs no waiting; tell whether it was sent."""
        return self._connection is not None and not self._closed and self._up.is_set() and self._connection.post(data)

    async def receive(self, timeout: float | None = None) -> str | bytes | None:  # noqa: ASYNC109 - None is an answer here
        """Return the next frame, None when none came within `timeout` seconds.

        Raises:
            Dropped: The connection is gone; all frames that arrived before were returned.
        """
        if self._connection is None:
            raise Dropped(1000)
        try:
            if timeout is None:
                return await self._next(self._connection)
            async with asyncio.timeout(timeout):
                return await self._connection.recv()
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            if self._closed:
                raise Dropped(1000) from None
            if closed.rcvd is None:
                raise Dropped(1006) from None
            raise Dropped(closed.rcvd.code, self._provider.clean(closed.rcvd.reason)) from None

    async def _next(self, connection: _Connection) -> str | bytes:
        connection.look = self.look
        connection.drained = True
        try:
            return await connection.recv()
        finally:
            connection.drained = False

    async def close(self) -> None:
        """Close the connection; the call goes on. Idempotent."""
        self._closed = True
        self._up.set()
        if self._connection is not None:
            await self._connection.close()

    async def _sent(self, data: str) -> bool:
        """Send on the connection that is up; tell whether it was up to the end."""
        await self._up.wait()
        connection = self._connection
        if connection is None or self._closed:
            return False
        try:
            await connection.send(data)
        except ConnectionClosed:
            if self._connection is connection:
                self._up.clear()  # until the reader has noticed, and opened it again or closed it for good
            return False
        return True

    async def _open(self, patience: Sequence[float], *, insist: bool) -> None:
        """Try until it is open, or the error is one that waiting does not cure.

        Args:
            patience: Seconds after each attempt but the last.
            insist: Whether to try again when the provider is not reachable; an unknown call is then over.
        """
        for pause in (*patience, None):
            try:
                await self._connect()
            except _Refused as refusal:
                cured = refusal.status >= 500 or (refusal.status == 404 and not insist)
                if pause is None or not cured:
                    raise refusal.error from None
            except ProviderUnavailable:
                if pause is None or not insist:
                    raise
            else:
                return
            await asyncio.sleep(pause)

    async def _connect(self) -> None:
        if self.closed():
            raise self._gone()
        try:
            connection = await connect(
                self._url,
                create_connection=_Connection,
                additional_headers={**self._headers, **self._provider.bearer()},
                compression=None,  # audio does not shrink
                max_size=_MAX_FRAME,
                max_queue=_MAX_WAITING,
                open_timeout=_OPEN_TIMEOUT,
                close_timeout=_CLOSE_TIMEOUT,
                proxy=proxy_for(self._provider.base_url),
                logger=self._logger,
            )
        except InvalidStatus as error:
            raise self._refusal(error.response) from None
        except (OSError, TimeoutError, InvalidHandshake) as error:
            raise unreachable(self._provider, self._what, error) from None
        if not isinstance(connection, _Connection):
            raise TypeError("the library made a connection of another kind")
        self._connection = connection
        if self.closed():
            await connection.close()
            raise self._gone()
        self._up.set()

    def closed(self) -> bool:
        """Tell whether `close` was called."""
        return self._closed

    def _refusal(self, response: Response) -> _Refused:
        status, body = response.status_code, bytes(response.body or b"")[: 64 * 1024]
        if status == 404 and self._name == "call_id":
            return _Refused(status, call_not_found(self._provider, self._value))
        retry_after = response.headers.get("Retry-After")
        return _Refused(status, refused(self._provider, self._what, status, body, retry_after=retry_after))

    def _gone(self) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"The connection to the session at {self._provider.title} is gone.", provider_code="connection_gone"
        )


class _Refused(Exception):
    def __init__(self, status: int, error: AgentFieldError) -> None:
        super().__init__(status)
        self.status = status
        self.error = error
