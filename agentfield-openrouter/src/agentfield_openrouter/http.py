"""HTTP: streams a completion, transcribes a turn, looks up what an answer cost; every end of it is a typed error or a value."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from agentfield.adapterkit.fields import amount, count, mapping, parse, words
from agentfield.adapterkit.http import read_body
from agentfield.adapterkit.network import proxy_for
from agentfield.adapterkit.provider import Provider
from agentfield.errors import LimitExceeded
from agentfield.realtime.events import Usage
from agentfield.sse import EventParser
from agentfield_openrouter.chunks import usage_of
from agentfield_openrouter.faults import Fault
from agentfield_openrouter.refusals import Refused, Unreachable, refused, unreachable

__all__ = ["Completions", "Stream", "Times", "Transcript"]

_LARGEST_ANSWER = 1024 * 1024
_PIECE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that things may take."""

    connect: float = 10.0
    idle: float = 20.0
    """Without any data, until the first of it too; comments keep the connection alive and are no data."""
    total: float = 300.0
    """For one whole answer."""
    transcription: float = 60.0
    lookup: float = 10.0
    lookups: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    """Pauses before each attempt to learn what a cancelled answer cost."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """The words of a turn, and what they cost."""

    text: str
    usage: Usage


class Stream:
    """The events of one answer that began.

    Args:
        provider: Who answers.
        response: The open response.
        idle: Seconds without data after which it counts as stalled.
    """

    def __init__(self, provider: Provider, response: aiohttp.ClientResponse, idle: float) -> None:
        self._provider = provider
        self._response = response
        self._idle = idle
        self._due = asyncio.get_running_loop().time() + idle

    @property
    def generation(self) -> str | None:
        """The provider's id of the answer, as the head of the response has it."""
        return self._response.headers.get("X-Generation-Id")

    async def payloads(self) -> AsyncGenerator[str, None]:
        """Yield the data of each event until the connection ends.

        Raises:
            Refused: An event is larger than any that makes sense.
            Unreachable: Nothing came in time, or the connection broke.
        """
        parser = EventParser()
        clock = asyncio.get_running_loop().time
        while chunk := await self._read():
            for payload in self._parsed(parser, chunk):
                yield payload
                self._due = clock() + self._idle
        for payload in self._parsed(parser, b"\n\n"):  # a last line may lack its end
            yield payload

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout_at(self._due):
                return await self._response.content.read(_PIECE)
        except TimeoutError as error:
            raise _stalled(self._provider, self._idle, error) from None
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(self._provider, "answer", error) from None

    def _parsed(self, parser: EventParser, chunk: bytes) -> list[str]:
        try:
            return [event.data for event in parser.feed(chunk)]
        except LimitExceeded:
            message = f"{self._provider.title} sent a chunk that is too large."
            raise Refused(message, Fault("invalid_answer", message), provider_code="invalid_answer") from None


class Completions:
    """The HTTP side of one provider account.

    Args:
        provider: Whom to talk to.
        http: Connections, owned by the caller (`agentfield.adapterkit.http.http_session`).
        times: How long things may take.
    """

    def __init__(self, provider: Provider, http: aiohttp.ClientSession, times: Times) -> None:
        self.provider = provider
        self.times = times
        self._http = http
        self._base = provider.base_url.rstrip("/")

    @asynccontextmanager
    async def stream(self, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[Stream]:
        """Ask for an answer and yield its stream; leaving it early ends the request at the provider.

        Args:
            body: The request, JSON.
            headers: Headers beside the key's.

        Raises:
            Refused: The provider refused.
            Unreachable: It did not answer in time, or broke off; also while the stream is read.
            ProviderError: There is no key.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.times.connect)
        try:
            async with asyncio.timeout(self.times.total):
                accept = {**headers, "Accept": "text/event-stream"}
                response = await self._open("/chat/completions", body, accept, timeout)
                try:
                    await self._check_stream(response)
                    yield Stream(self.provider, response, self.times.idle)
                finally:
                    response.close()  # not released: nobody reads the rest
        except TimeoutError as error:
            raise unreachable(self.provider, "answer", error) from None

    async def transcribe(self, body: bytes, headers: Mapping[str, str]) -> Transcript:
        """Return the words of a turn.

        Raises:
            Refused: The provider refused, or its answer cannot be used.
            Unreachable: It did not answer in time.
            ProviderError: There is no key.
        """
        what = "transcribe"
        timeout = aiohttp.ClientTimeout(total=self.times.transcription, sock_connect=self.times.connect)
        status, head, data = await self._exchange("POST", "/audio/transcriptions", what, timeout, headers, body)
        answer = parse(data) or {}
        text = words(answer, "text")
        if status >= 300 or mapping(answer, "error") or text is None:
            raise refused(self.provider, what, status, data, retry_after=head.get("Retry-After"))
        return Transcript(text.strip(), usage_of(mapping(answer, "usage")))

    async def cost(self, generation: str) -> Usage | None:
        """Return what an answer cost, None while the provider does not know it yet.

        Raises:
            Refused: The provider refused to say.
            Unreachable: It did not answer in time.
        """
        timeout = aiohttp.ClientTimeout(total=self.times.lookup, sock_connect=self.times.connect)
        what = "say what an answer cost"
        status, head, data = await self._exchange("GET", "/generation", what, timeout, query={"id": generation})
        if status == 404:
            return None
        if status >= 300:
            raise refused(self.provider, what, status, data, retry_after=head.get("Retry-After"))
        found = mapping(parse(data) or {}, "data")
        cost = amount(found, "total_cost")
        return None if cost is None else Usage(cost=cost, cached_tokens=count(found, "native_tokens_cached"))

    async def _check_stream(self, response: aiohttp.ClientResponse) -> None:
        if response.status == 200 and response.content_type == "text/event-stream":
            return
        try:
            async with asyncio.timeout(self.times.idle):
                body = await read_body(response.content, _LARGEST_ANSWER)
        except (TimeoutError, aiohttp.ClientError, OSError):
            body = b""
        raise refused(self.provider, "answer", response.status, body, retry_after=response.headers.get("Retry-After"))

    async def _open(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp takes it
    ) -> aiohttp.ClientResponse:
        """Send a request whose answer is a stream and return when its head is there, within the idle time."""
        try:
            async with asyncio.timeout(self.times.idle):
                return await self._http.post(
                    self._base + path,
                    data=io.BytesIO(body),  # not bytes: aiohttp sends it piece by piece
                    headers=self._headers(headers),
                    timeout=timeout,
                    allow_redirects=False,
                    proxy=proxy_for(self._base),
                )
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable(self.provider, "answer", error) from None

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
        """Return status, headers and at most a little more than the largest answer."""
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
                return response.status, response.headers, await read_body(response.content, _LARGEST_ANSWER)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable(self.provider, what, error) from None

    def _headers(self, more: Mapping[str, str]) -> dict[str, str]:
        return {"Accept": "application/json", "Content-Type": "application/json", **self.provider.bearer(), **more}


def _stalled(provider: Provider, idle: float, why: TimeoutError) -> Unreachable:
    error = unreachable(provider, "answer", why)
    message = f"{provider.title} sent no data for {idle:g} s while it answered."
    return Unreachable(
        message, Fault("stalled", message, retry=error.fault.retry), hint=error.hint, provider_code="stalled"
    )
