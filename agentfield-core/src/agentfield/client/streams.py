"""Streams of a session: its events, the answer to a recorded turn, and the WebSocket of its audio."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp

from agentfield.client.connection import CONNECT_TIMEOUT, STREAM_SILENCE, Connection, path_segment
from agentfield.errors import ControlPlaneUnavailable, error_from_problem
from agentfield.sse import EventParser
from agentfield.wire.headers import IDEMPOTENCY_KEY

__all__ = ["SessionStreams"]

STREAM_RETRY_TIME: Final = 30.0
_CHUNK: Final = 64 * 1024
"""Seconds for which a lost event stream is retried."""

MAX_MEDIA_FRAME: Final = 1024 * 1024
"""Bytes that a frame of the audio WebSocket may have."""


class SessionStreams(Connection):
    """The streaming requests of a session."""

    @asynccontextmanager
    async def media(
        self, session_id: str, token: str | None = None, *, codec: str = "pcm16", rate: int = 24_000
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open the WebSocket for the audio of a session, on transports of bridged media.

        Binary frames are audio in the requested format, both ways; text frames are JSON. Leaving the block without having sent
        ``{"type": "hangup"}`` counts as a lost connection: the caller may reconnect within ten seconds.

        Args:
            session_id: The session.
            token: The session's browser token, by default the API key.
            codec: ``pcm16``, ``pcmu`` or ``pcma``.
            rate: Samples per second; G.711 is 8000.
        """
        path = f"/sessions/{path_segment(session_id)}/media"
        query = {"format": codec, "rate": str(rate)}
        key = token or self._api_key
        try:
            socket = await self._session().ws_connect(
                f"{self.url}/api/v1{path}",
                params=query,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=aiohttp.ClientWSTimeout(ws_receive=None, ws_close=CONNECT_TIMEOUT),
                heartbeat=STREAM_SILENCE / 3,
                max_msg_size=MAX_MEDIA_FRAME,
            )
        except aiohttp.WSServerHandshakeError as error:
            # aiohttp drops the body of a refused handshake; the same request without an upgrade gets the same refusal
            async with self._request("GET", path, token=token, query=query):
                raise self._not_a_control_plane(error.status) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unavailable(error) from error
        try:
            yield socket
        finally:
            await socket.close()

    async def session_events(
        self, session_id: str, token: str | None = None, after: int = 0, *, audio: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        """Iterate over a session's events: recorded ones have a `seq`, live ones only a `type`.

        A lost stream is reopened after the last recorded event; the iteration ends with the session.

        Args:
            session_id: The session.
            token: The session's browser token, by default the API key.
            after: Start after the event with this `seq`.
            audio: Also receive the audio of replies (``reply.audio``), on transports of turns. Such a client counts as a
                listener, so that the agent can speak outside of a turn.
        """
        loop = asyncio.get_running_loop()
        lost_since: float | None = None
        pause = 0.1
        while True:
            try:
                async for event in self._stream(session_id, token, after, audio=audio):
                    lost_since, pause = None, 0.1
                    if (seq := event.get("seq")) is not None:
                        after = int(seq)
                    yield event
                    if event.get("type") == "session.state" and (event.get("body") or {}).get("state") == "ended":
                        return
            except ControlPlaneUnavailable:
                lost_since = lost_since or loop.time()
                if loop.time() - lost_since > STREAM_RETRY_TIME:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)

    async def export_session(self, session_id: str, *, bodies: bool = True) -> AsyncIterator[bytes]:
        """Iterate over the bytes of a session's export, which `agentfield.proof.verify_export` verifies.

        Args:
            session_id: The session.
            bodies: Whether the export has bodies and salts, as far as they are not erased.

        Raises:
            ControlPlaneUnavailable: The export broke off.
        """
        async for chunk in self._export(f"/sessions/{path_segment(session_id)}/export", bodies=bodies):
            yield chunk

    async def export_run(self, run_id: str, *, bodies: bool = True) -> AsyncIterator[bytes]:
        """Iterate over the bytes of the export of a run, with or without a session; see `export_session`."""
        async for chunk in self._export(f"/workflows/{path_segment(run_id)}/export", bodies=bodies):
            yield chunk

    async def _export(self, path: str, *, bodies: bool) -> AsyncIterator[bytes]:
        query = {"bodies": "1" if bodies else "0"}
        async with self._request("GET", path, query=query, stream=True) as response:
            async for chunk in response.content.iter_chunked(_CHUNK):
                yield chunk

    async def turn(
        self,
        session_id: str,
        audio: bytes,
        media_type: str,
        *,
        token: str | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """Send a recorded turn and iterate over its answer, until the turn is done.

        The first one is ``{"type": "turn", "item": …}``; then recorded events, which have a `seq`, and live ones, among
        them ``{"type": "reply.audio", "reply", "data", "rate"}`` with 16-bit samples in base64.

        Args:
            session_id: The session.
            audio: The recording.
            media_type: Its media type, such as ``audio/wav`` or ``audio/pcm;rate=24000``.
            token: The session's browser token, by default the API key.
            idempotency_key: A repeated request with the same key replays the answer to the same turn from its start.

        Raises:
            AgentFieldError: The turn was refused, or answering it failed.
        """
        headers = {"Accept": "text/event-stream", "Content-Type": media_type}
        if idempotency_key:
            headers[IDEMPOTENCY_KEY] = idempotency_key
        path = f"/sessions/{path_segment(session_id)}/turns"
        parser = EventParser()
        async with self._request("POST", path, token=token, data=audio, headers=headers, stream=True) as response:
            async for chunk in response.content.iter_any():
                for event in parser.feed(chunk):
                    value = json.loads(event.data)
                    if event.event == "problem":
                        raise error_from_problem(value)
                    yield {"type": "turn", **value} if event.event == "turn" else value

    async def _stream(
        self, session_id: str, token: str | None, after: int, *, audio: bool
    ) -> AsyncIterator[dict[str, Any]]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": str(after)} if after else {})}
        parser = EventParser()
        path = f"/sessions/{path_segment(session_id)}/events"
        query = {"audio": "1"} if audio else None
        async with self._request("GET", path, token=token, headers=headers, query=query, stream=True) as response:
            async for chunk in response.content.iter_any():
                for event in parser.feed(chunk):
                    value = json.loads(event.data)
                    if isinstance(value, dict):
                        yield value
