"""Events in the shape of the retired beta protocol, which the provider answers with an error and close code 4000."""

from __future__ import annotations

from typing import Any

from agentfield_local.wire.json_values import load_object
from agentfield_local.wire.refusals import Refusal

__all__ = ["BETA_CLOSE", "beta_refusal", "check_beta_shape", "is_beta_client"]

BETA_CLOSE = (4000, "invalid_request_error.beta_api_shape_disabled")
"""Close code and reason after the error."""

_FLAT_FIELDS = frozenset(
    {
        "modalities",
        "voice",
        "input_audio_format",
        "output_audio_format",
        "input_audio_transcription",
        "input_audio_noise_reduction",
        "turn_detection",
        "temperature",
        "max_response_output_tokens",
    }
)
"""Fields of a session or a response that the protocol nests or names otherwise today."""
_PART_TYPES = frozenset({"text", "audio"})
"""Types of content parts that are `output_text` and `output_audio` today."""


def is_beta_client(header: str | None) -> bool:
    """Whether an `OpenAI-Beta` header asks for the beta protocol."""
    return header is not None and "realtime=" in header.replace(" ", "")


def check_beta_shape(text: str | bytes) -> None:
    """Reject a client event in the beta shape; what is no JSON object is left to the parser.

    Raises:
        Refusal: `beta_api_shape_disabled`.
    """
    try:
        event = load_object(text, "The event")
    except Refusal:
        return
    if _is_beta_event(event):
        raise beta_refusal()


def beta_refusal() -> Refusal:
    """Return the refusal of everything that belongs to the beta protocol."""
    return Refusal(
        "The Realtime Beta API is no longer supported. Please use /v1/realtime for the GA API.",
        code="beta_api_shape_disabled",
    )


def _is_beta_event(event: dict[str, Any]) -> bool:
    match event:
        case {"type": "session.update", "session": dict(session)}:
            return "type" not in session or not _FLAT_FIELDS.isdisjoint(session)
        case {"type": "response.create", "response": dict(response)}:
            return not _FLAT_FIELDS.isdisjoint(response)
        case {"type": "conversation.item.create", "item": {"content": list(parts)}}:
            return any(isinstance(part, dict) and _is_beta_part(part) for part in parts)
        case {"type": "transcription_session.update"}:
            return True
        case _:
            return False


def _is_beta_part(part: dict[str, Any]) -> bool:
    return isinstance(part.get("type"), str) and part["type"] in _PART_TYPES
