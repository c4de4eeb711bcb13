"""Injected refusals: any HTTP status at any endpoint, as the protocol's JSON or as the HTML page of a proxy."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from agentfield_local.faults.behaviour import Behaviour, RefusedEndpoint
from agentfield_local.wire.refusals import HttpRefusal

__all__ = ["RefusalInjector"]

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


class RefusalInjector:
    """Refuses requests as the current behaviour says, up to its count.

    Args:
        behaviour: Returns the current behaviour.
    """

    def __init__(self, behaviour: Callable[[], Behaviour]) -> None:
        self._behaviour = behaviour
        self._counted: Behaviour | None = None
        self._refused = 0

    def check(self, endpoint: RefusedEndpoint) -> None:
        """Refuse a request to this endpoint if the behaviour says so.

        Raises:
            HttpRefusal: The request is refused.
        """
        behaviour = self._behaviour()
        if behaviour is not self._counted:  # a test replaced it: the count starts anew
            self._counted, self._refused = behaviour, 0
        status, shape = behaviour.refuse_calls, behaviour.refuse
        if status is None or endpoint not in shape.at:
            return
        if behaviour.refuse_count is not None and self._refused >= behaviour.refuse_count:
            return
        self._refused += 1
        kind, code, message = _RATE if shape.code == _RATE[1] else _ERRORS[status]
        page = _PAGE.format(status=status, reason=HTTPStatus(status).phrase) if shape.html else None
        raise HttpRefusal(
            status,
            shape.message or message,
            code=shape.code or code,
            kind=kind,
            retry_after=shape.retry_after,
            page=page,
        )
