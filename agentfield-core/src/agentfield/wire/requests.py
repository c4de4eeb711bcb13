"""Construction of the request bodies of the REST API, with typed errors."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from agentfield.errors import InvalidInput
from agentfield.schema import validation_message

__all__ = ["make_request", "request_error"]

RequestT = TypeVar("RequestT", bound=BaseModel)


def make_request(model: type[RequestT], /, **values: Any) -> RequestT:
    """Return a request body.

    Raises:
        InvalidInput: A field is invalid; the message and `field` name it.
    """
    try:
        return model(**values)
    except ValidationError as error:
        raise request_error(error, model, "request") from None


def request_error(error: ValidationError, model: type[BaseModel], what: str) -> InvalidInput:
    """Return the error for the first invalid field; the message does not repeat its value.

    Args:
        error: The error of pydantic.
        model: The model that does not fit.
        what: What was read as the model, as the message names it.
    """
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    reason = f"{field}: " * bool(field) + validation_message(first["type"], first["msg"])
    return InvalidInput(
        f"The {what} does not fit: {reason}.", hint=f"it takes: {', '.join(model.model_fields)}", field=field
    )
