"""Properties of a whole call for any events of a provider: each adapter's codec feeds the session machine, which closes all turns."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield.realtime.events import (
    Event,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    ReplyTranscript,
    SessionClosed,
    ToolRequested,
    event_adapter,
)
from agentfield_openai.codec import Codec
from agentfield_openrouter.chunks import AudioDelta, CompletionAssembler, TextDelta, ToolCalls
from agentfield_server.sessions.conversation.effects import CloseTurn, OpenTurn, ReleaseMachine, RunTool, SendCommand
from agentfield_server.sessions.conversation.inputs import EndSession, ToolFinished
from agentfield_server.sessions.conversation.transitions import SessionPhase
from support.providers.openai import PCM, config, tool
from support.server.machine import SimulatedCall

REALTIME = [
    "session.created",
    "session.updated",
    "conversation.created",
    "conversation.item.added",
    "conversation.item.done",
    "conversation.item.created",
    "conversation.item.deleted",
    "conversation.item.truncated",
    "conversation.item.retrieved",
    "conversation.item.input_audio_transcription.delta",
    "conversation.item.input_audio_transcription.completed",
    "conversation.item.input_audio_transcription.failed",
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "input_audio_buffer.cleared",
    "input_audio_buffer.timeout_triggered",
    "response.created",
    "response.done",
    "response.output_item.added",
    "response.output_item.done",
    "response.content_part.added",
    "response.content_part.done",
    "response.output_audio.delta",
    "response.audio.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.delta",
    "response.audio_transcript.delta",
    "response.output_audio_transcript.done",
    "response.output_text.delta",
    "response.output_text.done",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "output_audio_buffer.started",
    "output_audio_buffer.stopped",
    "output_audio_buffer.cleared",
    "rate_limits.updated",
    "mcp_list_tools.in_progress",
    "response.mcp_call.in_progress",
    "error",
    "novelty",
    "response.novelty",
]
IDS = st.sampled_from(["a", "b", "c", "resp_1", "resp_2", "last", "", "\ud83d", "x" * 600])
TEXTS = st.sampled_from(["", "hello", "where is my order", "\udfff", "x" * 2000, "\x00"])
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**53 + 1, 9400111899223100001234, -(10**400), 1e308, float("nan"), float("inf")])
    | st.floats()
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.sampled_from(
    [
        "{}",
        "{",
        "[]",
        "null",
        '{"n": 9400111899223100001234}',
        '{"n": NaN}',
        '{"n": 1e400}',
        '{"n": "\\ud800"}',
        "[" * 600,
    ]
)


def loosely(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with these fields: usual values mostly, some missing, some of another type."""
    return st.fixed_dictionaries({}, optional={name: value | value | value | JUNK for name, value in fields.items()})


ITEM = loosely(
    id=IDS,
    type=st.sampled_from(["message", "function_call", "function_call_output", "mcp_call"]),
    role=st.sampled_from(["user", "assistant"]),
    status=st.sampled_from(["completed", "incomplete"]),
    call_id=IDS,
    name=st.sampled_from(["shop__look", "other"]),
    arguments=ARGUMENTS,
    content=st.lists(
        loosely(type=st.sampled_from(["output_audio", "input_text", "input_audio"]), text=TEXTS, transcript=TEXTS),
        max_size=2,
    ),
)
CODE = st.sampled_from(
    [
        "server_error",
        "rate_limit_exceeded",
        "conversation_already_has_active_response",
        "invalid_value",
        "session_expired",
        "insufficient_quota",
        "odd",
    ]
)
RESPONSE = loosely(
    id=IDS,
    status=st.sampled_from(["in_progress", "completed", "cancelled", "failed", "incomplete"]),
    output=st.lists(ITEM, max_size=2),
    metadata=loosely(af_id=IDS),
    status_details=loosely(reason=st.just("turn_detected"), error=loosely(code=CODE, message=TEXTS)),
    usage=loosely(input_token_details=loosely(text_tokens=st.integers(0, 9)), output_token_details=JUNK),
)
EVENT = st.builds(
    lambda kind, fields: {"type": kind, **fields},
    st.sampled_from(REALTIME),
    loosely(
        event_id=st.uuids().map(str),
        response_id=IDS,
        item_id=IDS,
        previous_item_id=IDS,
        item=ITEM,
        response=RESPONSE,
        session=loosely(model=st.just("m-1"), expires_at=st.floats(), audio=JUNK, tools=JUNK, modalities=JUNK),
        delta=st.sampled_from(["AAAA", "hello", "!"]),
        transcript=TEXTS,
        text=TEXTS,
        part=loosely(type=st.just("audio")),
        audio_end_ms=st.integers(0, 9000),
        error=loosely(code=CODE, type=CODE, message=TEXTS, event_id=IDS),
        usage=loosely(type=st.sampled_from(["duration", "tokens"]), seconds=st.floats()),
        rate_limits=st.lists(loosely(name=IDS, limit=st.integers()), max_size=2),
    ),
)
STEP = EVENT | EVENT | EVENT | st.sampled_from([0.0, 0.3, 1.0, 6.0, 70.0]) | st.sampled_from(["tool", "say"])
MEDIA = st.sampled_from(["direct", "bridged"])
FLOOR = st.sampled_from(["model", "handler"])


def commands(call: SimulatedCall) -> list[Any]:
    return [effect.command for effect in call.all(SendCommand)]


