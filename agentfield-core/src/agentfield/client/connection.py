"""Requests to the control plane and what becomes of their answers: JSON, a stream, or a typed error."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, TypeAdapter, ValidationError

from agentfield.errors import AgentFieldError, ControlPlaneUnavailable, error_from_problem
from agentfield.settings import discover_api_key, discover_url, is_loopback
from agentfield.wire.headers import IDEMPOTENCY_KEY

__all__ = ["ANSWER", "CONNECT", "STREAM_SILENCE", "Connection", "part", "read", "read_list"]

CONNECT: Final = 5.0
"""Seconds to reach the control plane."""

ANSWER: Final = 30.0
"""Seconds for an ordinary answer."""

STREAM_SILENCE: Final = 45.0
"""Seconds without even a keep-alive comment after which an event stream is opened again; comments come each 15 s."""

M = TypeVar("M", bound=BaseModel)


class Connection:
    """An address, a key and the HTTP connections to it; an async context manager.

    Args:
        url: The control plane's address, by default the one that `discover_url` finds.
        api_key: Its key, by default ``AGENTFIELD_API_KEY``.
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


def part(text: str) -> str:
    """Return a text as one segment of a path."""
    return quote(text, safe="")


def read(model: type[M], value: Any) -> M:
    """Return an answer as what it has to be.

    Raises:
        ControlPlaneUnavailable: It is something else: another version answered.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _odd(model, error) from error


def read_list(model: type[M], value: Any, name: str) -> list[M]:
    """Return the list that an answer holds under `name`, or is.

    Raises:
        ControlPlaneUnavailable: It holds something else: another version answered.
    """
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
