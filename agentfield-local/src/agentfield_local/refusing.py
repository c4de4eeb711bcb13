"""Refuses requests as the switches say: any status at any door, in the protocol's shape or as a proxy's page."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from agentfield_local.behaviour import Behaviour, RefusePlace
from agentfield_local.refusals import Refusal

__all__ = ["HttpRefusal", "Refuser"]

_ERRORS: dict[int, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", "invalid_value", "The request is not valid."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    402: ("insufficient_quota", "credit_balance_exhausted", "Your account has no credit left."),
    403: ("invalid_request_error", "account_deactivated", "Your account is not active."),
    404: (
        *("invalid_request_error", "model_not_found"),
        "The model does not exist or you do not have access to it.",
    ),
    408: ("server_error", None, "The request took too long."),
    429: ("insufficient_quota", "insufficient_quota", "You exceeded your current quota."),
    500: ("server_error", "server_error", "The server had an error while processing your request."),
    502: ("server_error", None, "The upstream server did not answer."),
    503: ("server_error", "overloaded", "The server is overloaded."),
    504: ("server_error", None, "The upstream server did not answer in time."),
}
_RATE = ("rate_limit_error", "rate_limit_exceeded", "Rate limit reached for requests.")
_PAGE = (
    "<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body><h1>{status} {reason}</h1></body>\r\n</html>\r\n"
)


class HttpRefusal(Refusal):
    """A refusal with a status and headers of its own, and perhaps a page instead of JSON.

    Args:
        status: HTTP status.
        message: The sentence the client reads.
        code: Stable code, None where there is none.
        kind: The wire's `error.type`.
        retry_after: Seconds of a `Retry-After` header.
        page: HTML to send in place of the JSON body.
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


class Refuser:
    """Counts refusals, so that they can stop after some.

    Args:
        behaviour: Returns the switches that hold now.
    """

    def __init__(self, behaviour: Callable[[], Behaviour]) -> None:
        self._behaviour = behaviour
        self._seen: Behaviour | None = None
        self._refused = 0

    def check(self, place: RefusePlace) -> None:
        """Refuse what came to this door, if the switches say so.

        Raises:
            HttpRefusal: They do.
        """
        behaviour = self._behaviour()
        if behaviour is not self._seen:
            self._seen, self._refused = behaviour, 0
        status, look = behaviour.refuse_calls, behaviour.refuse
        if status is None or place not in look.at:
            return
        if behaviour.refuse_count is not None and self._refused >= behaviour.refuse_count:
            return
        self._refused += 1
        kind, code, message = _RATE if look.code == _RATE[1] else _ERRORS[status]
        page = _PAGE.format(status=status, reason=HTTPStatus(status).phrase) if look.html else None
        raise HttpRefusal(
            status, look.message or message, code=look.code or code, kind=kind, retry_after=look.retry_after, page=page
        )
