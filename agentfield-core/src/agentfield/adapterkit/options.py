"""Validation of the `options=` of a session."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from agentfield.errors import InvalidInput
from agentfield.realtime.config import SessionConfig

__all__ = ["read_options"]

M = TypeVar("M", bound=BaseModel)


def read_options(model: type[M], config: SessionConfig) -> M:
    """Return the validated options of a session.

    Args:
        model: The options of the pair. Forbid extra fields, so that a misspelt option is refused.
        config: The frozen configuration of the session.

    Raises:
        InvalidInput: An option is unknown or out of range; `field` names it.
    """
    try:
        return model.model_validate(config.declaration.options)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(("options", *map(str, first["loc"])))
        known = ", ".join(sorted(model.model_fields))
        raise InvalidInput(
            f"{name} of session {config.target}: {first['msg']}.",
            code="invalid_options",
            hint=f"options of this pair: {known}",
            field=name,
        ) from None
