"""A client of the control plane's REST interface: what `af`, pages' servers and scripts use."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, TypeAdapter, ValidationError

from agentfield.errors import AgentFieldError, ControlPlaneUnavailable, ExecutionTimeout, error_from_problem
from agentfield.schema import jsonable
from agentfield.settings import discover_api_key, discover_url, is_loopback
from agentfield.sse import EventParser
from agentfield.wire.headers import IDEMPOTENCY_KEY
from agentfield.wire.rest import (
    AdapterView,
    DagView,
    ExchangeResponse,
    ExecuteRequest,
    ExecutionView,
    NodeView,
    SessionView,
    StartRequest,
    StartResponse,
)

__all__ = ["ControlPlaneClient", "discover_api_key", "discover_url"]

CONNECT: Final = 5.0
"""Seconds to reach the control plane."""

ANSWER: Final = 30.0
"""Seconds for an ordinary answer."""

STREAM_SILENCE: Final = 45.0
"""Seconds without even a keep-alive comment after which an event stream is opened again; comments come each 15 s."""

STREAM_AWAY: Final = 30.0
"""Seconds that an event stream keeps trying to find a control plane that went away."""

MEDIA_FRAME: Final = 1024 * 1024
"""Bytes that a frame of a session's media may have."""

_ENDED: Final = frozenset({"succeeded", "failed", "cancelled", "timeout"})
M = TypeVar("M", bound=BaseModel)


