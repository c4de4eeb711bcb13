"""How a response ended: what its last event says of status, reason, faults and usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from agentfield.adapterkit.fields import count, mapping, words
from agentfield.realtime.events import Event, ProviderFault, Usage
from agentfield_openai.codec.faults import fault_of
from agentfield_openai.codec.ledger import Reply

__all__ = ["Status", "fatal", "plays", "status_of", "usage_of", "why_of"]

Status = Literal["completed", "cancelled", "failed", "incomplete"]

_STATUSES: Mapping[object, Status] = {
    "completed": "completed",
    "cancelled": "cancelled",
    "failed": "failed",
    "incomplete": "incomplete",
}


def status_of(value: object) -> Status:
    """Return how a response ended; one that does not say was broken off."""
    return _STATUSES.get(value, "incomplete") if isinstance(value, str) else "incomplete"


def why_of(status: Status, details: Mapping[str, Any], *, cut: bool) -> str | None:
    """Return why a response ended as it did, None for one that is complete.

    Args:
        status: How it ended.
        details: Its `status_details`.
        cut: Whether the provider stopped it because the caller spoke.
    """
    match status:
        case "completed":
            return None
        case "cancelled":
            return "interrupted" if cut else "asked"
        case "failed":
            return fault_of(mapping(details, "error")).code
        case _:
            return (words(details, "reason") or "unknown")[:64]


def plays(reply: Reply, status: Status) -> bool:
    """Tell whether playback is to be waited for: a reply that was cut before its first sound never plays."""
    if status in {"completed", "incomplete"}:
        return reply.audio
    return reply.playout != "none"


def fatal(reply: Reply, details: Mapping[str, Any]) -> list[Event]:
    """Return the fault that ends the session, where a response failed for such a reason."""
    fault = fault_of(mapping(details, "error"))
    if fault.meaning != "fatal":
        return []
    return [ProviderFault(code=fault.code, message=fault.message, fatal=True, command=reply.command)]


def usage_of(usage: Mapping[str, Any]) -> Usage | None:
    """Return what a response used, None where nothing is told."""
    if not usage:
        return None
    heard, said = mapping(usage, "input_token_details"), mapping(usage, "output_token_details")
    return Usage(
        input_text_tokens=count(heard, "text_tokens"),
        input_audio_tokens=count(heard, "audio_tokens"),
        cached_tokens=count(heard, "cached_tokens"),
        output_text_tokens=count(said, "text_tokens"),
        output_audio_tokens=count(said, "audio_tokens"),
    )