def settled(call: SimulatedCall) -> None:
    """End the call and check that nothing is left open, whatever happened before."""
    call.feed(EndSession(reason="operator"))
    call.wait(120)
    assert call.machine.state.phase is SessionPhase.ENDED
    opened = [effect.turn_id for effect in call.all(OpenTurn)]
    closed = [effect.turn_id for effect in call.all(CloseTurn)]
    assert sorted(opened) == sorted(closed)
    begun = [each["speech_id"] for each in call.recorded("speech.started")]
    ended = [each["speech_id"] for each in call.recorded("speech.ended")]
    assert set(begun) <= set(ended)
    assert len(ended) == len(set(ended))
    assert len(call.all(ReleaseMachine)) == 1


def tools_end(call: SimulatedCall) -> None:
    """Let the oldest tool that runs end."""
    ended = {effect.call_id for effect in call.all(RunTool)}
    for effect in call.all(RunTool)[:1]:
        call.feed(ToolFinished(call_id=effect.call_id, value="done", execution_id="exe_t"))
        assert ended


@pytest.mark.fuzz
@given(steps=st.lists(STEP, max_size=40), media=MEDIA, floor=FLOOR)
def test_no_realtime_events_leave_a_turn_open(steps: list[Any], media: str, floor: str) -> None:
    """Any objects as events of a Realtime provider raise nothing, on either medium and floor, and every turn is closed."""
    codec = Codec(config(floor=floor, tools=[tool("shop.look")]), audio=PCM if media == "bridged" else None, mark="m")
    call = SimulatedCall(media=media, floor=floor, greeting="hi", goodbye="bye", on_error="sorry").live()
    sent = 0
    for step in steps:
        match step:
            case float():
                call.wait(step)
                events = codec.handle_timer(call.now)
            case "tool":
                tools_end(call)
                events = []
            case "say":
                call.say("one two")
                events = []
            case _:
                events = codec.decode(json.dumps(step), call.now)
        feed(call, events)
        for command in commands(call)[sent:]:
            sent += 1
            codec.encode(command)
        codec.take_outgoing()
    feed(call, codec.close(SessionClosed(reason="provider_error", message="gone")))
    settled(call)


def feed(call: SimulatedCall, events: list[Event]) -> None:
    for event in events:
        assert event_adapter.validate_json(event.model_dump_json()) == event
        call.feed(event)


CHUNK = loosely(
    id=IDS,
    model=st.just("openai/gpt-audio"),
    provider=IDS,
    choices=st.lists(
        loosely(
            delta=loosely(
                content=TEXTS,
                audio=loosely(
                    data=st.sampled_from([base64.b64encode(b"\1" * 6).decode(), "!", "AA=="]), transcript=TEXTS, id=IDS
                ),
                tool_calls=st.lists(
                    loosely(
                        index=st.integers(-1, 3),
                        id=IDS,
                        function=loosely(name=st.sampled_from(["shop__look", ""]), arguments=ARGUMENTS),
                    ),
                    max_size=2,
                ),
            ),
            finish_reason=st.sampled_from(["stop", "tool_calls", "length", "error"]),
            error=loosely(code=st.integers(400, 599), message=TEXTS),
        ),
        max_size=2,
    ),
    usage=loosely(prompt_tokens=st.integers(), cost=st.floats()),
    error=loosely(code=st.integers(400, 599), message=TEXTS, metadata=JUNK),
)


@pytest.mark.fuzz
@given(answers=st.lists(st.lists(CHUNK.map(json.dumps) | TEXTS | st.just("[DONE]"), max_size=8), max_size=4))
def test_no_chunks_of_a_completion_leave_a_turn_open(answers: list[list[str]]) -> None:
    """Any chunks of chat audio raise nothing; every answer ends, as an answer or as a fault, and every turn is closed."""
    call = SimulatedCall(media="turns", floor="model", turn_detection=None, on_error="sorry").live()
    for number, payloads in enumerate(answers):
        call.speaks(f"item_{number}", "question")
        feed(call, list(answered(f"r{number}", call.spoken_command(), payloads)))
        call.wait(1)
    settled(call)


def answered(reply: str, command: str, payloads: list[str]) -> Iterator[Event]:
    """Yield the events that a reply makes of these chunks."""
    completion = CompletionAssembler()
    yield ReplyStarted(reply=reply, command=command)
    for delta in [*(each for payload in payloads for each in completion.feed(payload)), *completion.close()]:
        match delta:
            case TextDelta():
                yield ReplyTranscript(reply=reply, text=delta.text)
            case AudioDelta():
                yield ReplyAudio(reply=reply, data=delta.data)
            case ToolCalls():
                for each in delta.calls:
                    name = each.name.replace("__", ".")
                    yield ToolRequested(call_id=f"{reply}{each.id}", name=name, arguments=each.arguments, reply=reply)
    why = None if completion.fault is None else completion.fault.code
    yield ReplyEnded(reply=reply, command=command, status="failed" if why else "completed", why=why)


@pytest.mark.parametrize("kind", REALTIME)
def test_an_event_of_unhashable_values_is_harmless(kind: str) -> None:
    """Lists and objects where a text is expected raise nothing."""
    fields = {key: [{}] for key in ("response_id", "item_id", "previous_item_id", "delta", "transcript", "text")}
    item = {key: [{}] for key in ("id", "type", "role", "status", "call_id", "name", "arguments")}
    parts = [{"type": [], "text": {}, "transcript": []}]
    usual = {"id": "resp_1", "status": [], "output": [{"id": "a", "type": "message", "content": parts}, item]}
    for response in (usual, {**usual, "id": []}):
        codec = Codec(config(floor="model"), audio=PCM)
        codec.decode(json.dumps({"type": kind, "item": item, "part": parts[0], "response": response, **fields}), 0.0)
