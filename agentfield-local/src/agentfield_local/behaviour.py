"""The switches of the server: everything a real provider may do one way or another, in one frozen record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Behaviour"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the server behaves where providers differ, surprise or fail; the defaults are the ordinary case.

    Args:
        late_transcript_ms: Milliseconds by which the transcript of a caller's turn is delayed; long delays put it after
            `response.done`, which the protocol allows.
        vanish_notifies_sideband: Whether a sideband is closed when the caller's peer connection is gone.
        sideband_audio_deltas: Whether the legs of a WebRTC call also get the audio as `response.output_audio.delta`.
        announce_truncation: Whether the server's own truncation of an interrupted WebRTC reply is sent as
            `conversation.item.truncated`.
        item_done_order: Which of `conversation.item.done` and `response.output_item.done` comes first.
        rate_limits: Where in a response `rate_limits.updated` is sent.
        duplicate_events: Types of server events that are sent twice (same event id).
        unknown_events: Whether an event of a type that no client knows precedes every response.
        unknown_fields: Whether events and items carry fields that no client knows.
        echo_model: The model that the session reports, whatever was asked for.
        refuse_calls: HTTP status with which new calls are refused.
        refuse_count: How many calls are refused before they are accepted again; None refuses all.
        fail_responses: How many responses fail with a server error before they succeed.
        commit_error_delay_ms: Milliseconds by which the refusal of an empty commit is delayed.
        generation_speed: Speed of audio generation as a multiple of real time; None is as fast as it can be.
    """

    late_transcript_ms: int = 0
    vanish_notifies_sideband: bool = False
    sideband_audio_deltas: bool = False
    announce_truncation: bool = True
    item_done_order: Literal["conversation_first", "output_first"] = "conversation_first"
    rate_limits: Literal["after_created", "before_done", "after_done", "never"] = "after_created"
    duplicate_events: frozenset[str] = frozenset()
    unknown_events: bool = False
    unknown_fields: bool = False
    echo_model: str | None = None
    refuse_calls: Literal[401, 404, 429, 500] | None = None
    refuse_count: int | None = None
    fail_responses: int = 0
    commit_error_delay_ms: int = 0
    generation_speed: float | None = None