class ControlPlaneClient:
    """The control plane at `url`; an async context manager.

    Args:
        url: Its address, by default the one that `discover_url` finds.
        api_key: Its key, by default ``AGENTFIELD_API_KEY``.

    Every method raises the `AgentFieldError` that the control plane answered with, and `ControlPlaneUnavailable` when
    it does not answer.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None) -> None:
        self.url = discover_url(url)
        self._api_key = discover_api_key(api_key)
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # A proxy of the environment cannot reach this machine's own loopback.
        self._http = aiohttp.ClientSession(
            trust_env=not is_loopback(self.url), timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    # --- executions ---------------------------------------------------------------------------------------------

    async def execute(
        self,
        target: str,
        input: Mapping[str, Any] | None = None,  # noqa: A002 -- the word of the wire
        *,
        timeout: float | None = None,  # noqa: ASYNC109 -- the control plane enforces it
        idempotency_key: str | None = None,
    ) -> ExecutionView:
        """Run a target and wait until it ended; look at `status` for how."""
        body = _execute_body(input, timeout)
        wait = None if timeout is None else timeout + ANSWER
        value = await self._json(
            "POST", f"/execute/{_part(target)}", body=body, idempotency_key=idempotency_key, seconds=wait
        )
        return _read(ExecutionView, value)

    async def execute_async(
        self,
        target: str,
        input: Mapping[str, Any] | None = None,  # noqa: A002 -- the word of the wire
        *,
        timeout: float | None = None,  # noqa: ASYNC109 -- the control plane enforces it
        idempotency_key: str | None = None,
    ) -> ExecutionView:
        """Begin to run a target; the answer comes once that is committed."""
        body = _execute_body(input, timeout)
        value = await self._json("POST", f"/execute/async/{_part(target)}", body=body, idempotency_key=idempotency_key)
        return _read(ExecutionView, value)

    async def get_execution(self, execution_id: str) -> ExecutionView:
        """Return an execution as it is now."""
        return _read(ExecutionView, await self._json("GET", f"/executions/{_part(execution_id)}"))

    async def wait_execution(self, execution_id: str, *, timeout: float | None = None) -> ExecutionView:  # noqa: ASYNC109
        """Return an execution once it ended.

        Raises:
            ExecutionTimeout: It had not ended after `timeout` seconds; it goes on.
        """
        pause = 0.05
        try:
            async with asyncio.timeout(timeout):
                while (execution := await self.get_execution(execution_id)).status not in _ENDED:
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, 1.0)
                return execution
        except TimeoutError as error:
            raise ExecutionTimeout(
                f"{execution_id} had not ended after {timeout:g} seconds; it goes on.", execution_id=execution_id
            ) from error

    async def cancel_execution(self, execution_id: str) -> None:
        """Cancel an execution."""
        await self._json("POST", f"/executions/{_part(execution_id)}/cancel", body={})

    async def dag(self, run_id: str) -> DagView:
        """Return the whole graph of a run."""
        return await self._pages(f"/workflows/{_part(run_id)}/dag")

    # --- sessions -----------------------------------------------------------------------------------------------

    async def start_session(self, request: StartRequest, *, idempotency_key: str | None = None) -> StartResponse:
        """Create a session that waits for its caller."""
        body = request.model_dump(mode="json", exclude_none=True)
        return _read(StartResponse, await self._json("POST", "/sessions", body=body, idempotency_key=idempotency_key))

    async def offer(self, session_id: str, sdp: str, token: str | None = None) -> str:
        """Exchange a WebRTC offer for the provider's answer; both are SDP."""
        async with self._request(
            "POST",
            f"/sessions/{_part(session_id)}/offer",
            token=token,
            data=sdp.encode(),
            headers={"Content-Type": "application/sdp"},
        ) as response:
            return await response.text()

    async def send_input(self, session_id: str, text: str, token: str | None = None) -> None:
        """Say something to a session in writing, as its caller."""
        await self._json("POST", f"/sessions/{_part(session_id)}/input", body={"text": text}, token=token)

    async def end_session(self, session_id: str, reason: str | None = None, token: str | None = None) -> None:
        """End a session: as the operator, or with its browser token as its caller who hangs up."""
        body = {"reason": reason} if reason else {}
        await self._json("POST", f"/sessions/{_part(session_id)}/end", body=body, token=token)

    async def list_sessions(self) -> list[SessionView]:
        """Return the sessions that the control plane knows, newest first."""
        return _read_list(SessionView, await self._json("GET", "/sessions"), "sessions")

    async def get_session(self, session_id: str, token: str | None = None) -> SessionView:
        """Return a session as it is now."""
        return _read(SessionView, await self._json("GET", f"/sessions/{_part(session_id)}", token=token))

    async def workflow(self, session_id: str, token: str | None = None) -> DagView:
        """Return the whole graph of a session's run."""
        return await self._pages(f"/sessions/{_part(session_id)}/workflows", token=token)

    async def exchange(self, code: str) -> ExchangeResponse:
        """Return what a page gets for the one-time code in its address."""
        return _read(ExchangeResponse, await self._json("POST", "/sessions/exchange", body={"code": code}))

    @asynccontextmanager
    async def media(
        self, session_id: str, token: str | None = None, *, codec: str = "pcm16", rate: int = 24_000
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open the WebSocket that carries the audio of a session, on transports of bridged media.

        Binary frames are audio in the format that is asked for, both ways; text frames are JSON. Leaving the block without
        having sent ``{"type": "hangup"}`` is a lost connection: the caller may come back within ten seconds.

        Args:
            session_id: The session.
            token: Its browser token, by default the API key counts.
            codec: ``pcm16``, ``pcmu`` or ``pcma``.
            rate: Samples per second; G.711 is 8000.
        """
        path = f"/sessions/{_part(session_id)}/media"
        query = {"format": codec, "rate": str(rate)}
        key = token or self._api_key
        try:
            socket = await self._session().ws_connect(
                f"{self.url}/api/v1{path}",
                params=query,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=aiohttp.ClientWSTimeout(ws_receive=None, ws_close=CONNECT),
                heartbeat=STREAM_SILENCE / 3,
                max_msg_size=MEDIA_FRAME,
            )
        except aiohttp.WSServerHandshakeError as error:
            # a refused handshake does not hand over its body, the same request without an upgrade is refused alike
            async with self._request("GET", path, token=token, query=query):
                raise self._stranger(error.status) from None
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

        A lost stream is opened again behind the last recorded event that was seen; ends when the session has.

        Args:
            session_id: The session.
            token: Its browser token, by default the API key counts.
            after: The `seq` behind which to begin.
            audio: Also take the audio of replies, on transports of turns (``reply.audio``): who does is a listener, to
                whom the agent can speak outside of a turn.
        """
        loop = asyncio.get_running_loop()
        away_since: float | None = None
        pause = 0.1
        while True:
            try:
                async for event in self._stream(session_id, token, after, audio=audio):
                    away_since, pause = None, 0.1
                    if (seq := event.get("seq")) is not None:
                        after = int(seq)
                    yield event
                    if event.get("type") == "session.state" and (event.get("body") or {}).get("state") == "ended":
                        return
            except ControlPlaneUnavailable:
                away_since = away_since or loop.time()
                if loop.time() - away_since > STREAM_AWAY:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)

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
            media_type: What it is, such as ``audio/wav`` or ``audio/pcm;rate=24000``.
            token: The session's browser token, by default the API key counts.
            idempotency_key: With the same key again, the same turn is answered again from its beginning.

        Raises:
            AgentFieldError: The turn was refused, or something went wrong while it was answered.
        """
        headers = {"Accept": "text/event-stream", "Content-Type": media_type}
        if idempotency_key:
            headers[IDEMPOTENCY_KEY] = idempotency_key
        path = f"/sessions/{_part(session_id)}/turns"
        parser = EventParser()
        async with self._request("POST", path, token=token, data=audio, headers=headers, stream=True) as response:
            async for chunk in response.content.iter_any():
                for event in parser.feed(chunk):
                    value = json.loads(event.data)
                    if event.event == "problem":
                        raise error_from_problem(value)
                    yield {"type": "turn", **value} if event.event == "turn" else value

    # --- the rest -----------------------------------------------------------------------------------------------

    async def nodes(self) -> list[NodeView]:
        """Return the instances of nodes that the control plane knows."""
        return _read_list(NodeView, await self._json("GET", "/nodes"), "nodes")

    async def adapters(self) -> list[AdapterView]:
        """Return the matrix of pairs."""
        return _read_list(AdapterView, await self._json("GET", "/adapters"), "adapters")

    async def health(self) -> dict[str, Any]:
        """Return what the control plane says of itself."""
        async with self._request("GET", "/healthz", root=True) as response:
            text = await response.text()
        try:
            value = json.loads(text)
        except ValueError:
            return {"status": text.strip()}
        return value if isinstance(value, dict) else {"status": value}

    # --- inside -------------------------------------------------------------------------------------------------

    async def _stream(
        self, session_id: str, token: str | None, after: int, *, audio: bool
    ) -> AsyncIterator[dict[str, Any]]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": str(after)} if after else {})}
        parser = EventParser()
        path = f"/sessions/{_part(session_id)}/events"
        query = {"audio": "1"} if audio else None
        async with self._request("GET", path, token=token, headers=headers, query=query, stream=True) as response:
            async for chunk in response.content.iter_any():
                for event in parser.feed(chunk):
                    value = json.loads(event.data)
                    if isinstance(value, dict):
                        yield value

    async def _pages(self, path: str, token: str | None = None) -> DagView:
        page = _read(DagView, await self._json("GET", path, token=token))
        executions = list(page.executions)
        while page.next is not None:
            page = _read(DagView, await self._json("GET", path, token=token, query={"after": page.next}))
            executions += page.executions
        return page.model_copy(update={"executions": tuple(executions), "next": None})

    async def _json(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        token: str | None = None,
        query: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        seconds: float | None = ANSWER,
    ) -> Any:
        headers = {IDEMPOTENCY_KEY: idempotency_key} if idempotency_key else {}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        async with self._request(
            method, path, token=token, data=data, headers=headers, query=query, seconds=seconds
        ) as response:
            text = await response.text()
        try:
            return json.loads(text) if text else None
        except ValueError as error:
            raise self._stranger() from error

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        seconds: float | None = ANSWER,
        stream: bool = False,
        root: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        http = self._session()
        key = token or self._api_key
        sent = {**(headers or {}), **({"Authorization": f"Bearer {key}"} if key else {})}
        # a stream of bytes is sent piece by piece; a large one would hold up the event loop otherwise
        content = None if data is None else io.BytesIO(data)
        timeout = aiohttp.ClientTimeout(
            total=None if stream else seconds, sock_connect=CONNECT, sock_read=STREAM_SILENCE if stream else None
        )
        url = self.url + ("" if root else "/api/v1") + path
        try:
            async with http.request(
                method, url, data=content, headers=sent, params=query, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status >= 300:
                    raise await self._refusal(response)
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unavailable(error) from error

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            message = "A ControlPlaneClient is used inside `async with`."
            raise RuntimeError(message)
        return self._http

    async def _refusal(self, response: aiohttp.ClientResponse) -> AgentFieldError:
        text = await response.text()
        try:
            problem = json.loads(text)
        except ValueError:
            problem = None
        if isinstance(problem, dict) and "code" in problem:
            return error_from_problem(problem)
        return self._stranger(response.status)

    def _stranger(self, status: int | None = None) -> AgentFieldError:
        what = "something that is not JSON" if status is None else f"HTTP {status}"
        return ControlPlaneUnavailable(
            f"What answers at {self.url} does not seem to be a control plane: it answered {what}.",
            hint="Set AGENTFIELD_URL to the control plane's address.",
            url=self.url,
        )

    def _unavailable(self, error: BaseException) -> ControlPlaneUnavailable:
        if isinstance(error, aiohttp.ClientConnectorError):
            why = "nothing answers there"
        elif isinstance(error, TimeoutError):
            why = "it did not answer in time"
        else:
            why = str(error) or type(error).__name__
        return ControlPlaneUnavailable(
            f"The control plane at {self.url} could not be reached: {why}.",
            hint="Start one with `af server`, or set AGENTFIELD_URL.",
            url=self.url,
        )


def _execute_body(values: Mapping[str, Any] | None, timeout: float | None) -> dict[str, Any]:
    request = ExecuteRequest(input=jsonable(dict(values or {}), what="input"), timeout=timeout)
    return request.model_dump(mode="json", exclude_none=True)


def _part(text: str) -> str:
    return quote(text, safe="")


def _read(model: type[M], value: Any) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _odd(model, error) from error


def _read_list(model: type[M], value: Any, name: str) -> list[M]:
    items = value.get(name) if isinstance(value, dict) else value
    try:
        return TypeAdapter(list[model]).validate_python(items)  # type: ignore[valid-type]
    except ValidationError as error:
        raise _odd(model, error) from error


def _odd(model: type[BaseModel], error: ValidationError) -> AgentFieldError:
    fault = error.errors(include_url=False)[0]
    return ControlPlaneUnavailable(
        f"The control plane's answer is no {model.__name__}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}.",
        hint="Install the same version of agentfield-core and agentfield-server.",
    )
