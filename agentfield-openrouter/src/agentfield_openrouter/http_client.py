"""HTTP client: streams a completion, transcribes a turn, looks up the cost of a completion.

Every failure is a typed error (`refusals`).
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from agentfield.adapterkit.endpoint import ProviderEndpoint
from agentfield.adapterkit.http import read_body
from agentfield.adapterkit.json_fields import amount_at, count_at, object_at, parse_object, text_at
from agentfield.adapterkit.urls import proxy_for
from agentfield.errors import LimitExceeded
from agentfield.realtime.events import Usage
from agentfield.sse import EventParser
from agentfield_openrouter.chunks import usage_of
from agentfield_openrouter.error_classification import ClassifiedError
from agentfield_openrouter.refusals import Refused, Unreachable, refusal_error, unreachable_error

__all__ = ["CompletionStream", "CompletionsClient", "Timeouts", "Transcript"]

_MAX_ANSWER = 1024 * 1024
_READ_SIZE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits in seconds."""

    connect: float = 10.0
    idle: float = 20.0
    """Longest time without data, also before the first; keep-alive comments do not count as data."""
    total: float = 300.0
    """For one whole completion."""
    transcription: float = 60.0
    lookup: float = 10.0
    lookups: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    """Pauses before each lookup of the cost of a cancelled completion."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """Transcript of a turn, and its usage."""

    text: str
    usage: Usage


class CompletionStream:
    """The event stream of one completion.

    Args:
        provider: The service.
        response: The open HTTP response.
        idle: Seconds without data after which the stream counts as stalled.
    """

    def __init__(self, provider: ProviderEndpoint, response: aiohttp.ClientResponse, idle: float) -> None:
        self._provider = provider
        self._response = response
        self._idle = idle
        self._due = asyncio.get_running_loop().time() + idle

    @property
    def generation(self) -> str | None:
        """Id of the completion from the response header, None if missing."""
        return self._response.headers.get("X-Generation-Id")

    async def payloads(self) -> AsyncGenerator[str, None]:
        """Yield the data of each event until the stream ends.

        Raises:
            Refused: An event exceeds the size limit.
            Unreachable: No data arrived in time, or the connection broke.
        """
        parser = EventParser()
        clock = asyncio.get_running_loop().time
        while chunk := await self._read():
            for payload in self._parsed(parser, chunk):
                yield payload
                self._due = clock() + self._idle
        for payload in self._parsed(parser, b"\n\n"):  # the last event may lack its terminating blank line
            yield payload

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout_at(self._due):
                return await self._response.content.read(_READ_SIZE)
        except TimeoutError as error:
            raise _stalled(self._provider, self._idle, error) from None
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable_error(self._provider, "answer", error) from None

    def _parsed(self, parser: EventParser, chunk: bytes) -> list[str]:
        try:
            return [event.data for event in parser.feed(chunk)]
        except LimitExceeded:
            message = f"{self._provider.title} sent a chunk that is too large."
            raise Refused(message, ClassifiedError("invalid_answer", message), provider_code="invalid_answer") from None


class CompletionsClient:
    """HTTP client for one provider account.

    Args:
        provider: The service.
        http: HTTP session, owned by the user of this client (`agentfield.adapterkit.http.http_session`).
        timeouts: Time limits.
    """

    def __init__(self, provider: ProviderEndpoint, http: aiohttp.ClientSession, timeouts: Timeouts) -> None:
        self.provider = provider
        self.timeouts = timeouts
        self._http = http
        self._base = provider.base_url.rstrip("/")

    @asynccontextmanager
    async def stream(self, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[CompletionStream]:
        """Request a completion and yield its stream; leaving the block early cancels the request at the provider.

        Args:
            body: The request as JSON.
            headers: Headers besides the key.

        Raises:
            Refused: The provider refused.
            Unreachable: The provider did not answer in time or broke off; also raised while the stream is read.
            ProviderError: There is no key.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.timeouts.connect)
        try:
            async with asyncio.timeout(self.timeouts.total):
                accept = {**headers, "Accept": "text/event-stream"}
                response = await self._open("/chat/completions", body, accept, timeout)
                try:
                    await self._check_stream(response)
                    yield CompletionStream(self.provider, response, self.timeouts.idle)
                finally:
                    response.close()  # close instead of release: the unread rest must not block a pooled connection
        except TimeoutError as error:
            raise unreachable_error(self.provider, "answer", error) from None

    async def transcribe(self, body: bytes, headers: Mapping[str, str]) -> Transcript:
        """Return the transcript of a turn.

        Raises:
            Refused: The provider refused, or its response is unusable.
            Unreachable: The provider did not answer in time.
            ProviderError: There is no key.
        """
        what = "transcribe"
        timeout = aiohttp.ClientTimeout(total=self.timeouts.transcription, sock_connect=self.timeouts.connect)
        status, head, data = await self._exchange("POST", "/audio/transcriptions", what, timeout, headers, body)
        answer = parse_object(data) or {}
        text = text_at(answer, "text")
        if status >= 300 or object_at(answer, "error") or text is None:
            raise refusal_error(self.provider, what, status, data, retry_after=head.get("Retry-After"))
        return Transcript(text.strip(), usage_of(object_at(answer, "usage")))

    async def cost(self, generation: str) -> Usage | None:
        """Return the cost of a completion, None while the provider does not know it yet.

        Raises:
            Refused: The provider refused.
            Unreachable: The provider did not answer in time.
        """
        timeout = aiohttp.ClientTimeout(total=self.timeouts.lookup, sock_connect=self.timeouts.connect)
        what = "say what an answer cost"
        status, head, data = await self._exchange("GET", "/generation", what, timeout, query={"id": generation})
        if status == 404:
            return None
        if status >= 300:
            raise refusal_error(self.provider, what, status, data, retry_after=head.get("Retry-After"))
        found = object_at(parse_object(data) or {}, "data")
        cost = amount_at(found, "total_cost")
        return None if cost is None else Usage(cost=cost, cached_tokens=count_at(found, "native_tokens_cached"))

    async def _check_stream(self, response: aiohttp.ClientResponse) -> None:
        if response.status == 200 and response.content_type == "text/event-stream":
            return
        try:
            async with asyncio.timeout(self.timeouts.idle):
                body = await read_body(response.content, _MAX_ANSWER)
        except (TimeoutError, aiohttp.ClientError, OSError):
            body = b""
        raise refusal_error(
            self.provider, "answer", response.status, body, retry_after=response.headers.get("Retry-After")
        )

    async def _open(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp takes it
    ) -> aiohttp.ClientResponse:
        """Send a request with a streamed response and return it once its headers arrived, within the idle time."""
        try:
            async with asyncio.timeout(self.timeouts.idle):
                return await self._http.post(
                    self._base + path,
                    data=io.BytesIO(body),  # aiohttp sends bytes at once, but a file object in pieces
                    headers=self._headers(headers),
                    timeout=timeout,
                    allow_redirects=False,
                    proxy=proxy_for(self._base),
                )
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable_error(self.provider, "answer", error) from None

    async def _exchange(
        self,
        method: str,
        path: str,
        what: str,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp takes it
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        query: Mapping[str, str] | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request and return status, headers and body; a body beyond the limit is cut after it."""
        try:
            async with self._http.request(
                method,
                self._base + path,
                params=query,
                data=None if body is None else io.BytesIO(body),
                headers=self._headers(headers or {}),
                timeout=timeout,
                allow_redirects=False,
                proxy=proxy_for(self._base),
            ) as response:
                return response.status, response.headers, await read_body(response.content, _MAX_ANSWER)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable_error(self.provider, what, error) from None

    def _headers(self, more: Mapping[str, str]) -> dict[str, str]:
        return {"Accept": "application/json", "Content-Type": "application/json", **self.provider.bearer(), **more}


def _stalled(provider: ProviderEndpoint, idle: float, why: TimeoutError) -> Unreachable:
    error = unreachable_error(provider, "answer", why)
    message = f"{provider.title} sent no data for {idle:g} s while it answered."
    return Unreachable(
        message, ClassifiedError("stalled", message, retry=error.fault.retry), hint=error.hint, provider_code="stalled"
    )
