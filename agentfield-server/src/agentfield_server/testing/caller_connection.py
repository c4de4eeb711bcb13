"""The caller's connection to its session: WebRTC offer, media socket or recorded turns, over the public REST API."""

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
from agentfield.testing.scripted import ScriptedCall, ScriptedProvider
from agentfield.wire.rest import StartResponse

__all__ = ["CallerConnection", "KeepSpeaking", "connection_for"]

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
"""An offer that passes the SDP check; no media flows."""

_RATE = 24_000
_RECORDING = array.array("h", [600, -600] * (_RATE // 20)).tobytes()
"""A tenth of a second of noise; the script says what is understood."""

KeepSpeaking = Callable[[str], Awaitable[None]]
"""Keeps the caller speaking in the turn of this item for as long as the test asks."""


class CallerConnection(Protocol):
    """A caller's connection to its session; an async context manager."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def says(
        self, text: str, *, failed: str | None, pause: str | None, lasting: KeepSpeaking | None
    ) -> str | None:
        """Say something; return the item of the turn, None where it is known only when the turn ends."""

    async def presses(self, digit: str) -> None:
        """Press a telephone key."""

    async def hangs_up(self) -> None:
        """End the call from the caller's side."""


def connection_for(started: StartResponse, client: ControlPlaneClient, provider: ScriptedProvider) -> CallerConnection:
    """Return the connection that fits the media of a session."""
    if started.offer_url is not None:
        return _WebRtcConnection(started, client, provider)
    return (
        _MediaSocketConnection(started, client, provider)
        if started.media_url is not None
        else _RecordedTurnsConnection(started, client, provider)
    )


class _BaseConnection:
    """Behaviour that all connections share."""

    def __init__(self, started: StartResponse, client: ControlPlaneClient, provider: ScriptedProvider) -> None:
        self._id, self._token, self._client, self._provider = started.session_id, started.token, client, provider
        self._transport = started.transport

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def call(self) -> ScriptedCall:
        """Return the session's call at the provider."""
        return await self._provider.call(self._id)

    async def _reached(self, carrier: asyncio.Task[None]) -> Self:
        """Return once the provider has the call; raise the error of `carrier` if it ends first."""
        reached = asyncio.create_task(self._provider.call(self._id))
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

    async def says(
        self, text: str, *, failed: str | None, pause: str | None, lasting: KeepSpeaking | None
    ) -> str | None:
        """Speak; the provider hears it."""
        call = await self.call()
        await call.wait_paused()
        if pause is not None:
            call.pause_after(pause)
        item = await call.starts_speaking()
        if lasting is not None:
            await lasting(item)
        return call.stops_speaking(item, text, failed=failed)

    async def presses(self, digit: str) -> None:
        """Reject: only the media socket has keys."""
        raise CapabilityMissing(f"Callers over {self._transport} have no keys to press {digit!r}.")

    async def hangs_up(self) -> None:
        """End the session with the caller's token."""
        await self._client.end_session(self._id, token=self._token)


class _WebRtcConnection(_BaseConnection):
    """Direct media: an offer; the control plane carries no audio."""

    async def __aenter__(self) -> Self:
        await self._client.offer(self._id, OFFER, token=self._token)
        return self


class _MediaSocketConnection(_BaseConnection):
    """Carried media: the WebSocket of a telephone bridge; the agent's silent audio is discarded."""

    def __init__(self, started: StartResponse, client: ControlPlaneClient, provider: ScriptedProvider) -> None:
        super().__init__(started, client, provider)
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

    async def says(
        self, text: str, *, failed: str | None, pause: str | None, lasting: KeepSpeaking | None
    ) -> str | None:
        """Speak; without turn detection, send a recording and commit the turn."""
        call = await self.call()
        if call.config.turn_detection is not None:
            return await super().says(text, failed=failed, pause=pause, lasting=lasting)
        await call.wait_paused()
        if pause is not None:
            call.pause_after(pause)
        call.queue_recording(text)
        if self._socket is not None:
            await self._socket.send_bytes(_RECORDING)
        await self._send({"type": "commit"})
        return None

    async def presses(self, digit: str) -> None:
        """Press a key."""
        await self._send({"type": "dtmf", "digit": digit})

    async def hangs_up(self) -> None:
        """Send `hangup`."""
        await self._send({"type": "hangup"})

    async def _send(self, frame: dict[str, str]) -> None:
        if self._socket is not None:
            await self._socket.send_json(frame)

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue  # audio of the agent, which is silence
            frame = json.loads(message.data)
            if frame.get("type") == "error":
                raise error_from_problem(frame["problem"])


class _RecordedTurnsConnection(_BaseConnection):
    """Recorded turns: each is posted, and its response is read to the end."""

    def __init__(self, started: StartResponse, client: ControlPlaneClient, provider: ScriptedProvider) -> None:
        super().__init__(started, client, provider)
        self._answers: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        # the event stream opens the call: a greeting is spoken before the first recording
        self._listener = asyncio.create_task(self._listen(), name=f"audio of {self._id}")
        return await self._reached(self._listener)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [task for task in (*self._answers, self._listener) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def says(
        self,
        text: str,
        *,
        failed: str | None,  # noqa: ARG002 - the provider transcribes what the script says
        pause: str | None,
        lasting: KeepSpeaking | None,  # noqa: ARG002
    ) -> str | None:
        """Post a recording; its duration is fixed and its transcription cannot fail."""
        call = await self.call()
        await call.wait_paused()
        if pause is not None:
            call.pause_after(pause)
        call.queue_recording(text)
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
