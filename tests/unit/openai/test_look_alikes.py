"""Services that resemble the Realtime protocol: metadata that is not repeated, names and shapes of the beta, odd values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentfield.realtime.commands import ReplyCommand, SayCommand
from agentfield.realtime.events import (
    Event,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    SessionClosed,
    ToolRequested,
    Warned,
)
from agentfield_openai.codec import Codec
from support.providers.openai import PCM, config, tool


def decode(codec: Codec, *events: dict[str, Any]) -> list[Event]:
    return [found for event in events for found in codec.decode(json.dumps(event), 0.0)]


def created(reply: str, **fields: Any) -> dict[str, Any]:
    return {"type": "response.created", "response": {"id": reply, "status": "in_progress", **fields}}


def commands(events: list[Event]) -> list[str | None]:
    return [event.command for event in events if isinstance(event, ReplyStarted)]


@pytest.mark.parametrize("fields", [{}, {"metadata": None}, {"metadata": {}}])
def test_replies_without_metadata_are_matched_by_order(fields: dict[str, Any]) -> None:
    """Each reply belongs to the command that was sent last; one warning says that it is matched by order."""
    codec = Codec(config())
    events: list[Event] = []
    for number in range(3):
        codec.encode(SayCommand(id=f"spk_{number}", text="x"))
        events += decode(codec, created(f"resp_{number}", **fields))
    assert commands(events) == ["spk_0", "spk_1", "spk_2"]
    assert [event.code for event in events if isinstance(event, Warned)] == ["metadata_not_echoed"]
    # nothing was asked for: this reply is nobody's
    assert commands(decode(codec, created("resp_9", **fields))) == [None]


def test_a_reply_of_the_model_is_not_taken_for_a_command() -> None:
    """On the model's floor the reply after a spoken turn is the model's own, whatever was sent meanwhile."""
    codec = Codec(config(floor="model"))
    codec.encode(SayCommand(id="spk_1", text="x"))
    spoken = {"type": "input_audio_buffer.committed", "item_id": "item_1"}
    assert commands(decode(codec, spoken, created("resp_1"), created("resp_2"))) == [None, "spk_1"]


def test_a_provider_that_repeats_metadata_is_believed() -> None:
    """Once a response named its command, one without metadata is of somebody else, such as the caller's page."""
    codec = Codec(config())
    codec.encode(SayCommand(id="spk_1", text="x"))
    first = decode(codec, created("resp_1", metadata={"af_id": "spk_1"}))
    codec.encode(ReplyCommand(id="spk_2"))
    assert commands([*first, *decode(codec, created("resp_2", metadata=None))]) == ["spk_1", None]


def test_event_names_of_the_beta_are_understood() -> None:
    """Audio and words under the beta names are those of the reply."""
    codec = Codec(config(), audio=PCM)
    codec.encode(SayCommand(id="spk_1", text="x"))
    place = {"response_id": "resp_1", "item_id": "item_1", "output_index": 0, "content_index": 0}
    events = decode(
        codec,
        created("resp_1"),
        {"type": "response.audio_transcript.delta", "delta": "Hello.", **place},
        {"type": "response.audio.delta", "delta": "AAAA" * 20, **place},
        {"type": "response.audio.done", **place},
        {"type": "response.audio_transcript.done", "transcript": "Hello.", **place},
        {"type": "response.done", "response": {"id": "resp_1", "status": "completed", "output": []}},
    )
    assert [len(event.data) for event in events if isinstance(event, ReplyAudio)] == [60]
    (ended,) = (event for event in events if isinstance(event, ReplyEnded))
    assert (ended.text, ended.audio, ended.audio_ms) == ("Hello.", True, 1)


def test_a_session_in_the_shape_of_the_beta_is_refused() -> None:
    """Our settings have no effect there, so that the configuration counts as refused."""
    codec = Codec(config(), audio=PCM)
    session = {"object": "realtime.session", "modalities": ["audio"], "input_audio_format": "pcm16", "voice": "alloy"}
    assert decode(codec, {"type": "session.updated", "session": session}) == []
    assert codec.refused is not None
    assert codec.refused.code == "beta_api_shape"
    assert not codec.configured


@pytest.mark.parametrize("carries_audio", [True, False])
def test_an_expired_session_may_be_replaced_where_that_is_possible(carries_audio: bool) -> None:
    """The early end of a session on a WebSocket is a reason to open another one; a call has no other."""
    codec = Codec(config(), audio=PCM if carries_audio else None)
    expired = {
        "type": "error",
        "error": {"type": "invalid_request_error", "code": "session_expired", "message": "Over."},
    }
    assert decode(codec, expired) == [SessionClosed(reason="provider_expired", message="Over.", retry=carries_audio)]


def test_arguments_may_be_an_object() -> None:
    """A service that sends the arguments of a call as an object calls the tool as well."""
    codec = Codec(config(floor="model", tools=[tool("shop.cancel")]))
    call = {"id": "i", "type": "function_call", "call_id": "c", "name": "shop__cancel", "status": "completed"}
    item = {**call, "arguments": {"order": 7}}
    events = decode(
        codec, created("resp_1"), {"type": "response.output_item.done", "response_id": "resp_1", "item": item}
    )
    assert [event.arguments for event in events if isinstance(event, ToolRequested)] == ['{"order": 7}']


def test_endless_texts_are_bounded() -> None:
    """Texts of any length become events and records of bounded length."""
    codec = Codec(config(floor="model", tools=[tool("shop.cancel")]))
    place = {"response_id": "resp_1", "item_id": "item_1", "output_index": 0, "content_index": 0}
    call = {"id": "i", "type": "function_call", "call_id": "c", "name": "shop__cancel", "status": "completed"}
    long = "x" * 3_000_000
    events = decode(
        codec,
        created("resp_1"),
        {"type": "response.output_audio_transcript.delta", "delta": long, **place},
        {"type": "response.output_audio_transcript.done", "transcript": long, **place},
        {"type": "response.output_item.done", "response_id": "resp_1", "item": {**call, "arguments": long}},
        {"type": "conversation.item.input_audio_transcription.completed", "item_id": "item_2", "transcript": long},
        {"type": "session.updated", "session": {"model": long, "audio": {"output": {"voice": long}}}},
        {"type": "response.done", "response": {"id": "resp_1", "status": "completed", "output": []}},
    )
    assert max(len(event.model_dump_json()) for event in events) < 1_100_000
