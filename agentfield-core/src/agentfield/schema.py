"""Type hints to JSON Schema: inputs and outputs of functions, their validation, and conversion of values to plain JSON."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import inspect
import json
import math
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, PydanticUndefined, to_jsonable_python

from agentfield.border_types import SECRETS, check_border_type, unfaithful_model
from agentfield.errors import InvalidInput
from agentfield.values import (
    MAX_DEPTH,
    MAX_INTEGER,
    Encoded,
    Untyped,
    encode,
    nearest,
    restore_integers,
    unrepresentable,
)

__all__ = ["InputModel", "bind_input", "input_schema", "jsonable", "output_schema", "plain_json", "summary", "to_json"]

_KEYS = (str, int, float, bytes, enum.Enum, uuid.UUID, dt.date, dt.time, dt.timedelta, decimal.Decimal, PurePath)
_BASE64 = ConfigDict(val_json_bytes="base64", ser_json_bytes="base64")
_MAX_CONVERTED = (
    2 * MAX_DEPTH
)  # a value that contains itself ends here; enums and models are levels that JSON does not have
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_PREFIX = "arg_"  # parameters become fields of a model; the prefix keeps their names apart from the model's own
_ARGUMENT = re.compile(r"^\s+\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.+)$")
_SECTION = re.compile(r"^(Returns|Raises|Yields|Example|Examples|Note|Notes|Attributes):\s*$")


class InputModel:
    """The parameters of a function as a pydantic model: a JSON Schema for callers and a validator of their input.

    Args:
        fn: The function; its type hints define the types, and a parameter without a hint accepts any value.
        namespace: Names that the hints may use beyond those of the function's module.

    Raises:
        InvalidInput: A hint cannot be resolved or has no JSON Schema, or a parameter cannot be passed by name.
    """

    def __init__(self, fn: Callable[..., Any], *, namespace: Mapping[str, Any] | None = None) -> None:
        self.name = getattr(fn, "__name__", type(fn).__name__)
        self._open = False
        self._parameters: list[str] = []
        self._model = self._build(fn, _hints(fn, namespace))
        self.schema = self._schema()

    def bind(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Validate JSON values and return them as keyword arguments.

        Raises:
            InvalidInput: A value is invalid; `field` names the first invalid part, `errors` lists all of them.
        """
        try:
            # As JSON, which they are: strict types, bytes and keys of other types are read from their JSON forms only then.
            model = self._model.model_validate_json(json.dumps(restore_integers(dict(values), self.schema)))
        except ValidationError as error:
            raise _invalid_input(self.name, self._parameters, error) from None
        bound = {
            name: getattr(model, _PREFIX + name)
            for name in self._parameters
            if _PREFIX + name in model.model_fields_set
        }
        return {**bound, **(model.model_extra or {})}

    def _build(self, fn: Callable[..., Any], hints: dict[str, Any]) -> type[BaseModel]:
        texts = _argument_texts(inspect.getdoc(fn) or "")
        fields: dict[str, Any] = {}
        for parameter in inspect.signature(fn).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                self._open = True
                continue
            if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL}:
                raise InvalidInput(
                    f"{self.name}: the parameter {parameter.name!r} cannot be passed by name, but input is passed by name.",
                    code="invalid_declaration",
                    field=parameter.name,
                )
            check_border_type(hints.get(parameter.name, Any), self.name, parameter.name)
            default = PydanticUndefined if parameter.default is parameter.empty else parameter.default
            field = Field(default=default, alias=parameter.name, title=None, description=texts.get(parameter.name))
            fields[_PREFIX + parameter.name] = (Annotated[hints.get(parameter.name, Any), field], default)
            self._parameters.append(parameter.name)
        config = ConfigDict(extra="allow" if self._open else "forbid", validate_default=False, **_BASE64)
        with _declaring(self.name, "parameters"):
            return create_model("Input", __config__=config, **_with_defaults(fields))

    def _schema(self) -> dict[str, Any]:
        with _declaring(self.name, "parameters"):
            schema = self._model.model_json_schema(by_alias=True)
        schema.pop("title", None)
        for part in schema.get("properties", {}).values():
            part.pop("title", None)
        schema.setdefault("properties", {})
        return _carried(schema)


