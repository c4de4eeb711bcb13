"""Refusals in OpenRouter's shape, `{error: {code, message, metadata}}`, before a stream and inside it."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from pydantic import ValidationError

from agentfield_local.chat.behaviour import ChatBehaviour
from agentfield_local.wire.refusals import Refusal
from agentfield_local.wire.validation import refusal_from_validation

__all__ = [
    "ChatRefusal",
    "ChatRefusalInjector",
    "chat_refusal_from_validation",
    "invalid",
    "overloaded",
    "to_chat_refusal",
    "upstream_failed",
]

_TYPES = {
    400: ("invalid_request", "The request is not valid."),
    401: ("authentication", "No auth credentials found."),
    402: ("payment_required", "Insufficient credits. Add more credits and try again."),
    403: ("content_policy_violation", "The input was flagged."),
    404: ("not_found", "No endpoints found for this model."),
    408: ("timeout", "The request timed out."),
    413: ("payload_too_large", "The request is too large."),
    422: ("unprocessable", "The request cannot be processed."),
    429: ("rate_limit_exceeded", "Rate limit exceeded."),
    500: ("server", "Internal server error."),
    502: ("provider_unavailable", "The upstream provider returned an error."),
    503: ("provider_overloaded", "No provider is available."),
}
_FORBIDDEN = 403
_PAGE = "<html>\r\n<head><title>{0} {1}</title></head>\r\n<body><center><h1>{0} {1}</h1></center></body>\r\n</html>\r\n"


class ChatRefusal(Exception):
    """Refusal of a request or of the rest of a completion.

    Args:
        status: HTTP status, and `error.code`.
        message: The message; None is the usual one of the status.
        param: Path of the offending field.
        kind: `error.metadata.error_type`; None is the usual one of the status.
        retry_after: Seconds of a `Retry-After` header.
        html: Whether the body is an HTML page instead of JSON.
    """

    def __init__(
        self,
        status: int,
        message: str | None = None,
        *,
        param: str | None = None,
        kind: str | None = None,
        retry_after: int | None = None,
        html: bool = False,
    ) -> None:
        usual, text = _TYPES[status]
        super().__init__(message or text)
        self.status = status
        self.message = message or text
        self.param = param
        self.kind = kind or usual
        self._retry_after = retry_after
        self._html = html

    def error(self) -> dict[str, Any]:
        """Return the `error` object."""
        metadata: dict[str, Any] = {"error_type": self.kind}
        if self.param is not None:
            metadata["param"] = self.param
        if self.status == _FORBIDDEN and self.kind == _TYPES[_FORBIDDEN][0]:
            metadata |= {"reasons": ["harassment"], "flagged_input": "what the caller said", "provider_name": "Local"}
        return {"code": self.status, "message": self.message, "metadata": metadata}

    def response(self) -> web.Response:
        """Return the HTTP answer."""
        headers = {} if self._retry_after is None else {"Retry-After": str(self._retry_after)}
        if self._html:
            page = _PAGE.format(self.status, web.Response(status=self.status).reason)
            return web.Response(status=self.status, text=page, content_type="text/html", headers=headers)
        return web.json_response({"error": self.error()}, status=self.status, headers=headers)


class ChatRefusalInjector:
    """Refuses requests as the behaviour says, up to its count."""

    def __init__(self) -> None:
        self._counted: ChatBehaviour | None = None
        self._refused = 0

    def check(self, behaviour: ChatBehaviour, endpoint: str) -> None:
        """Refuse a request to this endpoint if the behaviour says so.

        Raises:
            ChatRefusal: The request is refused.
        """
        if behaviour is not self._counted:
            self._counted, self._refused = behaviour, 0
        if behaviour.refuse is None or behaviour.refuse_at != endpoint:
            return
        if behaviour.refuse_count is None or self._refused < behaviour.refuse_count:
            self._refused += 1
            raise ChatRefusal(
                behaviour.refuse,
                behaviour.refuse_message,
                retry_after=behaviour.retry_after,
                html=behaviour.refuse_html,
            )


def invalid(message: str, param: str | None = None) -> ChatRefusal:
    """Return the refusal of an invalid request."""
    return ChatRefusal(400, message, param=param)


def chat_refusal_from_validation(error: ValidationError, data: object) -> ChatRefusal:
    """Return the first validation error as a refusal that names the field as the client wrote it."""
    refusal = to_chat_refusal(refusal_from_validation(error, data))
    found = error.errors(include_url=False, include_input=False)[0]
    if refusal.param is not None and found.get("ctx", {}).get("discriminator") == "'role'":
        refusal.param = f"{refusal.param.removesuffix('.type')}.role"
    return refusal


def to_chat_refusal(refusal: Refusal) -> ChatRefusal:
    """Return a Realtime refusal in the shape of chat completions."""
    status = {"invalid_api_key": 401, "forbidden": 403, "request_too_large": 413}.get(refusal.code or "", 400)
    kind = "forbidden" if refusal.code == "forbidden" else None
    return ChatRefusal(status, refusal.message, param=refusal.param, kind=kind)


def overloaded() -> ChatRefusal:
    """Return the refusal for full engine queues."""
    return ChatRefusal(503, "The server is overloaded.")


def upstream_failed() -> ChatRefusal:
    """Return the refusal for a failed engine."""
    return ChatRefusal(502, "The speech engines failed on this request.")
