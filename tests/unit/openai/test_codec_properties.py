"""Properties of the codec for any input in any order: it never raises, and no reply ends twice."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agentfield.realtime.commands import (
    AddTextCommand,
    AppendAudioCommand,
    CancelReplyCommand,
    Command,
    ReplyCommand,
    SayCommand,
    ToolResultCommand,
    UpdateCommand,
)
from agentfield.realtime.events import (
    Event,
    Interrupted,
    ReplyEnded,
    ReplyStarted,
    SessionClosed,
    SessionReady,
    ToolRequested,
    TurnCommitted,
    TurnTranscript,
    event_adapter,
)
from agentfield_openai.codec import Codec
from support.providers.openai import PCM, check_client_event, config, tool

TYPES = [
    *(f"session.{what}" for what in ("created", "updated", "odd")),
    *(f"input_audio_buffer.{what}" for what in ("speech_started", "speech_stopped", "committed", "cleared", "odd")),
    *(f"conversation.item.{what}" for what in ("added", "done", "created", "truncated", "deleted", "retrieved")),
    *(f"conversation.item.input_audio_transcription.{what}" for what in ("delta", "completed", "failed")),
    *(
        f"response.{what}"
        for what in ("created", "done", "output_item.added", "output_item.done", "content_part.added")
    ),
    *(f"response.output_audio_transcript.{what}" for what in ("delta", "done")),
    *(f"response.output_text.{what}" for what in ("delta", "done")),
    *(f"response.output_audio.{what}" for what in ("delta", "done")),
    *(f"mcp_list_tools.{what}" for what in ("in_progress", "completed")),
    "response.mcp_call.in_progress",
    *(f"output_audio_buffer.{what}" for what in ("started", "stopped", "cleared")),
    "rate_limits.updated",
    "error",
    "",
    "odd",
]
ids = st.sampled_from(["a", "b", "c", "spk_1", "", "\ud800", "x" * 600])
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | ids,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
codes = st.sampled_from(["server_error", "insufficient_quota", "invalid_value", "response_cancel_not_active", None])


def loosely(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with these fields, some missing or of another type."""
    return st.fixed_dictionaries({}, optional={name: value | junk for name, value in fields.items()})


item = loosely(
    id=ids,
    type=st.sampled_from(["message", "function_call", "function_call_output", "mcp_call"]),
    role=st.sampled_from(["user", "assistant"]),
    status=st.sampled_from(["completed", "incomplete"]),
    call_id=ids,
    name=st.sampled_from(["shop__cancel", "other"]),
    arguments=st.just("{}"),
    content=st.lists(
        loosely(type=st.sampled_from(["output_audio", "input_text"]), text=ids, transcript=ids), max_size=2
    ),
)
response = loosely(
    id=ids,
    status=st.sampled_from(["in_progress", "completed", "cancelled", "failed", "incomplete"]),
    output=st.lists(item, max_size=2),
    metadata=loosely(af_id=ids),
    status_details=loosely(reason=st.just("turn_detected"), error=loosely(code=codes, type=codes)),
    usage=loosely(input_token_details=loosely(text_tokens=st.integers()), output_token_details=junk),
)
event = st.builds(
    lambda kind, fields: {"type": kind, **fields},
    st.sampled_from(TYPES),
    loosely(
        event_id=ids,
        response_id=ids,
        item_id=ids,
        previous_item_id=ids,
        item=item,
        response=response,
        session=loosely(model=ids, expires_at=st.floats(), audio=junk, tools=junk, instructions=ids),
        delta=ids,
        transcript=ids,
        text=ids,
        part=loosely(type=st.just("audio")),
        audio_end_ms=st.integers() | st.floats(),
        error=loosely(code=codes, type=codes, message=ids, event_id=ids),
        usage=loosely(type=st.sampled_from(["duration", "tokens"]), seconds=st.floats()),
        rate_limits=st.lists(loosely(name=ids, limit=st.integers()), max_size=2),
    ),
)
command: st.SearchStrategy[Command] = st.sampled_from(
    [
        SayCommand(id="spk_1", text="x"),
        ReplyCommand(id="b", tools=("shop.cancel",)),
        CancelReplyCommand(reply="a"),
        CancelReplyCommand(reply="a", heard_ms=0),
        CancelReplyCommand(reply="b", heard_ms=700),
        AppendAudioCommand(data=b"\0\0"),
        AddTextCommand(item="a" * 40, text="x"),
        ToolResultCommand(call_id="c", output="{}"),
        UpdateCommand(interruptible=False),
    ]
)


def new_codec(*, carries_audio: bool = False, drift: str = "enforce") -> Codec:
    settings = config(floor="model", tools=[tool("shop.cancel")], drift=drift)
    return Codec(settings, audio=PCM if carries_audio else None, mark="m")


def consistent(events: list[Event]) -> None:
    """Fail if a unique event was reported twice, or an event is not JSON."""
    for each in events:
        assert event_adapter.validate_json(each.model_dump_json()) == each
    started = Counter(e.reply for e in events if isinstance(e, ReplyStarted))
    ended = Counter(e.reply for e in events if isinstance(e, ReplyEnded))
    assert set(ended.values()) <= {1}
    assert set(started.values()) <= {1}
    assert ended.keys() <= started.keys()
    assert set(Counter(e.reply for e in events if isinstance(e, Interrupted)).values()) <= {1}
    for once in (SessionReady, SessionClosed):
        assert len([e for e in events if isinstance(e, once)]) <= 1
    assert set(Counter(e.call_id for e in events if isinstance(e, ToolRequested)).values()) <= {1}
    assert set(Counter(e.item for e in events if isinstance(e, TurnCommitted)).values()) <= {1}
    assert set(Counter(e.item for e in events if isinstance(e, TurnTranscript) and e.final).values()) <= {1}
    closed = [n for n, e in enumerate(events) if isinstance(e, SessionClosed)]
    assert not closed or closed[0] == len(events) - 1


@given(raw=st.binary(max_size=200) | st.text(max_size=200) | junk.map(json.dumps))
@settings(max_examples=150, deadline=None)
def test_no_frame_makes_the_codec_raise(raw: bytes | str) -> None:
    """Bytes, text and any JSON are decoded, ignored or warned about."""
    codec = new_codec()
    consistent(codec.decode(raw, 0.0))


@given(
    steps=st.lists(event | command | st.sampled_from(["tick", "reattached"]), max_size=30),
    carries_audio=st.booleans(),
    drift=st.sampled_from(["enforce", "terminate", "allow"]),
)
@settings(max_examples=250, deadline=None)
def test_unique_events_are_reported_once_in_any_order(steps: list[Any], carries_audio: bool, drift: str) -> None:
    """Any mixture of server events, commands, time and gaps raises nothing, ends no reply twice, requests no tool twice."""
    codec = new_codec(carries_audio=carries_audio, drift=drift)
    told: list[Event] = []
    for now, step in enumerate(steps):
        match step:
            case "tick":
                told += codec.handle_timer(now + 0.5)
            case "reattached":
                codec.sideband_reattached(float(now))
            case dict():
                told += codec.decode(json.dumps(step), float(now))
            case AppendAudioCommand() if not carries_audio:
                continue
            case _:
                for sent in codec.encode(step):
                    check_client_event(sent)
        for sent in codec.take_outgoing():
            check_client_event(sent)
    told += codec.handle_timer(1e6)
    told += codec.close(SessionClosed())
    consistent(told)
    assert codec.get_timer() is None
