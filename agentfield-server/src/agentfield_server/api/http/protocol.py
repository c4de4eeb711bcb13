"""The HTTP protocol of a connection: what is no HTTP gets a problem document and one line in the log, without a traceback."""

from __future__ import annotations

import logging
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from agentfield.errors import InvalidInput
from agentfield.lossy import visible_text
from agentfield_server.api.http.bodies import problem_reply

__all__ = ["HttpProtocol"]

_log = logging.getLogger("agentfield.server")
_REFUSED = (HttpProcessingError, UnicodeError, web.RequestPayloadError)
"""Errors of malformed bytes, of which the sender is the cause."""
_MOST = 200


class HttpProtocol(RequestHandler):
    """Serves the requests of one connection, as aiohttp's own handler does."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a request that could not be read."""
        if not isinstance(exc, _REFUSED):
            return super().handle_error(request, status, exc, message)
        self._log_refusal(exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun")
        refusal = InvalidInput(
            "The request is malformed.",
            code="malformed_request",
            hint="send HTTP/1.1 (RFC 9112) with headers in ASCII or UTF-8",
        )
        refusal.status = status if 400 <= status < 500 else 400
        response = problem_reply(refusal)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log an error of the connection, with its traceback only if its cause is in this process."""
        error = kw.get("exc_info")
        if isinstance(error, _REFUSED):
            self._log_refusal(error)
        else:
            super().log_exception(*args, **kw)

    def _log_refusal(self, error: BaseException) -> None:
        said = error.message if isinstance(error, HttpProcessingError) else str(error)
        why = visible_text(said.strip().partition("\n")[0][:_MOST], one_line=True)
        _log.info("a malformed request was refused: %s: %s", type(error).__name__, why.rstrip(": "))
