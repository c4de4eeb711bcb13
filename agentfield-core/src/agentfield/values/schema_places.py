"""Lookup in a JSON Schema that nobody has checked: the schemas of the parts of a value, and the types that they declare.

A schema comes from a node and may be any JSON. What is no schema says nothing about types; nothing here raises for it. The
steps of all lookups along one value are bounded: behind the bound a schema says nothing either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["MAX_STEPS", "SchemaPlaces", "mentions_integer"]

MAX_STEPS = 500_000
"""Schemas that are visited for one value; a value of 1 MiB takes half as many, with two at each part."""

_ALTERNATIVES = ("anyOf", "oneOf", "allOf")
_TYPES = 7
"""Types that JSON Schema has."""


class SchemaPlaces:
    """Finds the schemas of the parts of one value.

    Args:
        root: The schema of the value, in which references are resolved.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._referenced: dict[str, Any] = {}
        self._left = MAX_STEPS

    def options(self, schemas: Sequence[Any]) -> list[Mapping[str, Any]]:
        """Return the schemas with their references and alternatives."""
        options: list[Mapping[str, Any]] = []
        seen: set[int] = set()
        waiting = list(schemas)
        while waiting and self._left > 0:
            self._left -= 1
            schema = waiting.pop()
            if not isinstance(schema, Mapping) or id(schema) in seen:
                continue
            seen.add(id(schema))
            options.append(schema)
            for word in _ALTERNATIVES:
                alternatives = schema.get(word)
                if isinstance(alternatives, list | tuple):
                    waiting.extend(alternatives[: self._left])
            if isinstance(reference := schema.get("$ref"), str):
                waiting.append(self._target(reference))
        return options

    def types(self, schemas: Sequence[Any]) -> set[str]:
        """Return the types that the schemas of a part declare."""
        types: set[str] = set()
        for schema in self.options(schemas):
            declared = schema.get("type")
            if isinstance(declared, str):
                types.add(declared)
            elif isinstance(declared, list | tuple):
                types.update(each for each in declared[:_TYPES] if isinstance(each, str))
        return types

    def of_key(self, options: Sequence[Mapping[str, Any]], key: Any) -> list[Any]:
        """Return the schemas of an object's member."""
        found = []
        for schema in self._afforded(options):
            properties = schema.get("properties")
            if isinstance(properties, Mapping) and key in properties:
                found.append(properties[key])
            else:
                found.append(schema.get("additionalProperties"))
        return found

    def of_index(self, options: Sequence[Mapping[str, Any]], index: int) -> list[Any]:
        """Return the schemas of a list's item."""
        found = []
        for schema in self._afforded(options):
            first = schema.get("prefixItems")
            if isinstance(first, list | tuple) and index < len(first):
                found.append(first[index])
            else:
                found.append(schema.get("items"))
        return found

    def _afforded(self, options: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        self._left -= len(options)
        return options if self._left >= 0 else ()

    def _target(self, reference: str) -> Any:
        if reference not in self._referenced:
            self._referenced[reference] = self._resolve(reference)
        return self._referenced[reference]

    def _resolve(self, reference: str) -> Any:
        here: Any = self._root
        for part in reference.removeprefix("#").strip("/").split("/") if reference.startswith("#") else ():
            part = part.replace("~1", "/").replace("~0", "~")  # noqa: PLW2901 -- RFC 6901, section 4
            here = here.get(part) if isinstance(here, Mapping) else None
        return here


def mentions_integer(schema: Any) -> bool:
    """Return whether a schema has the text `integer` anywhere."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            waiting.extend(part.values())
        elif isinstance(part, list | tuple):
            waiting.extend(part)
        elif part == "integer":
            return True
    return False
