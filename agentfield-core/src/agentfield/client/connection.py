"""HTTP requests to the control plane; answers are JSON, a stream, or a typed error."""

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

from agentfield.errors import AgentFieldError, ControlPlaneUnavailable, InvalidInput, error_from_problem
from agentfield.lossy import lossy_text
from agentfield.plugins.install import cli_command
from agentfield.settings import client_tls, discover_api_key, discover_url, is_loopback
from agentfield.wire.headers import IDEMPOTENCY_KEY
from agentfield.wire.unreachable import unreachable_hint, unreachable_reason

__all__ = ["ANSWER_TIMEOUT", "CONNECT_TIMEOUT", "STREAM_SILENCE", "Connection", "parse", "parse_list", "path_segment"]

CONNECT_TIMEOUT: Final = 5.0
"""Seconds in which a connection must be established."""

ANSWER_TIMEOUT: Final = 30.0
"""Seconds in which an ordinary answer must be complete."""

STREAM_SILENCE: Final = 45.0
"""Seconds of silence after which an event stream counts as lost; the control plane sends a comment every 15 s."""

M = TypeVar("M", bound=BaseModel)


class Connection:
    """An HTTP connection pool with the control plane's address and key; an async context manager.

    Args:
        url: The control plane's address, by default the result of `discover_url`.
        api_key: The control plane's API key, by default ``AGENTFIELD_API_KEY``.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None) -> None:
        self.url = discover_url(url)
        self._api_key = discover_api_key(api_key)
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # A proxy from the environment cannot reach the loopback addresses of this machine.
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=client_tls()),
            trust_env=not is_loopback(self.url),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
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
        seconds: float | None = ANSWER_TIMEOUT,
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
            raise self._not_a_control_plane() from error

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
        seconds: float | None = ANSWER_TIMEOUT,
        stream: bool = False,
        root: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        http = self._session()
        key = token or self._api_key
        sent = {**(headers or {}), **({"Authorization": f"Bearer {key}"} if key else {})}
        # a BytesIO is sent in chunks; large bytes in one piece would block the event loop
        content = None if data is None else io.BytesIO(data)
        timeout = aiohttp.ClientTimeout(
            total=None if stream else seconds,
            sock_connect=CONNECT_TIMEOUT,
            sock_read=STREAM_SILENCE if stream else None,
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
            message = "Use ControlPlaneClient inside `async with`."
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
        return self._not_a_control_plane(response.status)

    def _not_a_control_plane(self, status: int | None = None) -> AgentFieldError:
        answer = "something that is not JSON" if status is None else f"HTTP {status}"
        return ControlPlaneUnavailable(
            f"The server at {self.url} does not seem to be a control plane: it answered {answer}.",
            hint="Set AGENTFIELD_URL to the control plane's address.",
            url=self.url,
        )

    def _unavailable(self, error: BaseException) -> ControlPlaneUnavailable:
        reason = unreachable_reason(error)
        hint = unreachable_hint(self.url, error)
        return ControlPlaneUnavailable(
            f"The control plane at {self.url} could not be reached: {reason}.",
            hint=hint or f"Start one with `{cli_command('af server')}`, or set AGENTFIELD_URL.",
            url=self.url,
        )


def path_segment(text: str) -> str:
    """Return a text quoted as one segment of a URL path.

    Raises:
        InvalidInput: It holds half of a surrogate pair, as an argument that is not UTF-8 does.
    """
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise InvalidInput(
            f"{lossy_text(text, 200)} cannot be asked for: it is not UTF-8.",
            code="unrepresentable",
            hint="give the name in whole Unicode characters",
        ) from None


def parse(model: type[M], value: Any) -> M:
    """Validate the JSON of an answer.

    Raises:
        ControlPlaneUnavailable: The answer does not match the model, as from another version.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _unexpected_body(model, error) from error


def parse_list(model: type[M], value: Any, name: str) -> list[M]:
    """Validate a list in an answer: the value of `name`, or the answer itself.

    Raises:
        ControlPlaneUnavailable: The answer does not match the model, as from another version.
    """
    items = value.get(name) if isinstance(value, dict) else value
    try:
        return TypeAdapter(list[model]).validate_python(items)  # type: ignore[valid-type]
    except ValidationError as error:
        raise _unexpected_body(model, error) from error


def _unexpected_body(model: type[BaseModel], error: ValidationError) -> AgentFieldError:
    fault = error.errors(include_url=False)[0]
    return ControlPlaneUnavailable(
        f"The control plane's answer is not a valid {model.__name__}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}.",
        hint="Install the same version of agentfield-core and agentfield-server.",
    )
