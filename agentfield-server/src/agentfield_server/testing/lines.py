"""How the test's caller reaches its session: by an offer, by the media socket, or with recordings; through REST like anybody."""

from __future__ import annotations

import array
import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Protocol, Self

import aiohttp

from agentfield.client import ControlPlaneClient
from agentfield.errors import AgentFieldError, CapabilityMissing, error_from_problem
from agentfield.testing.scripted import Scripted
from agentfield.testing.scripted_call import ScriptedCall
from agentfield.wire.rest import StartResponse

__all__ = ["CallerLine", "Lasting", "line_for"]

OFFER: Final = "\r\n".join(
    (
        "v=0",
        "o=- 1 1 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111",
        "c=IN IP4 0.0.0.0",
        "a=ice-ufrag:scripted",
        "a=ice-pwd:scriptedscriptedscripted",
        f"a=fingerprint:sha-256 {':'.join(['00'] * 32)}",
        "a=setup:actpass",
        "a=mid:0",
        "a=rtpmap:111 opus/48000/2",
        "",
    )
)
"""An offer that passes the gate and leads nowhere: there is no audio to be heard."""

_RATE = 24_000
_RECORDING = array.array("h", [600, -600] * (_RATE // 20)).tobytes()
"""A tenth of a second that is no silence; what is said in it, the script says."""


Lasting = Callable[[str], Awaitable[None]]
"""Goes on speaking, in the turn of this item, until the caller has spoken for long enough."""


class CallerLine(Protocol):
    """A caller's way to its session; an async context manager that lets go of it."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def says(self, text: str, *, failed: str | None, pause: str | None, lasting: Lasting | None) -> str | None:
        """Say something; returns the item of the turn, None where only its end tells it."""

    async def presses(self, digit: str) -> None:
        """Press a key of a telephone."""

    async def hangs_up(self) -> None:
        """End the call, as a caller does."""


def line_for(started: StartResponse, client: ControlPlaneClient, script: Scripted) -> CallerLine:
    """Return the line that fits the media of a session."""
    if started.offer_url is not None:
        return _OfferLine(started, client, script)
    return _MediaLine(started, client, script) if started.media_url is not None else _TurnsLine(started, client, script)


class _Line:
    """What all lines do alike."""

    def __init__(self, started: StartResponse, client: ControlPlaneClient, script: Scripted) -> None:
        self._id, self._token, self._client, self._script = started.session_id, started.token, client, script
        self._transport = started.transport

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def call(self) -> ScriptedCall:
        """Return the session's call at the provider."""
        return await self._script.call(self._id)

    async def _reached(self, carrier: asyncio.Task[None]) -> Self:
        """Return once there is a call at the provider, or raise why what should have made it is over."""
        reached = asyncio.create_task(self._script.call(self._id))
        try:
            await asyncio.wait({reached, carrier}, return_when=asyncio.FIRST_COMPLETED)
            if carrier.done():
                carrier.result()
            await reached
        except BaseException:
            reached.cancel()
            await asyncio.gather(reached, return_exceptions=True)
            await self.__aexit__(None, None, None)
            raise
        return self

    async def says(self, text: str, *, failed: str | None, pause: str | None, lasting: Lasting | None) -> str | None:
        """Speak, where the provider hears it."""
        call = await self.call()
        await call.still()
        if pause is not None:
            call.pause(pause)
        item = await call.begins()
        if lasting is not None:
            await lasting(item)
        return call.finishes(item, text, failed=failed)

    async def presses(self, digit: str) -> None:
        """Refuse: only the media socket has keys."""
        raise CapabilityMissing(f"Callers over {self._transport} have no keys to press {digit!r}.")

    async def hangs_up(self) -> None:
        """End the session with the caller's own token."""
        await self._client.end_session(self._id, token=self._token)


class _OfferLine(_Line):
    """Direct media: an offer, and then nothing that the control plane would carry."""

    async def __aenter__(self) -> Self:
        await self._client.offer(self._id, OFFER, token=self._token)
        return self


class _MediaLine(_Line):
    """Carried media: the WebSocket of a telephone bridge, on which nobody listens to the silence."""

    def __init__(self, started: StartResponse, client: ControlPlaneClient, script: Scripted) -> None:
        super().__init__(started, client, script)
        self._stack = AsyncExitStack()
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._socket = await self._stack.enter_async_context(self._client.media(self._id, self._token))
        self._reader = asyncio.create_task(self._read(self._socket), name=f"media of {self._id}")
        return await self._reached(self._reader)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._stack.aclose()

    async def says(self, text: str, *, failed: str | None, pause: str | None, lasting: Lasting | None) -> str | None:
        """Speak; where the caller says when it is done, send what was said and commit it."""
        call = await self.call()
        if call.config.turn_detection is not None:
            return await super().says(text, failed=failed, pause=pause, lasting=lasting)
        await call.still()
        if pause is not None:
            call.pause(pause)
        call.will_hear(text)
        if self._socket is not None:
            await self._socket.send_bytes(_RECORDING)
        await self._send({"type": "commit"})
        return None

    async def presses(self, digit: str) -> None:
        """Press a key."""
        await self._send({"type": "dtmf", "digit": digit})

    async def hangs_up(self) -> None:
        """Say that the call is over."""
        await self._send({"type": "hangup"})

    async def _send(self, frame: dict[str, str]) -> None:
        if self._socket is not None:
            await self._socket.send_json(frame)

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue  # the silence that the agent speaks
            frame = json.loads(message.data)
            if frame.get("type") == "error":
                raise error_from_problem(frame["problem"])


class _TurnsLine(_Line):
    """Recorded turns: each is posted, and its answer is read to the end."""

    def __init__(self, started: StartResponse, client: ControlPlaneClient, script: Scripted) -> None:
        super().__init__(started, client, script)
        self._answers: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        # listening is what makes the call: a greeting is heard before anything was recorded
        self._listener = asyncio.create_task(self._listen(), name=f"audio of {self._id}")
        return await self._reached(self._listener)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [task for task in (*self._answers, self._listener) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def says(self, text: str, *, failed: str | None, pause: str | None, lasting: Lasting | None) -> str | None:  # noqa: ARG002
        """Send a recording; how long it lasts, and what of it is understood, is not for the script to say."""
        call = await self.call()
        await call.still()
        if pause is not None:
            call.pause(pause)
        call.will_hear(text)
        item: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._turn(item), name=f"a recorded turn of {self._id}")
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)
        return await item

    async def _turn(self, item: asyncio.Future[str]) -> None:
        try:
            async for event in self._client.turn(self._id, _RECORDING, f"audio/pcm;rate={_RATE}", token=self._token):
                if event.get("type") == "turn" and not item.done():
                    item.set_result(event["item"])
        except AgentFieldError as error:
            if not item.done():
                item.set_exception(error)

    async def _listen(self) -> None:
        async for _ in self._client.session_events(self._id, self._token, audio=True):
            pass
