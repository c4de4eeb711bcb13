"""The local server as an object: it assembles all packages, and starts and stops them in a process or in a test."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from agentfield.errors import InvalidInput
from agentfield.recordings import MAX_BYTES
from agentfield_local.audio.routes import AudioRoutes
from agentfield_local.brain.protocol import Brain
from agentfield_local.chat.routes import ChatService
from agentfield_local.faults.behaviour import Behaviour
from agentfield_local.faults.refusal_injector import RefusalInjector
from agentfield_local.http.access import AccessControl, is_loopback
from agentfield_local.http.activity import ClientActivity
from agentfield_local.http.application import HttpApplication, RequestRecord
from agentfield_local.http.tls import TlsOptions
from agentfield_local.realtime.session.runner import SessionRunner
from agentfield_local.realtime.transport.calls import CallRegistry, WebRtcCall
from agentfield_local.realtime.transport.routes import RealtimeRoutes
from agentfield_local.realtime.transport.websockets import WebSocketSessions
from agentfield_local.runtime.clock import Clock, WallClock
from agentfield_local.speech.pool import EnginePool
from agentfield_local.speech.protocols import SpeechEngines
from agentfield_local.webrtc.ice import restrict_to_loopback
from agentfield_local.webrtc.jitter_buffer import require_jitter_buffer
from agentfield_local.webrtc.options import MediaOptions

__all__ = ["LocalServer"]

_SHUTDOWN_SECONDS = 5.0
_MAX_BODY = MAX_BYTES + 64 * 1024


class LocalServer:
    """A Realtime-compatible server; an async context manager.

    Bound to loopback, it makes the whole process offer 127.0.0.1 as its only WebRTC address, until the process ends.

    Args:
        engines: The speech engines.
        brain: The brain.
        behaviour: Behaviour of new sessions; set the attribute `behaviour` to replace it between calls.
        key: The API key of clients; None requires none, which is possible on loopback only.
        clock: Unix time of sessions and secrets; media always runs in real time.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        origins: Web origins that may use the server, in addition to those on this machine.
        media: Settings of WebRTC media.
        tls: Certificate of a second port with TLS, for clients that accept no other.

    Raises:
        InvalidInput: On entering, if it listens beyond loopback without a key.
        Unavailable: On entering, if the jitter buffer of the installed aiortc cannot be set.
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
        tls: TlsOptions | None = None,
    ) -> None:
        self._tls = tls
        self._tls_port: int | None = None
        self.behaviour = behaviour or Behaviour()
        self.activity = ClientActivity()
        self._host = host
        self._port = port
        self._key = key
        self._loopback = is_loopback(host)
        clock = clock or WallClock()
        self._pool = EnginePool(engines, brain)
        self._calls = CallRegistry(
            self._pool, self._current_behaviour, clock, self._count_calls, media or MediaOptions()
        )
        self._sockets = WebSocketSessions(self._pool, self._calls, clock, self._current_behaviour)
        access = AccessControl(key, loopback=self._loopback, origins=origins, clock=clock)
        refusals = RefusalInjector(self._current_behaviour)
        self.chat = ChatService(self._pool, access, clock)
        realtime = RealtimeRoutes(
            self._calls,
            self._sockets,
            access=access,
            behaviour=self._current_behaviour,
            refusals=refusals,
            clock=clock,
            voices=engines.tts.voices,
            loopback=self._loopback,
        )
        audio = AudioRoutes(self._pool, access, self._current_behaviour, refusals, self.chat.transcribe)
        self._application = HttpApplication(
            (*realtime.routes(), *audio.routes(), *self.chat.routes()),
            access=access,
            activity=self.activity,
            health=self._health,
            max_body=_MAX_BODY,
        )
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
        """Its address with TLS, such as `https://127.0.0.1:41236`; None without TLS."""
        return None if self._tls_port is None else f"https://{self._named_host}:{self._tls_port}"

    @property
    def base_url(self) -> str:
        """The base URL in the sense of the protocol's clients: `url` and `/v1`."""
        return f"{self.url}/v1"

    @property
    def calls(self) -> list[WebRtcCall]:
        """The accepted calls, oldest first, including ended ones."""
        return self._calls.all

    @property
    def sessions(self) -> list[SessionRunner]:
        """The open WebSocket sessions."""
        return list(self._sockets.sessions)

    @property
    def requests(self) -> list[RequestRecord]:
        """The latest thousand requests, without credentials."""
        return list(self._application.requests)

    async def start(self) -> None:
        """Warm the engines, then listen.

        Raises:
            InvalidInput: It listens beyond loopback without a key, or the certificate is unusable.
            OSError: A port is not available.
        """
        if not self._loopback and self._key is None:
            raise InvalidInput(
                f"the local server was asked to listen on {self._host} without a key",
                hint="listen on 127.0.0.1, or give a key with --token-file",
                field="host",
            )
        require_jitter_buffer()
        if self._loopback:
            restrict_to_loopback()
        self._runner = web.AppRunner(
            self._application.build(), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS, handle_signals=False
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

    async def _start_tls(self, runner: web.AppRunner, tls: TlsOptions) -> None:
        site = web.TCPSite(runner, self._host, tls.port, ssl_context=tls.context())
        plain = {address[1] for address in runner.addresses}
        await site.start()
        self._tls_port = next(address[1] for address in runner.addresses if address[1] not in plain)

    async def stop(self) -> None:
        """End all calls and sessions, stop listening, then stop the engines."""
        # Sessions and streams end first: aiohttp's cleanup waits for their handlers, and handlers use the engines.
        self.chat.stop()
        await self._calls.close()
        self._sockets.close_all()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await self._pool.close()

    async def drop(self) -> None:
        """Cut every connection and forget every call, as after a loss of power."""
        self._sockets.abort_all()
        await self._calls.close()

    async def idle(self, seconds: float) -> None:
        """Return when there has been no client for this many seconds."""
        await self.activity.idle(seconds)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self.stop())

    def _current_behaviour(self) -> Behaviour:
        return self.behaviour

    def _count_calls(self) -> None:
        self.activity.calls(self._calls.open_count)

    def _health(self) -> dict[str, Any]:
        return {"status": "ok", "engines": self._pool.engines.name, "calls": self._calls.open_count}