def input_schema(fn: Callable[..., Any]) -> dict[str, Any]:
    """Return the JSON Schema of a function's parameters; their descriptions come from its docstring's ``Args:``."""
    return InputModel(fn).schema


def bind_input(fn: Callable[..., Any], input: Mapping[str, Any]) -> dict[str, Any]:  # noqa: A002 -- the field name of the REST API
    """Return `input` as keyword arguments of `fn`, converted to the types of its hints.

    Raises:
        InvalidInput: A value is invalid; the message and `field` name the part.
    """
    return InputModel(fn).bind(input)


def output_schema(fn: Callable[..., Any], *, namespace: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Return the JSON Schema of a function's return type, None without a hint.

    Raises:
        InvalidInput: The return type has no JSON Schema.
    """
    hints = _hints(fn, namespace)
    if "return" not in hints:
        return None
    name = getattr(fn, "__name__", type(fn).__name__)
    check_border_type(hints["return"], name, "return value")
    with _declaring(name, "return value"):
        return _carried(_adapter(hints["return"]).json_schema(mode="serialization"))


def _adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint, config=_BASE64)
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        return TypeAdapter(hint)  # a model has a configuration of its own


def summary(fn: Callable[..., Any]) -> str:
    """Return a function's docstring without ``Args:`` and other sections; models see it as the description."""
    lines: list[str] = []
    for line in (inspect.getdoc(fn) or "").splitlines():
        if line.strip() in {"Args:", "Arguments:"} or _SECTION.match(line):
            break
        lines.append(line)
    return "\n".join(lines).strip()


def jsonable(
    value: Any, *, name: str = "value", schema: Mapping[str, Any] | None = None, untyped: Untyped = "refuse"
) -> Any:
    """Return a value as plain JSON types; models, dataclasses, enums, dates and similar values are converted.

    Args:
        value: Any value.
        name: The name of the value in the error message.
        schema: The JSON Schema of the value, see `agentfield.values.encode`.
        untyped: What becomes of large integers elsewhere, see `agentfield.values.encode`.

    Raises:
        InvalidInput: With the code ``unrepresentable``; `field` is the path to the part that JSON cannot represent.
    """
    return to_json(value, name=name, schema=schema, untyped=untyped).value


def to_json(
    value: Any, *, name: str = "value", schema: Mapping[str, Any] | None = None, untyped: Untyped = "refuse"
) -> Encoded:
    """Return the same as `jsonable` with its canonical bytes."""
    return encode(plain_json(value, name=name), name=name, schema=schema, untyped=untyped)


def plain_json(value: Any, *, name: str = "value") -> Any:
    """Return a value converted to JSON types for `encode`, which checks its numbers, texts and levels.

    Raises:
        InvalidInput: With the code ``unrepresentable``: a part is of a type that JSON does not have.
    """
    return _plain(value, name, 0)


def _plain(value: Any, path: str, depth: int) -> Any:
    if depth > _MAX_CONVERTED:
        raise unrepresentable(path, f"is nested deeper than {MAX_DEPTH} levels, or contains itself")
    match value:
        case None | bool() | str() | int() | float() if not isinstance(value, enum.Enum):
            return value
        case enum.Enum():
            return _plain(value.value, path, depth + 1)
        case BaseModel():
            return _converted(value, path, depth)
        case Mapping():
            return _object(value, path, depth)
        case list() | tuple():
            return [_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
        case set() | frozenset():
            # Sorted, because the order of a set of texts differs from process to process, and so would its digest.
            items = [_plain(item, f"{path}[...]", depth + 1) for item in value]
            return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in dataclasses.fields(value)]
            return {name: _plain(getattr(value, name), f"{path}.{name}", depth + 1) for name in names}
        case _:
            return _converted(value, path, depth)


def _object(value: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        name = _key(key, path)
        if name in plain:
            raise unrepresentable(path, f"has two keys that are {name!r} in JSON")
        plain[name] = _plain(item, f"{path}.{name}", depth + 1)
    return plain


def _converted(value: Any, path: str, depth: int) -> Any:
    if inspect.isawaitable(value):
        raise unrepresentable(path, "was not awaited; write `await` before it")
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        raise unrepresentable(path, f"is a {type(value).__name__}; return the value that it yields")
    if isinstance(value, SECRETS):
        raise unrepresentable(path, "hides its value, but inputs and outputs are recorded; pass the name of the secret")
    if isinstance(value, BaseModel) and (found := unfaithful_model(type(value))) is not None:
        raise unrepresentable(path, f"cannot be carried: {found[0]}. {found[1].removesuffix('.')}")
    try:
        # Converts dates, UUIDs, decimals, paths, sets and everything else that pydantic serializes.
        plain = to_jsonable_python(value, bytes_mode="base64", by_alias=True)
    except (PydanticSerializationError, ValueError, RecursionError):
        raise unrepresentable(path, f"is of type {type(value).__name__}, which JSON cannot hold") from None
    return _plain(plain, path, depth + 1)


def _key(key: Any, path: str) -> str:
    """Return the text of a key: a parameter declared as ``dict[int, ...]`` makes integers of its keys again."""
    if isinstance(key, str) and not isinstance(key, enum.Enum):
        return key
    plain = _plain(key, path, 0) if isinstance(key, _KEYS) else None
    if plain is None or isinstance(plain, list | dict):
        raise unrepresentable(path, f"has a key of type {type(key).__name__}; keys are text in JSON")
    return plain if isinstance(plain, str) else json.dumps(plain)


def _carried(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that can be carried: without bounds beyond 2^53 - 1, which the node itself checks, and NaN defaults."""
    return {key: _carried_part(item) for key, item in schema.items() if not _is_beyond(key, item)}


def _carried_part(part: Any) -> Any:
    if isinstance(part, dict):
        return _carried(part)
    return [_carried_part(item) for item in part] if isinstance(part, list) else nearest(part)


def _is_beyond(key: str, item: Any) -> bool:
    if key == "default" and isinstance(item, float):
        return not math.isfinite(item)
    return key in _BOUNDS and isinstance(item, int | float) and not -MAX_INTEGER <= item <= MAX_INTEGER


def _invalid_input(name: str, parameters: Sequence[str], error: ValidationError) -> InvalidInput:
    faults = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        path = ".".join(str(part) for part in fault["loc"]) or "input"
        faults.append({"field": path, "message": validation_message(fault["type"], fault["msg"])})
    listed = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults[:5])
    more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
    return InvalidInput(
        f"The input of {name} does not fit: {listed}{more}.",
        hint=f"it takes: {', '.join(parameters)}" if parameters else "it takes nothing",
        field=faults[0]["field"],
        errors=faults[:20],
    )


def validation_message(kind: str, message: str) -> str:
    """Return the message for an invalid field.

    Args:
        kind: Pydantic's error type.
        message: Pydantic's error message.
    """
    match kind:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return "is not a parameter"
        case _:
            return message[:1].lower() + message[1:]


class _declaring:  # noqa: N801 -- reads as a verb: with _declaring(...)
    """Context manager that raises pydantic's errors about a type as errors of the declaration."""

    def __init__(self, name: str, part: str) -> None:
        self._name, self._part = name, part

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PydanticUserError):
            raise InvalidInput(
                f"{self._name}: the type of its {self._part} has no JSON Schema: {str(error).splitlines()[0]}",
                code="invalid_declaration",
                hint="Use JSON types, pydantic models, dataclasses or typing_extensions.TypedDict.",
                field=self._part,
            ) from error


def _with_defaults(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: (hint, ... if default is PydanticUndefined else default) for name, (hint, default) in fields.items()}


def _hints(fn: Callable[..., Any], namespace: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return get_type_hints(fn, localns=dict(namespace) if namespace else None, include_extras=True)
    except (NameError, TypeError, SyntaxError) as error:
        name = getattr(fn, "__name__", type(fn).__name__)
        raise InvalidInput(
            f"{name}: a type hint cannot be resolved: {error}.",
            code="invalid_declaration",
            hint="Import the type at the top of the module, not only under TYPE_CHECKING.",
            field=name,
        ) from error


def _argument_texts(doc: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    inside = False
    for line in doc.splitlines():
        if line.strip() in {"Args:", "Arguments:"}:
            inside = True
        elif line and not line[0].isspace():
            inside = False
        elif inside and (match := _ARGUMENT.match(line)):
            texts[match[1]] = match[2].strip()
        elif inside and texts and line.strip():
            last = next(reversed(texts))
            texts[last] = f"{texts[last]} {line.strip()}"
    return texts
