"""The Idempotency-Key header: a repeated request takes effect once."""

from __future__ import annotations

import hashlib

from aiohttp import web
from pydantic import BaseModel

from agentfield.errors import InvalidInput
from agentfield.values import encode
from agentfield.wire.headers import IDEMPOTENCY_KEY
from agentfield_server.access.principals import PRINCIPAL
from agentfield_server.store.records import IdempotencyKey

__all__ = ["idempotency_key"]

_MAX_KEY = 255


def idempotency_key(request: web.Request, *, route: str, target: str, body: BaseModel) -> IdempotencyKey | None:
    """Return the request's key, bound to principal, route, target and body; None if there is none.

    Raises:
        InvalidInput: The key is empty, too long or not printable ASCII.
    """
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return None
    if not 1 <= len(key) <= _MAX_KEY or not key.isascii() or not key.isprintable():
        raise InvalidInput(f"{IDEMPOTENCY_KEY} is 1 to {_MAX_KEY} printable ASCII characters.", field=IDEMPOTENCY_KEY)
    digest = hashlib.sha256(encode(body.model_dump(mode="json"), name="", untyped="text").canonical).digest()
    return IdempotencyKey(principal=request[PRINCIPAL].id, route=route, target=target, key=key, body_digest=digest)
