"""Commands to Telnyx about a call: answer it, start its media stream, hang it up.

https://developers.telnyx.com/api-reference/call-commands/answer-call, …/streaming-start and …/hangup-call
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import aiohttp

from agentfield.adapterkit.endpoint import ProviderEndpoint
from agentfield.adapterkit.http import read_body
from agentfield.adapterkit.json_fields import objects_at, parse_object, text_at
from agentfield.adapterkit.refusals import refusal_error, retry_seconds, unreachable_error
from agentfield.adapterkit.urls import proxy_for
from agentfield_telnyx.webhook import CLIENT_STATE

__all__ = ["API_URL", "CallControl"]

API_URL = "https://api.telnyx.com/v2"
_TIMEOUT = aiohttp.ClientTimeout(total=4)
"""Less than a transport has to stop, so that calls are hung up then."""
_MAX_ANSWER = 64 * 1024
_HINTS = {401: "check TELNYX_API_KEY", 403: "check what TELNYX_API_KEY may do", 404: "check TELNYX_API_URL"}


class CallControl:
    """Commands to calls. Each is sent with the same `command_id` for a call, so Telnyx executes a repeated one once.

    Args:
        endpoint: Telnyx's API, with the account's key.
        http: Sends the commands.
    """

    def __init__(self, endpoint: ProviderEndpoint, http: aiohttp.ClientSession) -> None:
        self._endpoint = endpoint
        self._http = http

    async def answer(self, call: str) -> None:
        """Answer an incoming call.

        Raises:
            ProviderError: Telnyx refused.
            ProviderUnavailable: Telnyx did not answer in time; a retry may help.
        """
        await self._command(call, "answer", "answer the call", {"send_silence_when_idle": True})

    async def start_streaming(self, call: str, url: str, token: str) -> None:
        """Start the media stream of an answered call, in both directions.

        Args:
            call: The call control id.
            url: URL of the stream, ``wss://…``.
            token: Sent by Telnyx when it opens the stream.

        Raises:
            ProviderError: Telnyx refused.
            ProviderUnavailable: Telnyx did not answer in time; a retry may help.
        """
        stream = {
            "stream_url": url,
            "stream_auth_token": token,
            "stream_track": "inbound_track",
            "stream_codec": "PCMU",
            "stream_bidirectional_mode": "rtp",
            "stream_bidirectional_codec": "PCMU",
            "stream_bidirectional_sampling_rate": 8000,
            "stream_bidirectional_target_legs": "self",
        }
        await self._command(call, "streaming_start", "start the media stream", stream)

    async def hang_up(self, call: str) -> None:
        """Hang up.

        Raises:
            ProviderError: Telnyx refused, for instance because the call is over.
            ProviderUnavailable: Telnyx did not answer in time.
        """
        await self._command(call, "hangup", "hang up", {})

    async def _command(self, call: str, action: str, what: str, body: dict[str, Any]) -> None:
        url = f"{self._endpoint.base_url}/calls/{quote(call, safe=':')}/actions/{action}"
        about = {"client_state": CLIENT_STATE, "command_id": f"agentfield-{action}"}
        try:
            async with self._http.post(
                url,
                json={**about, **body},
                headers=self._endpoint.bearer(),
                proxy=proxy_for(self._endpoint.base_url),
                timeout=_TIMEOUT,
                allow_redirects=False,  # a redirect would take the key elsewhere
            ) as response:
                if response.status == 200:
                    return
                answer = await read_body(response.content, _MAX_ANSWER)
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            raise unreachable_error(self._endpoint, what, error) from None
        code, title = self._error_of(answer)
        raise refusal_error(
            self._endpoint,
            what,
            response.status,
            code or f"http_{response.status}",
            reason=title,
            hint=_HINTS.get(response.status),
            retry_after=retry_seconds(response.headers.get("Retry-After")),
        )

    def _error_of(self, answer: bytes) -> tuple[str | None, str | None]:
        """Return code and title of an error; its `detail` is left out, since it may name numbers."""
        first = next(iter(objects_at(parse_object(answer) or {}, "errors")), {})
        code, title = text_at(first, "code"), text_at(first, "title")
        return (
            None if code is None else self._endpoint.clean(code, 40),
            None if title is None else self._endpoint.clean(title, 200),
        )
