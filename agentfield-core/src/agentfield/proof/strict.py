"""Strict reading of signed JSON: one encoding for each document, exact members, whole-second times, small integers."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from agentfield.errors import InvalidInput
from agentfield.identity import canonical, unb64url

__all__ = [
    "bad",
    "boolean",
    "hash_of",
    "integer",
    "members",
    "parse_canonical",
    "signature_of",
    "text",
    "time_text",
    "timestamp",
    "wrong",
]

_HASH = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_MAX_INTEGER = 2**53 - 1
_MAX_TEXT = 4096
_SIGNATURE_BYTES = 64


def bad(why: str) -> NoReturn:
    """Reject a document.

    Raises:
        InvalidInput: Always (code ``bad_document``).
    """
    raise InvalidInput(f"The document is malformed: {why}.", code="bad_document")


def wrong(why: str, code: str, **where: Any) -> NoReturn:
    """Reject the export.

    Args:
        why: The reason.
        code: The code of the error.
        where: `item` and `line`, where they are not those of the current line.

    Raises:
        InvalidInput: Always.
    """
    raise InvalidInput(why, code=code, **where)


def parse_canonical(data: bytes) -> Any:
    """Return the JSON value that canonical bytes encode.

    Args:
        data: The bytes, without a line feed.

    Raises:
        InvalidInput: They are not the canonical encoding (RFC 8785) of any value, such as with duplicate names, white space, an
            integer beyond 2^53 - 1 or bytes that are not UTF-8 (code ``bad_document``).
    """
    try:
        value = json.loads(data.decode("utf-8"))
        if canonical(value) == data:
            return value
    except (ValueError, RecursionError, InvalidInput) as error:
        raise InvalidInput(f"The document is not JSON: {error}.", code="bad_document") from error
    bad("its bytes are not the canonical encoding of what they hold")


def members(value: Any, name: str, required: Collection[str], optional: Collection[str] = ()) -> Mapping[str, Any]:
    """Return an object that has exactly these members.

    Args:
        value: The value.
        name: Name of the object in the error.
        required: Members that it must have.
        optional: Members that it may have.

    Raises:
        InvalidInput: It is no object, lacks a member or has another one.
    """
    if not isinstance(value, dict):
        bad(f"{name} is not an object")
    if missing := [each for each in required if each not in value]:
        bad(f"{name} has no {missing[0]}")
    if unknown := [each for each in value if each not in required and each not in optional]:
        bad(f"{name} has an unknown member {unknown[0][:100]!r}")
    return value


def text(value: Any, name: str) -> str:
    """Return a text of 1 to 4,096 characters.

    Raises:
        InvalidInput: It is none.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= _MAX_TEXT:
        bad(f"{name} is not a text of 1 to {_MAX_TEXT} characters")
    return value


def integer(value: Any, name: str, least: int = 0) -> int:
    """Return an integer of at least `least` and at most 2^53 - 1.

    Raises:
        InvalidInput: It is none.
    """
    if type(value) is not int or not least <= value <= _MAX_INTEGER:
        bad(f"{name} is not an integer from {least} to 2^53 - 1")
    return value


def boolean(value: Any, name: str) -> bool:
    """Return a truth value.

    Raises:
        InvalidInput: It is none.
    """
    if not isinstance(value, bool):
        bad(f"{name} is neither true nor false")
    return value


def hash_of(value: Any, name: str) -> bytes:
    """Return the 32 bytes that base64url text stands for, in its one form.

    Raises:
        InvalidInput: It is no such text.
    """
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        bad(f"{name} is not a SHA-256 in base64url")
    return unb64url(value)


def signature_of(value: Any, name: str) -> bytes:
    """Return the 64 bytes of a signature in base64url.

    Raises:
        InvalidInput: It is no such text.
    """
    signature = b""
    if isinstance(value, str):
        with contextlib.suppress(InvalidInput):
            signature = unb64url(value)
    if len(signature) != _SIGNATURE_BYTES:
        bad(f"{name} is not a signature in base64url")
    return signature


def timestamp(value: Any, name: str) -> datetime:
    """Return the time that text in whole seconds states, `YYYY-MM-DDTHH:MM:SSZ`.

    Raises:
        InvalidInput: It is no such text.
    """
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            return datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError:
            pass
    bad(f"{name} is not a time in whole seconds, such as 2026-12-01T12:00:00Z")


def time_text(at: float) -> str:
    """Return a time in whole seconds, rounded down.

    Args:
        at: Seconds since the epoch.
    """
    return _second_text(int(at))


@functools.lru_cache(64)
def _second_text(second: int) -> str:
    """Return a whole second as text; cached, since what is issued together ended together."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
