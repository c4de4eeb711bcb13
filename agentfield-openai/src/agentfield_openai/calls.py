"""HTTP client of WebRTC calls: creates a call from an SDP offer and hangs it up.

Source: https://platform.openai.com/docs/api-reference/realtime-calls
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from agentfield.adapterkit.http import read_body
from agentfield.adapterkit.refusals import unreachable_error
from agentfield.adapterkit.urls import proxy_for
from agentfield.errors import ProviderError
from agentfield_openai.provider import RealtimeProvider
from agentfield_openai.refusals import call_not_found, refusal_error

__all__ = ["CallsClient", "CreatedCall", "call_id_of"]

_CREATE_TIMEOUT = 15.0
_HANGUP_TIMEOUT = 5.0
_MAX_ANSWER = 64 * 1024
_CALL_ID = re.compile(r"rtc_[A-Za-z0-9_-]{1,200}")


@dataclass(frozen=True, slots=True)
class CreatedCall:
    """A call that the provider has created."""

    sdp: str
    call_id: str


def call_id_of(location: str) -> str | None:
    """Return the id of a call from a `Location` header: the last segment of the path that starts with ``rtc_``."""
    try:
        segments = urlsplit(location).path.split("/")
    except ValueError:
        return None
    return next((part for part in reversed(segments) if _CALL_ID.fullmatch(part)), None)


class CallsClient:
    """Client for the calls of one provider account.

    Args:
        provider: The service.
        http: HTTP session, owned by the user of this client (`agentfield.adapterkit.http.http_session`).
        create_timeout: Time limit in seconds for the creation of a call.
        hangup_timeout: Time limit in seconds for a hang-up.
    """

    def __init__(
        self,
        provider: RealtimeProvider,
        http: aiohttp.ClientSession,
        *,
        create_timeout: float = _CREATE_TIMEOUT,
        hangup_timeout: float = _HANGUP_TIMEOUT,
    ) -> None:
        self._provider = provider
        self._http = http
        self._create_timeout = create_timeout
        self._hangup_timeout = hangup_timeout
        self._base = provider.base_url.rstrip("/")

    async def create(self, offer: str, session: Mapping[str, Any], *, safety_id: str | None = None) -> CreatedCall:
        """Create a call from an SDP offer.

        Args:
            offer: The SDP offer of the caller, forwarded unchanged.
            session: The session object.
            safety_id: Stable hash of the end user's identity.

        Raises:
            ProviderError: The provider refused, or its response is unusable.
            ProviderUnavailable: The provider could not be reached in time.
        """
        form = aiohttp.FormData(quote_fields=False, charset="utf-8")
        form.add_field("sdp", offer, content_type="application/sdp")
        form.add_field("session", json.dumps(session, ensure_ascii=False), content_type="application/json")
        headers = {"Accept": "application/sdp"}
        dialect = self._provider.dialect
        if safety_id is not None and dialect.safety_header is not None:
            headers[dialect.safety_header] = safety_id
        status, answer, body = await self._post(
            dialect.calls_path, "create the call", self._create_timeout, headers=headers, data=form
        )
        if status not in {200, 201}:
            raise refusal_error(self._provider, "create the call", status, body, retry_after=answer.get("Retry-After"))
        call_id = call_id_of(answer.get("Location", ""))
        if call_id is None:
            raise self._unusable("does not say which call it made")
        sdp = _answer_sdp(body)
        if sdp is None:
            await self.hang_up(call_id)  # the call exists although its answer is unusable
            raise self._unusable(f"is not an SDP answer of at most {_MAX_ANSWER // 1024} KiB")
        return CreatedCall(sdp, call_id)

    async def hang_up(self, call_id: str) -> None:
        """End a call; succeeds if the call has already ended.

        Raises:
            ProviderError: The provider refused.
            ProviderUnavailable: The provider could not be reached in time.
            NotFound: The id does not have the form of the provider's call ids.
        """
        if not _CALL_ID.fullmatch(call_id):
            raise call_not_found(self._provider, call_id)
        path = f"{self._provider.dialect.calls_path}/{call_id}/hangup"
        status, _, body = await self._post(path, "hang up", self._hangup_timeout)
        if status not in {200, 201, 202, 204, 404}:
            raise refusal_error(self._provider, "hang up", status, body)

    async def _post(
        self,
        path: str,
        what: str,
        timeout: float,  # noqa: ASYNC109 - aiohttp takes it
        *,
        headers: Mapping[str, str] | None = None,
        data: aiohttp.FormData | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """POST and return status, headers and body; a body beyond the limit is cut after it."""
        url = self._base + path
        everything = {**self._provider.bearer(), **(headers or {})}
        try:
            async with self._http.post(
                url,
                headers=everything,
                data=data,
                timeout=aiohttp.ClientTimeout(total=timeout),
                allow_redirects=False,
                proxy=proxy_for(url),
            ) as response:
                return response.status, response.headers, await read_body(response.content, _MAX_ANSWER)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable_error(self._provider, what, error) from None

    def _unusable(self, why: str) -> ProviderError:
        return ProviderError(
            f"{self._provider.title} created a call, but its response {why}.", provider_code="invalid_answer"
        )


def _answer_sdp(body: bytes) -> str | None:
    if len(body) > _MAX_ANSWER or not body.startswith(b"v=0"):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
