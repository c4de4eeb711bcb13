"""Client of the speech endpoint, which speaks a text word for word: `POST /audio/speech`, streamed as PCM.

Source: https://platform.openai.com/docs/api-reference/audio/createSpeech
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp

from agentfield.adapterkit.refusals import unreachable_error
from agentfield.adapterkit.urls import proxy_for
from agentfield.errors import ProviderError
from agentfield_openai.provider import RealtimeProvider
from agentfield_openai.refusals import refusal_error

__all__ = ["MAX_INPUT", "SpeechEndpoint", "SpeechVoice", "heard_text", "split_text"]

MAX_INPUT = 4096
"""Most characters of one request."""
_CONNECT_TIMEOUT = 10.0
_SILENCE_TIMEOUT = 15.0
_TOTAL_TIMEOUT = 600.0
_MAX_REFUSAL = 64 * 1024
_CHARACTERS_PER_SECOND = 15.0
"""Rate of ordinary speech; estimates the length of speech that was stopped before all its audio had arrived."""


@dataclass(frozen=True, slots=True)
class SpeechVoice:
    """Model, voice and style of speech."""

    model: str
    voice: str
    instructions: str | None = None
    speed: float | None = None


class SpeechEndpoint:
    """The speech endpoint of one provider account.

    Args:
        provider: The service.
        http: HTTP session, owned by the user of this client.
        voice: Model, voice and style.
    """

    def __init__(self, provider: RealtimeProvider, http: aiohttp.ClientSession, voice: SpeechVoice) -> None:
        self._provider = provider
        self._http = http
        self._voice = voice
        self._url = provider.base_url.rstrip("/") + provider.dialect.speech_path

    def request(self, text: str) -> dict[str, str | float]:
        """Return the request body for `text`."""
        body: dict[str, str | float] = {
            "model": self._voice.model,
            "input": text,
            "voice": self._voice.voice,
            "response_format": "pcm",
        }
        if self._voice.instructions is not None:
            body["instructions"] = self._voice.instructions
        if self._voice.speed is not None:
            body["speed"] = self._voice.speed
        return body

    async def stream(self, text: str) -> AsyncIterator[bytes]:
        """Yield `text` as 24 kHz pcm16 in whole samples, as it is generated.

        Raises:
            ProviderError: The provider refused, or sent something other than audio.
            ProviderUnavailable: The provider could not be reached, broke off, or sent nothing for too long.
        """
        for piece in split_text(text):
            async for data in self._stream(piece):
                yield data

    async def _stream(self, text: str) -> AsyncIterator[bytes]:
        timeout = aiohttp.ClientTimeout(total=_TOTAL_TIMEOUT, sock_connect=_CONNECT_TIMEOUT, sock_read=_SILENCE_TIMEOUT)
        odd = b""
        try:
            async with self._http.post(
                self._url,
                json=self.request(text),
                headers={**self._provider.bearer(), "Accept": "audio/pcm"},
                timeout=timeout,
                allow_redirects=False,
                proxy=proxy_for(self._url),
            ) as response:
                await self._check(response)
                async for chunk in response.content.iter_any():
                    data = odd + chunk if odd else chunk
                    whole = len(data) & ~1
                    odd = data[whole:]
                    if whole:
                        yield data[:whole] if odd else data
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable_error(self._provider, "speak a text", error) from None

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status != 200:
            body = await response.content.read(_MAX_REFUSAL)
            raise refusal_error(
                self._provider, "speak a text", response.status, body, retry_after=response.headers.get("Retry-After")
            )
        if response.content_type.startswith("text/") or response.content_type == "application/json":
            raise ProviderError(
                f"{self._provider.title} answered with {self._provider.clean(response.content_type, 64)} instead of audio.",
                provider_code="invalid_answer",
            )


def split_text(text: str, longest: int = MAX_INPUT) -> list[str]:
    """Split a text into pieces that fit one request, between sentences if possible, else between words."""
    found = []
    rest = text.strip()
    while len(rest) > longest:
        head = rest[:longest]
        ends = [match.end() for match in re.finditer(r"[.!?…]\s", head)] or [
            match.end() for match in re.finditer(r"\s", head)
        ]
        end = ends[-1] if ends else longest
        found.append(rest[:end].strip())
        rest = rest[end:].strip()
    return [*found, rest] if rest else found


def heard_text(text: str, heard_ms: float, received_ms: float, *, complete: bool) -> str:
    """Return the heard part of a text, in proportion to the heard share of its audio; a partly heard word is left out.

    Args:
        text: The whole text.
        heard_ms: Heard milliseconds.
        received_ms: Received milliseconds of audio.
        complete: Whether all audio was received; otherwise the full length is estimated from the text.
    """
    whole = received_ms if complete else max(received_ms, len(text) * 1000 / _CHARACTERS_PER_SECOND)
    if heard_ms >= whole > 0:
        return text
    end = int(len(text) * heard_ms / whole) if whole > 0 else 0
    head = text[:end]
    if head and end < len(text) and not text[end].isspace() and not head[-1].isspace():
        head = head.rsplit(None, 1)[0] if len(head.split(None, 1)) > 1 else ""
    return head.strip()
