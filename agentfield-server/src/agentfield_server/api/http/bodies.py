"""Request bodies, validated strictly, and the replies: JSON and problem documents."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from agentfield.errors import AgentFieldError, InvalidInput, LimitExceeded
from agentfield.values import parse
from agentfield.wire.requests import request_error

__all__ = ["json_reply", "problem_reply", "read_limit", "read_model", "read_text", "strict_json", "validation_error"]

ModelT = TypeVar("ModelT", bound=BaseModel)

MAX_BODY = 64 * 1024
MAX_PAGE = 1000
MAX_RETRY_AFTER = 86_400
_SIZE_HINT = "send less: keep large data elsewhere and send where it is"
_JSON_HINT = "send one JSON object in UTF-8"


def strict_json(text: str) -> Any:
    """Parse JSON strictly (RFC 8259): no duplicate names, no NaN, no lone surrogates, at most 32 levels.

    Large integers pass; the border that knows the declared type decides about them.

    Raises:
        InvalidInput: The text is not such JSON (code `malformed_json`, or `unrepresentable` with the path to the value).
    """
    try:
        return parse(text, name="", untyped="keep").value
    except InvalidInput as error:
        if error.code != "malformed_json":
            raise
        why = error.message.partition(": ")[2]
        raise InvalidInput(f"The body is not valid JSON: {why}", code=error.code, hint=_JSON_HINT) from None


def validation_error(error: ValidationError, model: type[BaseModel]) -> InvalidInput:
    """Return the error for the first invalid field of `model`; the message does not repeat its value."""
    return request_error(error, model, "body")


async def read_text(request: web.Request, *, media_type: str, max_bytes: int, timeout: float = 10.0) -> str:  # noqa: ASYNC109
    """Return the body as text.

    Raises:
        InvalidInput: The media type differs (status 415), or the body is not UTF-8.
        LimitExceeded: The body exceeds `max_bytes` (status 413) or `timeout` seconds (status 408).
    """
    if request.content_type != media_type:
        error = InvalidInput(
            f"This route takes {media_type}, not {request.content_type}.",
            code="unsupported_media_type",
            hint=f"send it with the header 'Content-Type: {media_type}'",
        )
        error.status = 415
        raise error
    if request.content.is_eof():
        body = request.content.read_nowait()  # fast path: a small body arrives with the headers, no timeout is needed
    else:
        body = await _slow_body(request, max_bytes=max_bytes, timeout=timeout)
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput("The body is not UTF-8.", code="malformed_body", hint="encode it as UTF-8") from None


async def _slow_body(request: web.Request, *, max_bytes: int, timeout: float) -> bytes:  # noqa: ASYNC109
    body = bytearray()
    try:
        async with asyncio.timeout(timeout):
            async for chunk in request.content.iter_chunked(16 * 1024):
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError:
        slow = LimitExceeded(
            f"The body did not arrive within {timeout:g} s.", code="body_too_slow", hint="send it again, at once"
        )
        slow.status = 408
        raise slow from None
    return bytes(body)


def _too_large(max_bytes: int) -> LimitExceeded:
    error = LimitExceeded(f"The body is larger than {max_bytes} bytes.", code="body_too_large", hint=_SIZE_HINT)
    error.status = 413
    return error


async def read_model(request: web.Request, model: type[ModelT], *, max_bytes: int = MAX_BODY) -> ModelT:
    """Return the JSON body as `model`; an absent body counts as ``{}``.

    Raises:
        InvalidInput: The body is malformed, or a field is invalid; the message names the field.
        LimitExceeded: The body is too large or too slow.
    """
    if request.body_exists:
        text = await read_text(request, media_type="application/json", max_bytes=max_bytes)
        strict_json(text)
    else:
        text = "{}"
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise validation_error(error, model) from None


def read_limit(request: web.Request) -> int:
    """Return the page size: ``?limit=``, 200 by default.

    Raises:
        InvalidInput: It is not an integer from 1 to 1000.
    """
    value = request.query.get("limit", "200")
    if not (value.isascii() and value.isdigit() and len(value) <= 4 and 1 <= int(value) <= MAX_PAGE):
        raise InvalidInput(f"limit is a whole number from 1 to {MAX_PAGE}.", hint="limit=200", field="limit")
    return int(value)


def json_reply(
    value: BaseModel | Mapping[str, Any] | Iterable[BaseModel] | bytes,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return a JSON response; `bytes` are JSON already."""
    if isinstance(value, bytes):
        return web.Response(
            body=value, charset="utf-8", status=status, content_type="application/json", headers=headers
        )
    if isinstance(value, BaseModel):
        text = value.model_dump_json()
    elif isinstance(value, Mapping):
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    else:
        text = "[" + ",".join(item.model_dump_json() for item in value) + "]"
    return web.Response(text=text, status=status, content_type="application/json", headers=headers)


def problem_reply(error: AgentFieldError) -> web.Response:
    """Return an RFC 9457 problem document."""
    problem = error.to_problem()
    headers = _retry_after(error.data.get("retry_after"))
    text = json.dumps(problem, separators=(",", ":"), ensure_ascii=False)
    return web.Response(
        # a lone surrogate in an error's text must not cost the reply
        body=text.encode(errors="replace"),
        charset="utf-8",
        status=problem["status"],
        content_type="application/problem+json",
        headers=headers,
    )


def _retry_after(seconds: object) -> dict[str, str]:
    """Return the header for the `retry_after` of an error, which may be any value: user code and nodes set it."""
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds <= MAX_RETRY_AFTER:
        return {"Retry-After": str(int(seconds))}
    return {}
