"""Messages of both directions, checked with the types of google-genai: an unknown field or a wrong value is an error.

The types are those of the Python SDK, which differ from the wire in few places:

- `setup.realtimeInputConfig` is missing in `LiveClientSetup`; `RealtimeInputConfig` checks it
- `voiceActivity.type` is named `voiceActivityType`
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

from google.genai import types
from pydantic import BaseModel, ValidationError

__all__ = ["InvalidMessage", "canonical", "check_client_message", "check_server_message"]

_FREE = {"args", "response", "properties"}
"""Fields whose names below are those of users."""

_CLIENT_FIELDS = {"setup", "clientContent", "realtimeInput", "toolResponse"}
_SERVER_FIELDS = {
    "setupComplete",
    "serverContent",
    "toolCall",
    "toolCallCancellation",
    "goAway",
    "sessionResumptionUpdate",
}


class InvalidMessage(Exception):
    """A message that the Live API does not know."""


def canonical(message: Any) -> Any:
    """Return a message with the names of the wire: the service also accepts ``client_content`` for ``clientContent``."""
    match message:
        case dict():
            return {_camel(name): each if name in _FREE else canonical(each) for name, each in message.items()}
        case list():
            return [canonical(each) for each in message]
    return message


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(each.capitalize() for each in rest)


def check_client_message(message: Mapping[str, Any]) -> None:
    """Check a message of the client.

    Raises:
        InvalidMessage: It is invalid.
    """
    if len(message) != 1 or not set(message) <= _CLIENT_FIELDS:
        raise InvalidMessage(f"exactly one field of {sorted(_CLIENT_FIELDS)}, not {sorted(message)}")
    message = dict(message)
    if "setup" in message:
        setup = message["setup"] = dict(message["setup"])
        _check(types.RealtimeInputConfig, setup.pop("realtimeInputConfig", {}))
    if len(message.get("realtimeInput", {"": None})) != 1:
        raise InvalidMessage("exactly one field in realtimeInput")
    _check(types.LiveClientMessage, message)


def check_server_message(message: Mapping[str, Any]) -> None:
    """Check a message of the server.

    Raises:
        InvalidMessage: It is invalid.
    """
    if len(_SERVER_FIELDS & set(message)) > 1:
        raise InvalidMessage(f"at most one field of {sorted(_SERVER_FIELDS)}, not {sorted(message)}")
    if "voiceActivity" in message:
        activity = dict(message["voiceActivity"])
        message = {**message, "voiceActivity": {"voiceActivityType": activity.pop("type", None), **activity}}
    _check(types.LiveServerMessage, message)


def _check(model: type[BaseModel], value: object) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an unknown value of an enumeration is a warning in the SDK
            model.model_validate_json(json.dumps(value))  # as JSON, so that data must be base64
    except ValidationError as error:
        raise InvalidMessage(str(error)) from None
    except Warning as warning:
        raise InvalidMessage(str(warning)) from None
