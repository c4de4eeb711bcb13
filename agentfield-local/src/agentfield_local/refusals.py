"""Refusals in the provider's own shape: what an `error` event or an HTTP error body says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

__all__ = ["Refusal", "from_validation", "http_error"]


class Refusal(Exception):
    """A client asked for something that the protocol does not allow.

    Args:
        message: The sentence the client reads.
        code: Stable code, None where the protocol has none.
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


def http_error(refusal: Refusal) -> dict[str, Any]:
    """Return the JSON body of an HTTP error."""
    body = refusal.body()
    del body["event_id"]
    return {"error": body}


def from_validation(error: ValidationError, data: object, root: Sequence[str] = ()) -> Refusal:
    """Turn the first complaint of a validation into a refusal that names the field as the client wrote it.

    Args:
        error: What pydantic raised.
        data: The JSON value that was validated.
        root: Path of `data` inside the whole message.
    """
    first = error.errors(include_url=False)[0]
    param = _path(first["loc"], data, missing=first["type"] == "missing", root=root)
    context = first.get("ctx", {})
    match first["type"]:
        case "missing" | "union_tag_not_found":
            if first["type"] == "union_tag_not_found":
                param = f"{param}.type" if param else "type"
            return Refusal(f"Missing required parameter: '{param}'.", code="missing_required_parameter", param=param)
        case "extra_forbidden":
            return Refusal(f"Unknown parameter: '{param}'.", code="unknown_parameter", param=param)
        case "literal_error":
            text = f"Invalid value: {first['input']!r:.200}. Supported values are: {_listed(context['expected'])}."
            return Refusal(text, code="invalid_value", param=param)
        case "union_tag_invalid":
            text = f"Invalid value: {context['tag']!r:.200}. Supported values are: {context['expected_tags']}."
            return Refusal(text, code="invalid_value", param=f"{param}.type" if param else "type")
        case _:
            text = f"Invalid value: {first['input']!r:.200}. {first['msg']}."
            return Refusal(text, code="invalid_value", param=param)


def _listed(expected: str) -> str:
    """Write pydantic's `'a', 'b' or 'c'` as the protocol does: `'a', 'b', and 'c'`."""
    before, _, last = expected.rpartition(" or ")
    if not before:
        return expected
    return f"{before}, and {last}" if ", " in before else f"{before} and {last}"


def _path(loc: Sequence[int | str], data: object, *, missing: bool, root: Sequence[str]) -> str:
    """Write a location as a client reads it, without the names of the union members that pydantic adds."""
    path = ".".join(root)
    for step, name in enumerate(loc):
        if isinstance(name, int) and isinstance(data, list) and name < len(data):
            path += f"[{name}]"
            data = data[name]
        elif isinstance(name, str) and isinstance(data, dict) and name in data:
            path += f".{name}" if path else name
            data = data[name]
        elif missing and step == len(loc) - 1:
            path += f".{name}" if path else str(name)
    return path
