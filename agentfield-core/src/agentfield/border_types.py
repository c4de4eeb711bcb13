"""Types that a reasoner may take and return: which cannot be carried as JSON faithfully, and what to write instead.

A value crosses the border of a reasoner as JSON, and the declared type makes a Python value of it again. A type for which the
second differs from the first is refused when the reasoner is declared. `docs/types.md` has the table.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
import sys
from collections.abc import AsyncIterable, Generator, Iterable, Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, EncodedBytes, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from agentfield.errors import InvalidInput

__all__ = ["SECRETS", "check_border_type", "is_legacy_typed_dict", "unfaithful_model"]

SECRETS = (SecretStr, SecretBytes, Secret)
"""Types whose text is asterisks."""

_CONFIG = 'ConfigDict(val_json_bytes="base64", ser_json_bytes="base64")'
_LAZY = frozenset({Iterable, Iterator, Generator, AsyncIterable})
_Refusal = tuple[str, str]


def check_border_type(hint: Any, name: str, part: str) -> None:
    """Check a type hint of a reasoner, with the types inside it.

    Args:
        hint: The hint.
        name: The reasoner.
        part: The parameter, or ``return value``.

    Raises:
        InvalidInput: A type cannot be carried faithfully; the hint says what to write instead.
    """
    found = _refusal(hint, base64=True, seen=set())
    if found is not None:
        raise InvalidInput(f"{name}: {part}: {found[0]}.", code="invalid_declaration", hint=found[1], field=part)


@functools.lru_cache(maxsize=256)
def unfaithful_model(cls: type[BaseModel]) -> _Refusal | None:
    """Return why values of a model cannot be carried and what to write instead, None if they can."""
    return _refusal(cls, base64=True, seen=set())


def is_legacy_typed_dict(hint: Any) -> bool:
    """Return whether a type is a `typing.TypedDict` on a Python where it lacks what pydantic needs."""
    return sys.version_info < (3, 12) and hasattr(hint, "__total__") and type(hint).__module__ == "typing"


def _refusal(hint: Any, *, base64: bool, seen: set[int]) -> _Refusal | None:
    """Return why a type is refused.

    Args:
        hint: The type.
        base64: Whether bytes are base64 at this place: in hints of a function, and in models whose configuration says so.
        seen: Ids of the classes that were looked at, because models may be recursive.
    """
    hint = getattr(hint, "__value__", hint)  # an alias made by the `type` statement
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *metadata = get_args(hint)
        if any(isinstance(each, EncodedBytes) for each in metadata):
            return _encoded_bytes() if base64 else None
        return _refusal(inner, base64=base64, seen=seen)
    if (found := _own_refusal(origin or hint, base64=base64)) is not None:
        return found
    for argument in get_args(hint):
        for each in argument if isinstance(argument, list) else [argument]:
            if (found := _refusal(each, base64=base64, seen=seen)) is not None:
                return found
    if isinstance(hint, type) and id(hint) not in seen:
        seen.add(id(hint))
        return _inside(hint, seen)
    return None


def _own_refusal(cls: Any, *, base64: bool) -> _Refusal | None:
    if cls in _LAZY:
        return "an iterator is consumed once, and JSON holds a list", "Write list[...]."
    if not isinstance(cls, type):
        return None
    if issubclass(cls, SECRETS):
        why = f"{cls.__name__} hides its value, but inputs and outputs are recorded"
        return why, "Pass the name of the secret as str, and read the secret on the node that uses it."
    if issubclass(cls, bytearray | memoryview):
        return f"{cls.__name__} is not carried", "Write bytes."
    if issubclass(cls, re.Pattern):
        return "a compiled pattern loses its flags", "Write str, and compile it in the function."
    if issubclass(cls, enum.Enum):
        odd = [each for each in cls if not isinstance(each.value, str | int | float | bool | None)]
        if odd:
            return f"{cls.__name__}.{odd[0].name} is no text and no number", "Give the members texts or numbers."
    if is_legacy_typed_dict(cls):
        return (
            f"{cls.__name__} is a typing.TypedDict, which cannot be read on Python {sys.version_info[0]}.{sys.version_info[1]}",
            "Write `from typing_extensions import TypedDict`.",
        )
    if issubclass(cls, bytes) and not base64:
        return "bytes in a class are UTF-8 text by default, which most bytes are not", ""
    return None


def _inside(cls: type, seen: set[int]) -> _Refusal | None:
    """Return why a member of a class is refused."""
    config = getattr(cls, "model_config", None) or getattr(cls, "__pydantic_config__", None) or {}
    base64 = config.get("val_json_bytes", "utf8") == config.get("ser_json_bytes", "utf8") != "utf8"
    is_model = issubclass(cls, BaseModel)
    is_typed_dict = hasattr(cls, "__total__") and issubclass(cls, dict)
    for name, hint in _members(cls).items():
        # A typed dictionary without a configuration has that of the function.
        found = _refusal(hint, base64=base64 or (is_typed_dict and not config), seen=seen)
        if found is None or (is_model and _is_converted(cls, name)):
            continue
        why, instead = found
        attribute = "model_config" if is_model else "__pydantic_config__"
        return f"{cls.__name__}.{name}: {why}", instead or f"Write `{attribute} = {_CONFIG}` in {cls.__name__}."
    return None


def _members(cls: type) -> Mapping[str, Any]:
    if issubclass(cls, BaseModel):
        return {name: _annotation(field) for name, field in cls.model_fields.items()}
    if not dataclasses.is_dataclass(cls) and not hasattr(cls, "__total__") and not hasattr(cls, "_fields"):
        return {}
    try:
        return get_type_hints(cls, include_extras=True)
    except (NameError, TypeError):  # names that only pydantic can resolve
        return {}


def _annotation(field: FieldInfo) -> Any:
    encoded = [each for each in field.metadata if isinstance(each, EncodedBytes)]
    return Annotated[field.annotation, encoded[0]] if encoded else field.annotation


def _is_converted(cls: type[BaseModel], name: str) -> bool:
    """Return whether a model converts a field itself."""
    converters = cls.__pydantic_decorators__.field_serializers.values()
    return any(name in each.info.fields or "*" in each.info.fields for each in converters)


def _encoded_bytes() -> _Refusal:
    return "bytes of a parameter are base64 already, and would be decoded twice", "Write bytes."
