"""Audio on a WebSocket: what is passed on, what is dropped, and the truncation of an interrupted reply."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import CancelReplyCommand, SayCommand
from agentfield.realtime.events import (
    Event,
    Interrupted,
    ProviderFault,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    SessionUpdated,
    UsageReported,
    Warned,
)
from agentfield_openai.codec import Codec
from agentfield_openai.codec.truncation import ReceivedAudio, Truncation, truncations
from support.providers.openai import PCM, check_client_event, config, decode, tool

PCMU = AudioFormat("pcmu", 8_000)


def carried(audio: AudioFormat = PCM) -> Codec:
    return Codec(config(), audio=audio)


def created(**fields: Any) -> dict[str, Any]:
    return {"type": "response.created", "response": {"id": "resp_1", **fields}}


def sound(ms: int, item: str = "item_r", audio: AudioFormat = PCM) -> dict[str, Any]:
    delta = base64.b64encode(bytes(audio.size(ms))).decode()
    place = {"response_id": "resp_1", "item_id": item, "output_index": 0, "content_index": 0}
    return {"type": "response.output_audio.delta", "delta": delta, **place}


def sounded(item: str = "item_r") -> dict[str, Any]:
    return {"type": "response.output_audio.done", "response_id": "resp_1", "item_id": item}


def began(item: str) -> dict[str, Any]:
    part = {"type": "audio", "transcript": ""}
    return {"type": "response.content_part.added", "response_id": "resp_1", "item_id": item, "part": part}


def done(status: str = "completed", reason: str | None = None) -> dict[str, Any]:
    response = {"id": "resp_1", "status": status, "output": [], "status_details": {"type": status, "reason": reason}}
    return {"type": "response.done", "response": response}


def stop(codec: Codec, heard_ms: int | None) -> list[tuple[Any, ...]]:
    """Cancel the reply and return a summary of the sent events."""
    events = codec.encode(CancelReplyCommand(reply="resp_1", heard_ms=heard_ms))
    for event in events:
        check_client_event(event)
    return [tuple(event[key] for key in ("type", "item_id", "audio_end_ms") if key in event) for event in events]


def passed_on(events: Iterable[Event]) -> int:
    return sum(len(event.data) for event in events if isinstance(event, ReplyAudio))


CANCEL = ("response.cancel",)


def truncate(ms: int, item: str = "item_r") -> tuple[Any, ...]:
    return ("conversation.item.truncate", item, ms)


def delete(item: str = "item_r") -> tuple[Any, ...]:
    return ("conversation.item.delete", item)


@pytest.mark.parametrize("audio", [PCM, PCMU, AudioFormat("pcma", 8_000)], ids=lambda audio: audio.name)
def test_the_length_of_a_reply_uses_the_session_format(audio: AudioFormat) -> None:
    """The end of a reply tells its milliseconds for any sample format."""
    events = decode(carried(audio), created(), sound(200, audio=audio), sound(55, audio=audio), sounded(), done())
    (ended,) = [e for e in events if isinstance(e, ReplyEnded)]
    assert (ended.audio, ended.audio_ms) == (True, 255)
    assert passed_on(events) == audio.size(255)


def test_half_samples_wait_for_their_other_half() -> None:
    """With any split of the audio, only whole samples are passed on, and all of them."""
    codec = carried()
    whole = bytes(range(8))
    place = {"type": "response.output_audio.delta", "response_id": "resp_1", "item_id": "item_r"}
    pieces = [{**place, "delta": base64.b64encode(each).decode()} for each in (whole[:3], whole[3:4], whole[4:])]
    heard = [e.data for e in decode(codec, created(), *pieces) if isinstance(e, ReplyAudio)]
    assert all(len(data) % 2 == 0 for data in heard)
    assert b"".join(heard) == whole


def test_audio_that_is_not_base64_is_a_warning() -> None:
    """Broken audio is a warning, and the reply continues."""
    codec = carried()
    broken = {**sound(10), "delta": "*"}
    assert [e.type for e in decode(codec, created(), broken, sound(10))] == ["reply.started", "warning", "reply.audio"]


@pytest.mark.parametrize(
    ("heard_ms", "finished", "expected"),
    [
        (300, False, [CANCEL, truncate(300)]),
        (5000, False, [CANCEL, truncate(1000)]),
        (1000, False, [CANCEL, truncate(1000)]),
        (0, False, [CANCEL, delete()]),
        (None, False, [CANCEL]),
        (300, True, [truncate(300)]),
        (0, True, [delete()]),
        (1000, True, []),
        (1001, True, []),
    ],
)
def test_an_interrupted_reply_is_truncated_to_its_heard_part(
    heard_ms: int | None, finished: bool, expected: list[tuple[Any, ...]]
) -> None:
    """Truncation never exceeds the received audio; an unheard item is deleted, a fully heard one stays."""
    codec = carried()
    decode(codec, created(), sound(600), sound(400), *([sounded(), done()] if finished else []))
    assert stop(codec, heard_ms) == expected


def test_a_reply_is_truncated_once() -> None:
    """A second cancellation of the same reply sends nothing."""
    codec = carried()
    decode(codec, created(), sound(600))
    assert stop(codec, 200) == [CANCEL, truncate(200)]
    assert stop(codec, 100) == []


def test_late_audio_and_items_of_a_cancelled_reply_are_dropped() -> None:
    """Audio in flight at the cancellation is dropped; an item that began meanwhile is deleted."""
    codec = carried()
    decode(codec, created(), sound(600))
    stop(codec, 200)
    late = decode(codec, sound(100), began("item_s"), sound(100, "item_s"), done("cancelled", "client_cancelled"))
    assert passed_on(late) == 0
    (ended,) = [e for e in late if isinstance(e, ReplyEnded)]
    assert (ended.status, ended.why, ended.audio_ms) == ("cancelled", "asked", 600)
    (event,) = codec.take_outgoing()
    assert (event["type"], event["item_id"]) == ("conversation.item.delete", "item_s")


def test_audio_outside_a_generating_reply_is_dropped() -> None:
    """Only a reply that is being generated has audio."""
    codec = carried()
    assert decode(codec, sound(10)) == []
    assert passed_on(decode(codec, created(), done(), sound(10))) == 0


def test_a_reply_of_several_items_is_truncated_within_one() -> None:
    """Fully heard items stay, unheard ones are deleted, the one between is truncated at its own position."""
    codec = carried()
    items = ("item_a", "item_b", "item_c")
    decode(codec, created(), *(event for item in items for event in (began(item), sound(500, item), sounded(item))))
    assert stop(codec, 700) == [CANCEL, truncate(200, "item_b"), delete("item_c")]


@pytest.mark.parametrize("first", ["provider", "we"])
def test_concurrent_interruptions_do_not_conflict(first: str) -> None:
    """If the provider and we stop a reply at once, it ends once, is truncated once, and refusals are ignored."""
    codec = carried()
    told = decode(codec, created(), sound(600))
    over = done("cancelled", "turn_detected")
    if first == "provider":
        told += decode(codec, sounded(), over)
        assert stop(codec, 350) == [truncate(350)]
    else:
        assert stop(codec, 350) == [CANCEL, truncate(350)]
        told += decode(codec, sounded(), over)
    cut = codec.encode(CancelReplyCommand(reply="resp_1", heard_ms=350))
    assert cut == []
    told += decode(codec, {"type": "conversation.item.truncated", "item_id": "item_r", "audio_end_ms": 350})
    assert len([e for e in told if isinstance(e, ReplyEnded)]) == 1
    assert not [e for e in told if isinstance(e, Interrupted)]  # whoever plays the audio knows what was heard


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("item_truncate_invalid_item_id", "Item with item_id not found: item_r"),
        ("item_delete_invalid_item_id", "Item with item_id not found: item_r"),
        ("invalid_value", "Invalid 'audio_end_ms'."),
        (None, "Audio content of 100ms is already shorter than 200ms"),
        ("server_error", "The server had an error."),
    ],
)
def test_a_refused_truncation_is_ignored(code: str | None, message: str) -> None:
    """A refused truncation does not affect the call."""
    codec = carried()
    decode(codec, created(), sound(600))
    sent = codec.encode(CancelReplyCommand(reply="resp_1", heard_ms=100))[-1]
    error = {"type": "invalid_request_error", "code": code, "message": message, "event_id": sent["event_id"]}
    assert decode(codec, {"type": "error", "error": error}) == []


@pytest.mark.parametrize("order", list(itertools.permutations(["rate", "item", "output"])), ids="-".join)
@pytest.mark.parametrize("twice", [False, True])
def test_a_spoken_reply_is_the_same_in_any_event_order(order: tuple[str, ...], twice: bool) -> None:
    """Rate limits and the two ends of an item may come in any order, and every event may come twice."""
    item: dict[str, Any] = {
        "id": "item_r",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "phase": "final_answer",
    }
    item["content"] = [{"type": "output_audio", "transcript": "Hello."}]
    ends: dict[str, dict[str, Any]] = {
        "rate": {"type": "rate_limits.updated", "rate_limits": []},
        "item": {"type": "conversation.item.done", "item": item},
        "output": {"type": "response.output_item.done", "response_id": "resp_1", "item": item},
    }
    codec = carried()
    codec.encode(SayCommand(id="spk_1", text="Hello."))
    events = [created(metadata={"af_id": "spk_1"}), sound(80), sounded(), *(ends[each] for each in order), done()]
    raw = [json.dumps({"event_id": f"event_{n}", **event}) for n, event in enumerate(events)]
    told = [event for text in raw for _ in range(2 if twice else 1) for event in codec.decode(text, 0.0)]
    assert [type(e) for e in told] == [ReplyStarted, ReplyAudio, ReplyEnded]
    assert (told[0].command, told[-1].audio_ms, told[-1].command) == ("spk_1", 80, "spk_1")  # type: ignore[union-attr]


PARTS = st.lists(st.tuples(st.integers(0, 5000), st.booleans()), max_size=6)


@given(shape=PARTS, heard_ms=st.integers(-10, 40_000), generating=st.booleans())
def test_truncations_keep_exactly_the_heard_part(
    shape: list[tuple[int, bool]], heard_ms: int, generating: bool
) -> None:
    """For any items: the kept audio adds up to the heard audio, within the received audio and in order."""
    parts = [(ReceivedAudio(f"i{n}", complete=complete), received) for n, (received, complete) in enumerate(shape)]
    found = {cut.item: cut for cut in truncations(parts, heard_ms, generating=generating)}
    kept = 0
    unheard = False
    for part, received in parts:
        cut = found.get(part.item, Truncation(part.item, 0, received))
        assert 0 <= (cut.ms or 0) <= received
        assert not (unheard and cut.ms)
        unheard = unheard or (cut.ms or 0) < received
        kept += cut.ms or 0
        if generating and not part.complete:
            assert part.item in found  # the provider may have more of it than we know
    assert kept == min(max(heard_ms, 0), sum(received for _, received in parts))


# tools that run elsewhere ---------------------------------------------------------------------------------------------

LISTED = {"type": "conversation.item.added", "item": {"id": "item_m", "type": "mcp_list_tools", "server_label": "x"}}
TRACES = [
    LISTED,
    {"type": "conversation.item.done", "item": {"id": "item_m", "type": "mcp_call", "name": "x"}},
    {"type": "mcp_list_tools.in_progress", "item_id": "item_m"},
    {"type": "response.mcp_call.in_progress", "item_id": "item_m", "output_index": 0},
    {"type": "response.output_item.added", "response_id": "r", "item": {"id": "item_m", "type": "mcp_call"}},
    {"type": "response.done", "response": {"id": "resp_9", "output": [{"id": "item_m", "type": "mcp_call"}]}},
]


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace["type"])
def test_a_provider_side_tool_is_refused(trace: dict[str, Any]) -> None:
    """Under `terminate` it is fatal; under `enforce` the item is removed and our settings are restored, reported once."""
    codec = Codec(config(drift="terminate"))
    told = [e for e in decode(codec, trace, trace) if isinstance(e, ProviderFault)]
    assert [(e.code, e.fatal) for e in told] == [("provider_side_tool", True)]
    codec = Codec(config(drift="enforce"))
    told = [e for e in decode(codec, trace, trace) if isinstance(e, ProviderFault)]
    assert [(e.code, e.fatal) for e in told] == [("provider_side_tool", False)]
    sent = codec.take_outgoing()
    for event in sent:
        check_client_event(event)
    assert [event["type"] for event in sent] == ["conversation.item.delete", "session.update"]
    assert sent[0]["item_id"] == "item_m"


def test_repeated_provider_side_tools_end_the_call() -> None:
    """The number of removals is limited; `allow` only warns."""
    many = [{**LISTED, "item": {"id": f"item_{n}", "type": "mcp_call"}} for n in range(5)]
    told = decode(Codec(config()), *many)
    assert [e.fatal for e in told if isinstance(e, ProviderFault)] == [False, False, False, True, True]
    assert [type(e) for e in decode(Codec(config(drift="allow")), *many)] == [Warned] * 5


def test_a_provider_side_tool_in_the_echo_is_drift() -> None:
    """Tools of the echoed configuration are compared even if we declare none."""
    echo = {"tools": [{"type": "mcp", "server_label": "x", "server_url": "https://x"}]}
    (updated,) = [
        e
        for e in decode(Codec(config()), {"type": "session.updated", "session": echo})
        if isinstance(e, SessionUpdated)
    ]
    assert updated.drift == ("tools",)


# gaps -----------------------------------------------------------------------------------------------------------------


def retrieved(codec: Codec) -> list[str]:
    found = []
    for event in codec.take_outgoing():
        check_client_event(event)
        assert event["type"] == "conversation.item.retrieve"
        found.append(event["item_id"])
    return found


def test_open_items_are_retrieved_after_a_gap() -> None:
    """Turns without a transcript and items of open replies are retrieved; turns, text and tool calls in them are reported."""
    codec = Codec(config(floor="model", tools=[tool("shop.cancel")]))
    call = {"id": "item_c", "type": "function_call", "name": "shop__cancel", "call_id": "c1", "arguments": "{}"}
    added = {"type": "response.output_item.added", "response_id": "resp_1", "item": {**call, "status": "in_progress"}}
    decode(
        codec,
        {"type": "input_audio_buffer.committed", "item_id": "item_u"},
        created(),
        added,
        {"type": "input_audio_buffer.speech_started", "item_id": "item_v"},
    )
    codec.sideband_reattached(50.0)
    assert retrieved(codec) == ["item_u", "item_v", "item_c"]
    heard = [{"type": "input_audio", "transcript": "Where is it?"}]
    turn = {"id": "item_u", "type": "message", "role": "user", "content": heard}
    answers = [turn, {**turn, "id": "item_v", "content": []}, {**call, "status": "completed"}]
    told = decode(codec, *({"type": "conversation.item.retrieved", "item": item} for item in answers), now=51.0)
    assert [e.type for e in told] == ["turn.transcript", "turn.committed", "tool.requested"]
    again = {"type": "conversation.item.retrieved", "item": {**turn, "id": "item_w"}}
    assert decode(codec, again, now=51.0) == []  # somebody else asked for that


def test_a_missed_turn_is_found_by_its_successor() -> None:
    """An unseen predecessor of a seen item is retrieved after a gap, and only then."""
    follows = {"type": "input_audio_buffer.committed", "item_id": "item_2", "previous_item_id": "item_1"}
    codec = Codec(config())
    decode(codec, follows)
    assert retrieved(codec) == []
    codec.sideband_reattached(50.0)
    assert retrieved(codec) == ["item_2"]
    decode(codec, {**follows, "item_id": "item_4", "previous_item_id": "item_3"}, now=51.0)
    assert retrieved(codec) == ["item_3"]


def test_retrievals_after_a_gap_are_bounded() -> None:
    """With any chain of items and any number of gaps, only a few items are retrieved per gap."""
    codec = Codec(config())
    codec.sideband_reattached(50.0)
    chain = [
        {"type": "input_audio_buffer.committed", "item_id": f"a{n}", "previous_item_id": f"b{n}"} for n in range(100)
    ]
    decode(codec, *chain)
    assert len(retrieved(codec)) == 16


# usage ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        ({"type": "duration", "seconds": 2.5}, {"seconds": 2.5}),
        (
            {
                "type": "tokens",
                "input_tokens": 20,
                "output_tokens": 7,
                "total_tokens": 27,
                "input_token_details": {"text_tokens": 3, "audio_tokens": 17},
            },
            {"input_text_tokens": 3, "input_audio_tokens": 17, "output_text_tokens": 7},
        ),
    ],
)
def test_transcription_usage_is_reported_as_counted(usage: dict[str, Any], told: dict[str, Any]) -> None:
    """Usage is reported in seconds or tokens as the provider counts it."""
    event = {
        "type": "conversation.item.input_audio_transcription.completed",
        "item_id": "item_u",
        "transcript": "Hi",
        "usage": usage,
    }
    (report,) = [e for e in decode(carried(), event) if isinstance(e, UsageReported)]
    assert (report.kind, report.item) == ("transcription", "item_u")
    assert report.usage.model_dump(exclude_none=True) == told
