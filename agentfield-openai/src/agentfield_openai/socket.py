"""WebSocket of a session: the sideband of a call or a connection of its own; opened with retries, reopened after a drop."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.http11 import Response

from agentfield.adapterkit.refusals import unreachable_error
from agentfield.adapterkit.urls import proxy_for, socket_url
from agentfield.errors import AgentFieldError, ProviderUnavailable
from agentfield_openai.immediate_connection import ImmediateConnection
from agentfield_openai.provider import RealtimeProvider
from agentfield_openai.refusals import call_not_found, refusal_error

__all__ = ["ConnectionDropped", "RealtimeSocket"]

_MAX_FRAME = 32 * 1024 * 1024
"""Largest frame; an item may carry 15 MiB of audio as base64."""
_MAX_WAITING = 1024
"""Queued frames beyond which the connection stops reading (backpressure)."""
_OPEN_TIMEOUT = 10.0
_CLOSE_TIMEOUT = 2.0
_SEND_TIMEOUT = 10.0
_RETRY_DELAYS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds between attempts; a new call may not be known at every server of the provider yet."""
_REOPEN_DELAYS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
_REATTACH_CODES = frozenset({1001, 1005, 1006, 1011, 1012, 1013, 1015})
"""Close codes after which the sideband can be attached to the same call again."""
_PROTOCOL_ERROR_CODES = frozenset({1002, 1003, 1007, 1008, 1009, 1010})
"""Close codes of protocol errors (RFC 6455, section 7.4.1); they do not mean that the call has ended."""


