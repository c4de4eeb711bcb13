"""Refusals in the provider's own shape: the content of an `error` event or of an HTTP error body."""

from __future__ import annotations

from typing import Any

__all__ = ["HttpRefusal", "Refusal", "http_error"]


class Refusal(Exception):
    """A client request that the protocol does not allow.

    Args:
        message: The sentence that the client reads.
        code: Stable code; None where the protocol has none.
        param: Path of the offending field, such as `session.audio.output.voice`.
        kind: The wire's `error.type`.
    """

    def __init__(
        self, message: str, *, code: str | None, param: str | None = None, kind: str = "invalid_request_error"
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind

    def body(self, event_id: str | None = None) -> dict[str, Any]:
        """Return the `error` object of an error event."""
        return {
            "type": self.kind,
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "event_id": event_id,
        }


class HttpRefusal(Refusal):
    """A refusal with its own HTTP status and headers, and optionally an HTML page instead of JSON.

    Args:
        status: HTTP status.
        message: The sentence that the client reads.
        code: Stable code; None where there is none.
        kind: The wire's `error.type`.
        retry_after: Seconds of a `Retry-After` header.
        page: HTML to send instead of the JSON body.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None,
        kind: str,
        retry_after: int | None = None,
        page: str | None = None,
    ) -> None:
        super().__init__(message, code=code, kind=kind)
        self.status = status
        self.page = page
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


def http_error(refusal: Refusal) -> dict[str, Any]:
    """Return the JSON body of an HTTP error."""
    body = refusal.body()
    del body["event_id"]
    return {"error": body}
