"""Validation of client data: the base of all strict models, and pydantic errors as refusals."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from agentfield_local.wire.refusals import Refusal

__all__ = ["StrictModel", "refusal_from_validation"]


_MAX_PATH = 400


class StrictModel(BaseModel):
    """Base of everything that a client sends: unknown fields are refused and no value is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


def refusal_from_validation(error: ValidationError, data: object, root: Sequence[str] = ()) -> Refusal:
    """Return the first validation error as a refusal that names the field as the client wrote it.

    Args:
        error: The error of pydantic.
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
    """Return pydantic's `'a', 'b' or 'c'` in the protocol's form: `'a', 'b', and 'c'`."""
    before, _, last = expected.rpartition(" or ")
    if not before:
        return expected
    return f"{before}, and {last}" if ", " in before else f"{before} and {last}"


def _path(loc: Sequence[int | str], data: object, *, missing: bool, root: Sequence[str]) -> str:
    """Return an error location as a client reads it, without the names of union members that pydantic adds."""
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
    return path if len(path) <= _MAX_PATH else f"{path[:_MAX_PATH]}…"
