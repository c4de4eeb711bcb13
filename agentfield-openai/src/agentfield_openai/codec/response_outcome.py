"""Outcome of a response, read from its `response.done` event: status, reason, fatal faults and usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from agentfield.adapterkit.json_fields import count_at, object_at, text_at
from agentfield.realtime.events import Event, ProviderFault, Usage
from agentfield_openai.codec.error_classification import classify_error
from agentfield_openai.codec.state import ReplyState

__all__ = ["Status", "end_reason", "expects_playout", "fatal_faults", "response_status", "response_usage"]

Status = Literal["completed", "cancelled", "failed", "incomplete"]

_STATUSES: Mapping[object, Status] = {
    "completed": "completed",
    "cancelled": "cancelled",
    "failed": "failed",
    "incomplete": "incomplete",
}


def response_status(value: object) -> Status:
    """Return the status of a response; an unknown or missing one counts as incomplete."""
    return _STATUSES.get(value, "incomplete") if isinstance(value, str) else "incomplete"


def end_reason(status: Status, details: Mapping[str, Any], *, interrupted: bool) -> str | None:
    """Return why a response ended, None if it is complete.

    Args:
        status: Its status.
        details: Its `status_details`.
        interrupted: Whether the provider cancelled it because the caller spoke.
    """
    match status:
        case "completed":
            return None
        case "cancelled":
            return "interrupted" if interrupted else "asked"
        case "failed":
            return classify_error(object_at(details, "error")).code
        case _:
            return (text_at(details, "reason") or "unknown")[:64]


def expects_playout(reply: ReplyState, status: Status) -> bool:
    """Return whether playout of the reply will start or has started; a reply cancelled before that never plays."""
    if status in {"completed", "incomplete"}:
        return reply.audio
    return reply.playout != "none"


def fatal_faults(reply: ReplyState, details: Mapping[str, Any]) -> list[Event]:
    """Return the fault that ends the session if a response failed with a fatal error, else nothing."""
    fault = classify_error(object_at(details, "error"))
    if fault.meaning != "fatal":
        return []
    return [ProviderFault(code=fault.code, message=fault.message, fatal=True, command=reply.command)]


def response_usage(usage: Mapping[str, Any]) -> Usage | None:
    """Return the usage of a response, None if the provider reports none."""
    if not usage:
        return None
    input_details, output_details = object_at(usage, "input_token_details"), object_at(usage, "output_token_details")
    return Usage(
        input_text_tokens=count_at(input_details, "text_tokens"),
        input_audio_tokens=count_at(input_details, "audio_tokens"),
        input_image_tokens=count_at(input_details, "image_tokens"),
        cached_tokens=count_at(input_details, "cached_tokens"),
        output_text_tokens=count_at(output_details, "text_tokens"),
        output_audio_tokens=count_at(output_details, "audio_tokens"),
    )
