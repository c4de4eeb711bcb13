"""The server as an object: start it in a process of its own or inside a test, look at its calls, stop it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from aiohttp import web

from agentfield.errors import InvalidInput
from agentfield_local.access import Access
from agentfield_local.activity import Activity
from agentfield_local.audio_room import audio_room
from agentfield_local.behaviour import Behaviour
from agentfield_local.brain.protocol import Brain
from agentfield_local.chat.routes import Chat
from agentfield_local.clock import Clock, WallClock
from agentfield_local.engines_pool import EnginesPool
from agentfield_local.http import Api, RequestRecord
from agentfield_local.realtime.calls import Call, Calls
from agentfield_local.realtime.live import LiveSession
from agentfield_local.realtime.routes import realtime_room
from agentfield_local.realtime.sockets import Sockets
from agentfield_local.refusing import Refuser
from agentfield_local.rooms import Room, Shared
from agentfield_local.speech.protocols import SpeechEngines
from agentfield_local.tls import Tls
from agentfield_local.webrtc.jitter import require_jitter_buffer
from agentfield_local.webrtc.loopback import is_loopback, only_loopback
from agentfield_local.webrtc.options import MediaOptions

__all__ = ["LocalServer"]

_SHUTDOWN_SECONDS = 5.0
_ROOMS: tuple[Room, ...] = (
    realtime_room,
    audio_room,
)


class LocalServer:
    """A Realtime-compatible server; an async context manager.

    Bound to loopback it makes the whole process offer 127.0.0.1 as its only WebRTC address, until the process ends.

    Args:
        engines: What hears and speaks.
        brain: What decides.
        behaviour: The switches; may be replaced between calls by setting `behaviour`.
        key: The key that clients must send; None asks for none, on loopback only.
        clock: Unix time of sessions and secrets; media is always real time.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        origins: Web origins that may use the server, beside those on this machine.
        media: How media of calls is received.
        tls: A second port with TLS, for clients that always want it.

    Raises:
        InvalidInput: On entering, when it should listen beyond loopback without a key.
        Unavailable: On entering, when the installed aiortc is not one whose jitter buffer can be set.
    """

    def __init__(
        self,
        engines: SpeechEngines,
        brain: Brain,
        *,
        behaviour: Behaviour | None = None,
        key: str | None = None,
        clock: Clock | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        origins: frozenset[str] = frozenset(),
        media: MediaOptions | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._tls = tls
        self._tls_port: int | None = None
        self.behaviour = behaviour or Behaviour()
        self.activity = Activity()
        self._host = host
        self._port = port
        self._key = key
        loopback = is_loopback(host)
        self._loopback = loopback
        clock = clock or WallClock()
        self._pool = EnginesPool(engines, brain)
        self._calls = Calls(self._pool, self._switches, clock, self._count_calls, media or MediaOptions())
        self._sockets = Sockets(self._pool, self._calls, clock, self._switches)
        access = Access(key, loopback=loopback, origins=origins, clock=clock)
        self.chat = Chat(self._pool, access, clock)
        shared = Shared(
            pool=self._pool,
            calls=self._calls,
            sockets=self._sockets,
            access=access,
            clock=clock,
            behaviour=self._switches,
            refuser=Refuser(self._switches),
            loopback=loopback,
            transcribe_json=self.chat.transcribe,
        )
        self._api = Api(shared, (*_ROOMS, self.chat.room), self.activity)
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port

    @property
    def url(self) -> str:
        """Its address, such as `http://127.0.0.1:41235`."""
        return f"http://{self._named_host}:{self._port}"

    @property
    def _named_host(self) -> str:
        return f"[{self._host}]" if ":" in self._host else self._host

    @property
    def tls_url(self) -> str | None:
        """Its address with TLS, such as `https://127.0.0.1:41236`; None without."""
        return None if self._tls_port is None else f"https://{self._named_host}:{self._tls_port}"

    @property
    def base_url(self) -> str:
        """What clients of the protocol call the base URL: `url` and `/v1`."""
        return f"{self.url}/v1"

    @property
    def calls(self) -> list[Call]:
        """The calls that were accepted, oldest first, ended ones included."""
        return self._calls.all

    @property
    def sessions(self) -> list[LiveSession]:
        """The WebSocket sessions that are open now."""
        return list(self._sockets.sessions)

    @property
    def requests(self) -> list[RequestRecord]:
        """The latest thousand requests, without credentials."""
        return list(self._api.requests)

    async def start(self) -> None:
        """Warm the engines, then listen.

        Raises:
            InvalidInput: It should listen beyond loopback without a key, or the certificate cannot be used.
            OSError: A port cannot be had.
        """
        if not self._loopback and self._key is None:
            raise InvalidInput(
                f"the local server was asked to listen on {self._host} without a key",
                hint="listen on 127.0.0.1, or give a key with --token-file",
                field="host",
            )
        require_jitter_buffer()
        if self._loopback:
            only_loopback()
        self._runner = web.AppRunner(
            self._api.application(), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS, handle_signals=False
        )
        try:
            await self._pool.warm()
            await self._runner.setup()
            await web.TCPSite(self._runner, self._host, self._port).start()
            self._port = self._runner.addresses[0][1]
            if self._tls is not None:
                await self._start_tls(self._runner, self._tls)
        except BaseException:
            await self.stop()
            raise

    async def _start_tls(self, runner: web.AppRunner, tls: Tls) -> None:
        site = web.TCPSite(runner, self._host, tls.port, ssl_context=tls.context())
        plain = {address[1] for address in runner.addresses}
        await site.start()
        self._tls_port = next(address[1] for address in runner.addresses if address[1] not in plain)

    async def stop(self) -> None:
        """End every call and session, then stop listening and the engines."""
        self.chat.stop()
        await self._calls.close()
        self._sockets.end()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await self._pool.close()

    async def drop(self) -> None:
        """Go away without a word, as a server that lost its power: connections break, and every call is forgotten."""
        self._sockets.cut()
        await self._calls.close()

    async def idle(self, seconds: float) -> None:
        """Return when there has been no client for so many seconds."""
        await self.activity.idle(seconds)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self.stop())

    def _switches(self) -> Behaviour:
        return self.behaviour

    def _count_calls(self) -> None:
        self.activity.calls(self._calls.open_count)