class ConnectionDropped(Exception):
    """The connection was lost.

    Args:
        code: The WebSocket close code.
        reason: The close reason, without secrets.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"the connection was closed with code {code}")
        self.code = code
        self.reason = reason

    @property
    def can_reattach(self) -> bool:
        """Whether the sideband may be attached again."""
        return self.code in _REATTACH_CODES

    @property
    def is_protocol_error(self) -> bool:
        """Whether the connection was closed because of a protocol error, not because the call ended."""
        return self.code in _PROTOCOL_ERROR_CODES


class RealtimeSocket:
    """A WebSocket of the protocol: the sideband of a call (`call`), or a session of its own (`conversation`).

    One reader calls `receive` and, after a drop, `reopen`; any task may call `send`.

    Args:
        provider: The service.
        query: Query parameter of the address, ``call_id`` or ``model``, and its value.
        logger: Logger; the bytes and headers of the connection are never logged.
        headers: Headers besides the key.
        retry_delays: Seconds between attempts to open it while the provider does not know the call.
    """

    def __init__(
        self,
        provider: RealtimeProvider,
        query: tuple[Literal["call_id", "model"], str],
        logger: logging.Logger,
        *,
        headers: Mapping[str, str] | None = None,
        retry_delays: Sequence[float] = (),
    ) -> None:
        self._provider = provider
        self._name, self._value = query
        self._what = "attach to the call" if self._name == "call_id" else "open the session"
        path = f"{provider.dialect.socket_path}?{self._name}={quote(self._value, safe='')}"
        self._url = f"{socket_url(provider.base_url)}{path}"
        self._headers = {**provider.dialect.headers, **(headers or {})}
        self._retry_delays = retry_delays
        # a logger of its own at INFO: the library logs every header at DEBUG, and one of them is the key
        self._logger = logging.Logger("agentfield_openai.socket", logging.INFO)  # noqa: LOG001
        self._logger.parent = logger
        self._connection: ImmediateConnection | None = None
        self.look: Callable[[bytes], bool] | None = None
        """Consumes a text frame on arrival while the reader waits in `receive` with an empty queue (`ImmediateConnection`)."""
        self._up = asyncio.Event()
        self._closed = False

    @classmethod
    def call(
        cls,
        provider: RealtimeProvider,
        call_id: str,
        logger: logging.Logger,
        *,
        retry_delays: Sequence[float] = _RETRY_DELAYS,
    ) -> RealtimeSocket:
        """Return the sideband of a call."""
        return cls(provider, ("call_id", call_id), logger, retry_delays=retry_delays)

    @classmethod
    def conversation(
        cls, provider: RealtimeProvider, model: str, logger: logging.Logger, *, safety_id: str | None = None
    ) -> RealtimeSocket:
        """Return the socket of a new session with a model; a refusal is final.

        Args:
            provider: The service.
            model: The model.
            logger: Logger.
            safety_id: Stable hash of the end user's identity.
        """
        name = provider.dialect.safety_header
        headers = {name: safety_id} if name is not None and safety_id is not None else None
        return cls(provider, ("model", model), logger, headers=headers)

    async def open(self) -> None:
        """Connect.

        Raises:
            NotFound: The provider does not know the call, even after a few seconds.
            ProviderError: The provider refused.
            ProviderUnavailable: The provider could not be reached in time.
        """
        await self._open(self._retry_delays, reattaching=False)

    async def reopen(self) -> None:
        """Attach again after `ConnectionDropped`.

        Raises:
            NotFound: The call has ended.
            ProviderError: The provider refused.
            ProviderUnavailable: The provider could not be reached in time.
        """
        self._up.clear()
        await self._open(_REOPEN_DELAYS, reattaching=True)

    async def send(self, event: Mapping[str, Any]) -> None:
        """Send one client event; wait up to ten seconds while the reader reopens the connection.

        Raises:
            ProviderUnavailable: There is no connection.
        """
        data = json.dumps(event, ensure_ascii=False)
        try:
            async with asyncio.timeout(_SEND_TIMEOUT):
                while not await self._sent(data):
                    if self.closed():
                        raise self._unavailable()
        except TimeoutError:
            raise self._unavailable() from None

    async def send_now(self, event: Mapping[str, Any]) -> bool:
        """Send one client event from the reader task; return whether the connection was up.

        The reader must not wait for a reopened connection as `send` does, because it is the task that reopens it.
        """
        try:
            async with asyncio.timeout(_SEND_TIMEOUT):
                return self._up.is_set() and await self._sent(json.dumps(event, ensure_ascii=False))
        except TimeoutError:
            return False

    def post(self, data: bytes) -> bool:
        """Send a serialised client event if that needs no waiting; return whether it was sent."""
        return self._connection is not None and not self._closed and self._up.is_set() and self._connection.post(data)

    async def receive(self, timeout: float | None = None) -> str | bytes | None:  # noqa: ASYNC109 - None is an answer here
        """Return the next frame, None if none arrives within `timeout` seconds.

        Raises:
            ConnectionDropped: The connection was lost; all earlier frames were returned.
        """
        if self._connection is None:
            raise ConnectionDropped(1000)
        try:
            if timeout is None:
                return await self._next(self._connection)
            async with asyncio.timeout(timeout):
                return await self._connection.recv()
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            if self._closed:
                raise ConnectionDropped(1000) from None
            if closed.rcvd is None:
                raise ConnectionDropped(1006) from None
            raise ConnectionDropped(closed.rcvd.code, self._provider.clean(closed.rcvd.reason)) from None

    async def _next(self, connection: ImmediateConnection) -> str | bytes:
        connection.look = self.look
        connection.drained = True
        try:
            return await connection.recv()
        finally:
            connection.drained = False

    def give_up(self) -> None:
        """Fail the senders, now and from now on: nobody reads any more, so nobody reopens a dropped connection. Idempotent."""
        self._closed = True
        self._up.set()

    async def close(self) -> None:
        """Close the connection; a call continues without it. Idempotent."""
        self.give_up()
        if self._connection is not None:
            await self._connection.close()

    async def _sent(self, data: str) -> bool:
        """Send on the current connection; return whether it stayed up."""
        await self._up.wait()
        connection = self._connection
        if connection is None or self._closed:
            return False
        try:
            await connection.send(data)
        except ConnectionClosed:
            if self._connection is connection:
                self._up.clear()  # the reader notices the close too, and reopens or closes for good
            return False
        return True

    async def _open(self, retry_delays: Sequence[float], *, reattaching: bool) -> None:
        """Connect, with further attempts after errors that may be temporary.

        Args:
            retry_delays: Seconds after each attempt but the last.
            reattaching: Whether the call was known before. Then an unreachable provider is tried again, and an unknown
                call has ended; on the first attachment an unknown call may just not have spread yet.
        """
        for pause in (*retry_delays, None):
            try:
                await self._connect()
            except _Refused as refusal:
                temporary = refusal.status >= 500 or (refusal.status == 404 and not reattaching)
                if pause is None or not temporary:
                    raise refusal.error from None
            except ProviderUnavailable:
                if pause is None or not reattaching:
                    raise
            else:
                return
            await asyncio.sleep(pause)

    async def _connect(self) -> None:
        if self.closed():
            raise self._unavailable()
        try:
            connection = await connect(
                self._url,
                create_connection=ImmediateConnection,
                additional_headers={**self._headers, **self._provider.bearer()},
                compression=None,  # base64 audio does not compress
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
            raise unreachable_error(self._provider, self._what, error) from None
        if not isinstance(connection, ImmediateConnection):
            raise TypeError("websockets did not use create_connection")
        self._connection = connection
        if self.closed():
            await connection.close()
            raise self._unavailable()
        self._up.set()

    def closed(self) -> bool:
        """Return whether `close` or `give_up` was called."""
        return self._closed

    def _refusal(self, response: Response) -> _Refused:
        status, body = response.status_code, bytes(response.body or b"")[: 64 * 1024]
        if status == 404 and self._name == "call_id":
            return _Refused(status, call_not_found(self._provider, self._value))
        retry_after = response.headers.get("Retry-After")
        return _Refused(status, refusal_error(self._provider, self._what, status, body, retry_after=retry_after))

    def _unavailable(self) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"The connection to the session at {self._provider.title} is closed.", provider_code="connection_gone"
        )


class _Refused(Exception):
    def __init__(self, status: int, error: AgentFieldError) -> None:
        super().__init__(status)
        self.status = status
        self.error = error
