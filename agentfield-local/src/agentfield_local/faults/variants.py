"""Named behaviour variants: each field of `Behaviour` at each value that is not its default, for tests of clients."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import get_args

from agentfield_local.faults.behaviour import (
    Behaviour,
    DisconnectFaults,
    EventOrder,
    RefusalShape,
    RefusedEndpoint,
)

__all__ = ["BEHAVIOUR_VARIANTS", "HARMLESS_VARIANTS"]

_DUPLICATED = (
    "session.created",
    "session.updated",
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
    "conversation.item.input_audio_transcription.completed",
    "response.created",
    "response.output_item.added",
    "response.function_call_arguments.done",
    "response.output_item.done",
    "response.output_audio_transcript.done",
    "response.done",
    "output_audio_buffer.started",
    "output_audio_buffer.stopped",
    "output_audio_buffer.cleared",
)
_ALL_ENDPOINTS = frozenset(get_args(RefusedEndpoint))

_HARMLESS: dict[str, Behaviour] = {
    "transcript_late": Behaviour(late_transcript_ms=150),
    "transcript_before_response": Behaviour(order=EventOrder(transcript="before_response")),
    "transcript_after_response": Behaviour(order=EventOrder(transcript="after_response")),
    "transcript_deltas_words": Behaviour(transcript_deltas="words"),
    "transcript_deltas_none": Behaviour(transcript_deltas="none"),
    "sideband_told_of_vanishing": Behaviour(vanish_notifies_sideband=True),
    "sideband_audio_deltas": Behaviour(sideband_audio_deltas=True),
    "truncation_unannounced": Behaviour(announce_truncation=False),
    "sideband_created_brief": Behaviour(sideband_created="brief"),
    "sideband_created_never": Behaviour(sideband_created="never"),
    "unknown_call_window": Behaviour(unknown_call_ms=400),
    "item_done_output_first": Behaviour(item_done_order="output_first"),
    "item_added_conversation_first": Behaviour(order=EventOrder(item_added="conversation_first")),
    "audio_done_transcript_first": Behaviour(order=EventOrder(audio_done="transcript_first")),
    "words_after_audio": Behaviour(order=EventOrder(words="after_audio")),
    "cleared_after_done": Behaviour(order=EventOrder(cleared="after_done")),
    "committed_after_item": Behaviour(order=EventOrder(committed="after_item")),
    "rate_limits_before_done": Behaviour(rate_limits="before_done"),
    "rate_limits_after_done": Behaviour(rate_limits="after_done"),
    "rate_limits_never": Behaviour(rate_limits="never"),
    "duplicate_events": Behaviour(duplicate_events=frozenset(_DUPLICATED)),
    "unknown_events": Behaviour(unknown_events=True),
    "unknown_fields": Behaviour(unknown_fields=True),
    "phase_on_items": Behaviour(phase="items"),
    "phase_on_parts": Behaviour(phase="parts"),
    "phase_on_events": Behaviour(phase="events"),
    "location_doubled": Behaviour(location="doubled"),
    "location_with_query": Behaviour(location="query"),
    "silence_as_measured": Behaviour(default_silence_ms=200),
    "commit_error_late": Behaviour(commit_error_delay_ms=200),
    "arguments_slow": Behaviour(slow_arguments_ms=100),
    "generation_paced": Behaviour(generation_speed=4.0),
    "metadata_not_echoed": Behaviour(echo_metadata=False),
    "event_names_beta": Behaviour(event_names="beta"),
    "session_created_twice": Behaviour(created_twice=True),
    "session_created_late": Behaviour(created_delay_ms=300),
}

_HARMFUL: dict[str, Behaviour] = {
    "location_absent": Behaviour(location="absent"),
    "transcripts_fail": Behaviour(fail_transcripts=1_000_000),
    "other_model": Behaviour(echo_model="another-model"),
    "says_paraphrased": Behaviour(paraphrase_says=True),
    "response_fails": Behaviour(fail_responses=1),
    "response_fails_midway": Behaviour(fail_responses=1, fail_after_audio=True),
    "response_fails_error_last": Behaviour(fail_responses=1, order=EventOrder(failure="after_done")),
    "quota_runs_out": Behaviour(fail_responses=1_000_000, fail_error=("insufficient_quota", "insufficient_quota")),
    "quota_runs_out_new_code": Behaviour(
        fail_responses=1_000_000, fail_error=("insufficient_quota", "credit_balance_exhausted")
    ),
    "session_expires": Behaviour(session_seconds=2),
    "session_expires_early": Behaviour(session_seconds=2, announced_seconds=3600),
    "session_shape_beta": Behaviour(beta_session=True),
    "refuse_400": Behaviour(refuse_calls=400),
    "refuse_401": Behaviour(refuse_calls=401),
    "refuse_401_talkative": Behaviour(refuse_calls=401, refuse=RefusalShape(message="That key is nobody's.")),
    "refuse_402": Behaviour(refuse_calls=402),
    "refuse_403": Behaviour(refuse_calls=403),
    "refuse_404": Behaviour(refuse_calls=404),
    "refuse_408": Behaviour(refuse_calls=408),
    "refuse_429_quota": Behaviour(refuse_calls=429),
    "refuse_429_rate": Behaviour(refuse_calls=429, refuse=RefusalShape(code="rate_limit_exceeded", retry_after=1)),
    "refuse_500": Behaviour(refuse_calls=500),
    "refuse_502_html": Behaviour(refuse_calls=502, refuse=RefusalShape(html=True)),
    "refuse_503": Behaviour(refuse_calls=503, refuse=RefusalShape(retry_after=1)),
    "refuse_504": Behaviour(refuse_calls=504),
    "refuse_once": Behaviour(refuse_calls=503, refuse_count=1),
    "refuse_everywhere": Behaviour(refuse_calls=500, refuse=RefusalShape(at=_ALL_ENDPOINTS)),
    "refuse_sideband": Behaviour(refuse_calls=500, refuse=RefusalShape(at=frozenset({"sideband"}))),
    "refuse_hangup": Behaviour(refuse_calls=500, refuse_count=1, refuse=RefusalShape(at=frozenset({"hangup"}))),
    "refuse_speech": Behaviour(refuse_calls=500, refuse=RefusalShape(at=frozenset({"speech"}))),
    "speech_breaks": Behaviour(disconnects=DisconnectFaults(speech=True)),
    "drop_1001": Behaviour(disconnects=DisconnectFaults(drop_after=8, drop_code=1001)),
    "drop_1006": Behaviour(disconnects=DisconnectFaults(drop_after=8, drop_code=1006)),
    "drop_1008": Behaviour(disconnects=DisconnectFaults(drop_after=8, drop_code=1008)),
    "drop_1011": Behaviour(disconnects=DisconnectFaults(drop_after=8, drop_code=1011)),
    "drop_at_once": Behaviour(disconnects=DisconnectFaults(drop_after=1, drop_code=1000, drop_count=None)),
    "drop_always": Behaviour(disconnects=DisconnectFaults(drop_after=2, drop_count=None)),
    "garbage_text": Behaviour(disconnects=DisconnectFaults(garbage="text")),
    "garbage_binary": Behaviour(disconnects=DisconnectFaults(garbage="binary")),
    "garbage_array": Behaviour(disconnects=DisconnectFaults(garbage="array")),
    "garbage_typeless": Behaviour(disconnects=DisconnectFaults(garbage="typeless")),
    "garbage_at_once": Behaviour(disconnects=DisconnectFaults(garbage="text", garbage_after=1)),
    "caller_vanishes": Behaviour(disconnects=DisconnectFaults(vanish_after=8)),
    "caller_vanishes_told": Behaviour(disconnects=DisconnectFaults(vanish_after=8), vanish_notifies_sideband=True),
}

BEHAVIOUR_VARIANTS: Mapping[str, Behaviour] = MappingProxyType({**_HARMLESS, **_HARMFUL})
"""Each field of a behaviour at each value that is not its default, by name."""

HARMLESS_VARIANTS: frozenset[str] = frozenset(_HARMLESS)
"""Variants in which every conversation must go as by default; the others break something on purpose."""
