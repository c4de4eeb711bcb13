"""JSON Schema to the schema of function declarations; the Live API does not read JSON Schema (`parametersJsonSchema`).

Source: https://ai.google.dev/api/caching#Schema, a subset of OpenAPI 3.0. What it cannot express is left out: it describes
values to the model, and the control plane validates the arguments against the original schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["parameters_schema"]

_TYPES = {name: name.upper() for name in ("string", "number", "integer", "boolean", "array", "object")}
_COPIED = {
    "title": str,
    "description": str,
    "format": str,
    "pattern": str,
    "minimum": int | float,
    "maximum": int | float,
}
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_FORMATS = {
    "STRING": {"enum", "date-time"},
    "NUMBER": {"float", "double"},
    "INTEGER": {"int32", "int64"},
}
_MAX_DEPTH = 16


def parameters_schema(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the `parameters` of a function declaration, None if the function has none.

    Args:
        schema: JSON Schema of an object.
    """
    if not schema.get("properties"):
        return None
    return _convert(schema, schema, 0)


def _convert(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    schema = _resolved(schema, root)
    if depth > _MAX_DEPTH:  # a recursive type
        return {"type": "OBJECT"}
    choices = [each for name in ("anyOf", "oneOf") for each in schema.get(name, ()) if isinstance(each, Mapping)]
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else list(kinds or ())
    found: dict[str, Any] = {}
    nullable = "null" in kinds or any(each.get("type") == "null" for each in choices)
    choices = [each for each in choices if each.get("type") != "null"]
    kinds = [kind for kind in kinds if kind != "null"]
    if len(kinds) > 1:
        choices, kinds = [{**schema, "type": kind} for kind in kinds], []
    if len(choices) == 1:
        found = _convert(choices[0], root, depth + 1)
    elif choices:
        found["anyOf"] = [_convert(each, root, depth + 1) for each in choices]
    else:
        found["type"] = _type_of(schema, kinds)
        _fill(found, schema, root, depth)
    found.update({name: schema[name] for name, kind in _COPIED.items() if isinstance(schema.get(name), kind)})
    if found.get("format") not in _FORMATS.get(found.get("type", ""), ()):
        found.pop("format", None)
    return {**found, "nullable": True} if nullable else found


def _type_of(schema: Mapping[str, Any], kinds: list[Any]) -> str:
    if kinds:
        return _TYPES.get(str(kinds[0]), "STRING")
    if "properties" in schema:
        return "OBJECT"
    return "ARRAY" if "items" in schema else "STRING"


def _fill(found: dict[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> None:
    """Add what belongs to the type: properties, items, values, sizes."""
    if found["type"] == "OBJECT" and isinstance(schema.get("properties"), Mapping):
        properties = {name: each for name, each in schema["properties"].items() if isinstance(each, Mapping)}
        found["properties"] = {name: _convert(each, root, depth + 1) for name, each in properties.items()}
        required = [name for name in schema.get("required", ()) if name in properties]
        if required:
            found["required"] = required
    if found["type"] == "ARRAY":
        items = schema.get("items")
        found["items"] = _convert(items if isinstance(items, Mapping) else {}, root, depth + 1)
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if found["type"] == "STRING" and isinstance(values, list | tuple):
        found["enum"] = [str(value) for value in values if value is not None]
    found.update({name: str(schema[name]) for name in _COUNTS if isinstance(schema.get(name), int)})  # int64: a string


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema that a `$ref` within the document names, with the keys beside the reference."""
    for _ in range(_MAX_DEPTH):
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return schema
        target: Any = root
        for part in reference[2:].split("/"):
            target = target.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
        if not isinstance(target, Mapping):
            return schema
        schema = {**target, **{name: value for name, value in schema.items() if name != "$ref"}}
    return schema
