"""The Realtime conversation without sockets: event sequences, refusals, interruption, and invariants."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfield_local.brain.protocol import CallFunction, Message, Speak, ToolResult
from agentfield_local.faults.behaviour import Behaviour
from agentfield_local.realtime.conversation.effects import ScheduleTimer
from support.audio import silence, tone
from support.providers.local_server import ConversationDriver, b64

MANUAL = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
WITH_TEXTS = {"type": "realtime", "audio": {"input": {"transcription": {"model": "whisper-1"}}}}
TURN = tone(300, 16_000)


def test_a_session_begins_with_its_effective_configuration() -> None:
    """A new leg gets the session and the conversation, with turn detection and an expiry in an hour."""
    driver = ConversationDriver()
    assert driver.types() == ["session.created", "conversation.created"]
    assert driver.to == ["one", "one"]
    session = driver.sent[0]["session"]
    assert session["object"] == "realtime.session"
    assert session["model"] == "gpt-realtime"
    assert session["expires_at"] == 1_800_003_600
    assert session["audio"]["input"]["turn_detection"]["create_response"] is True
    assert session["audio"]["input"]["transcription"] is None
    assert driver.vad_restarts[0].turn_detection is not None


def test_events_of_a_spoken_turn_and_its_reply_follow_the_protocol() -> None:
    """Speech, commit, item, response, transcript and audio events are sent in the documented order."""
    driver = ConversationDriver()
    driver.send("session.update", session=WITH_TEXTS)
    driver.turn("hello")
    driver.plan(Speak("Hi there."))
    driver.speak()
    assert driver.types()[3:] == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "rate_limits.updated",
        "conversation.item.input_audio_transcription.delta",
        "conversation.item.input_audio_transcription.completed",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio_transcript.delta",
        "response.output_audio.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    response = driver.last("response.done")["response"]
    assert response["status"] == "completed"
    assert response["output"][0]["content"] == [{"type": "output_audio", "transcript": "Hi there."}]
    assert response["usage"]["total_tokens"] == response["usage"]["input_tokens"] + response["usage"]["output_tokens"]
    assert response["usage"]["input_token_details"]["audio_tokens"] == 3


def test_transcripts_are_sent_only_on_request() -> None:
    """Without a transcription model the brain reads the words and the client gets no transcript."""
    driver = ConversationDriver()
    driver.turn("my order is late")
    request = driver.plan(Speak("Oh."))
    assert request.history == [Message("user", "my order is late")]
    assert not [kind for kind in driver.types() if "transcription" in kind]


def test_a_late_transcript_follows_the_response() -> None:
    """With the delay, the transcript follows the response.done of its turn."""
    driver = ConversationDriver(Behaviour(late_transcript_ms=5000))
    driver.send("session.update", session=WITH_TEXTS)
    item_id = driver.turn("hello")
    driver.plan(Speak("Hi."))
    driver.speak()
    assert driver.types()[-1] == "response.done"
    assert driver.timers[-1] == ScheduleTimer(5.0, ("transcript", item_id))
    driver.take(driver.machine.timer_fired(("transcript", item_id)))
    assert driver.sent[-1]["transcript"] == "hello"


def test_a_failed_transcription_does_not_end_the_turn() -> None:
    """The client gets the failure event; the response is created without the words."""
    driver = ConversationDriver()
    driver.send("session.update", session=WITH_TEXTS)
    driver.take(driver.machine.speech_started(0))
    driver.take(driver.machine.speech_stopped(800, TURN))
    driver.take(driver.machine.transcribed(driver.transcriptions.popleft().item_id, "", error="it broke"))
    assert driver.types()[-1] == "conversation.item.input_audio_transcription.failed"
    assert driver.brain_queries[0].request.history == [Message("user", "")]


def test_parallel_calls_are_complete_items_and_their_outputs_reach_the_brain() -> None:
    """After two calls in one response and both outputs, the next response reads them by function name."""
    driver = ConversationDriver()
    tool = {"type": "function", "name": "find_order", "description": "", "parameters": {"type": "object"}}
    driver.send("session.update", session={"type": "realtime", "tools": [tool]})
    driver.turn("two orders")
    request = driver.plan(CallFunction("find_order", '{"id":1}'), CallFunction("find_order", "{broken"))
    assert [offer.name for offer in request.tools] == ["find_order"]
    done = driver.last("response.done")["response"]
    assert [item["arguments"] for item in done["output"]] == ['{"id":1}', "{broken"]
    assert all(item["status"] == "completed" for item in done["output"])
    arguments = [e for e in driver.sent if e["type"] == "response.function_call_arguments.done"]
    assert [event["arguments"] for event in arguments] == ['{"id":1}', "{broken"]
    for item in done["output"]:
        output = {"type": "function_call_output", "call_id": item["call_id"], "output": "shipped"}
        assert driver.send("conversation.item.create", item=output) == [
            "conversation.item.added",
            "conversation.item.done",
        ]
    driver.send("response.create")
    results = [entry for entry in driver.plan(Speak("Done.")).history if isinstance(entry, ToolResult)]
    assert [result.name for result in results] == ["find_order", "find_order"]


def test_an_output_of_an_unknown_call_is_refused() -> None:
    """A result with an unknown call id is not added to the conversation."""
    driver = ConversationDriver()
    driver.send("conversation.item.create", item={"type": "function_call_output", "call_id": "call_x", "output": "1"})
    assert driver.error()["code"] == "invalid_tool_call_id"


def test_there_is_one_active_response_and_any_number_out_of_band() -> None:
    """A second default response is refused; `conversation:"none"` runs in parallel and adds no items."""
    driver = ConversationDriver()
    driver.send("response.create")
    first = driver.last("response.created")["response"]["id"]
    driver.send("response.create", event_id="mine")
    error = driver.error()
    assert error["code"] == "conversation_already_has_active_response"
    assert first in error["message"]
    assert error["event_id"] == "mine"
    driver.send("response.create", response={"conversation": "none", "metadata": {"kind": "out_of_band"}})
    out_of_band = driver.last("response.created")["response"]
    assert out_of_band["conversation_id"] is None
    assert out_of_band["metadata"] == {"kind": "out_of_band"}
    driver.brain_queries.popleft()
    driver.plan(Speak("Psst."))
    before = driver.types().count("conversation.item.added")
    driver.speak()
    assert driver.types().count("conversation.item.added") == before
    assert driver.last("response.done")["response"]["metadata"] == {"kind": "out_of_band"}


def test_barge_in_on_a_websocket_cancels_the_reply_and_the_client_truncates() -> None:
    """Speech during generation ends the response; the client truncates the item to what it played, at most its length."""
    driver = ConversationDriver()
    driver.turn()
    driver.plan(Speak("A long answer."))
    spoken = driver.speak(600, done=False)
    driver.take(driver.machine.speech_started(2000))
    done = driver.last("response.done")["response"]
    assert done["status"] == "cancelled"
    assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert done["output"][0]["status"] == "incomplete"
    fields = {"item_id": spoken.item_id, "content_index": 0}
    driver.send("conversation.item.truncate", audio_end_ms=601, **fields)
    assert driver.error()["code"] is None
    assert "already shorter" in driver.error()["message"]
    assert driver.send("conversation.item.truncate", audio_end_ms=300, **fields) == ["conversation.item.truncated"]
    driver.send("conversation.item.retrieve", item_id=spoken.item_id)
    part = driver.last("conversation.item.retrieved")["item"]["content"][0]
    assert "transcript" not in part
    assert len(part["audio"]) == len(b64(tone(300, 24_000)))


def test_barge_in_on_webrtc_clears_the_output_buffer_and_truncates() -> None:
    """The server stops playback, ends the response, and truncates the item to what was heard."""
    driver = ConversationDriver(webrtc=True)
    driver.turn()
    driver.plan(Speak("A long answer."))
    spoken = driver.speak(1000, done=False)
    driver.play(300)
    driver.take(driver.machine.speech_started(2000))
    assert (
        driver.types()[-7:]
        == [
            "output_audio_buffer.cleared",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "conversation.item.done",
            "response.output_item.done",
            "response.done",
        ]
        or driver.types()[-1] == "conversation.item.truncated"
    )
    assert driver.types().index("output_audio_buffer.cleared") < driver.types().index("response.done")
    assert driver.last("conversation.item.truncated")["audio_end_ms"] == 300
    assert driver.last("conversation.item.truncated")["item_id"] == spoken.item_id
    assert driver.output_buffer is not None
    assert not driver.output_buffer.playing


@pytest.mark.parametrize("mirrored", [False, True])
def test_audio_deltas_on_the_legs_of_a_webrtc_call(mirrored: bool) -> None:
    """The caller hears RTP; if so configured, the legs also get 24 kHz deltas. The item keeps its audio in both cases."""
    driver = ConversationDriver(Behaviour(sideband_audio_deltas=mirrored), webrtc=True)
    driver.turn()
    driver.plan(Speak("An answer."))
    spoken = driver.speak(200)
    deltas = [event["delta"] for event in driver.sent if event["type"] == "response.output_audio.delta"]
    assert len("".join(deltas)) == (len(b64(silence(200, 24_000))) if mirrored else 0)
    driver.send("conversation.item.retrieve", item_id=spoken.item_id)
    part = driver.last("conversation.item.retrieved")["item"]["content"][0]
    assert len(part["audio"]) == len(b64(silence(200, 24_000)))


def test_a_reply_that_is_done_but_still_playing_can_be_interrupted() -> None:
    """On WebRTC a response is done before it was heard; speech then clears and truncates, and cancels nothing."""
    driver = ConversationDriver(webrtc=True)
    driver.turn()
    driver.plan(Speak("A long answer."))
    driver.speak(1000)
    driver.play(100)
    assert driver.types()[-1] == "output_audio_buffer.started"
    driver.take(driver.machine.speech_started(2000))
    assert driver.types()[-3:] == [
        "input_audio_buffer.speech_started",
        "output_audio_buffer.cleared",
        "conversation.item.truncated",
    ]


def test_an_out_of_band_reply_is_not_interrupted_by_speech() -> None:
    """An out-of-band announcement continues to play while the caller speaks."""
    driver = ConversationDriver(webrtc=True)
    driver.send("response.create", response={"conversation": "none"})
    driver.plan(Speak("An announcement."))
    driver.speak(400)
    driver.play(100)
    driver.take(driver.machine.speech_started(500))
    assert "output_audio_buffer.cleared" not in driver.types()
    driver.play(400)
    assert driver.types()[-1] == "output_audio_buffer.stopped"


def test_speech_does_not_interrupt_with_interrupt_response_off() -> None:
    """The reply continues, and the response of the new turn is refused while it is active."""
    driver = ConversationDriver()
    detection = {"type": "server_vad", "interrupt_response": False}
    driver.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}})
    driver.turn()
    driver.plan(Speak("A long answer."))
    driver.turn()
    assert driver.error()["code"] == "conversation_already_has_active_response"
    driver.speak()
    assert driver.last("response.done")["response"]["status"] == "completed"


def test_response_settings_may_change_during_a_turn() -> None:
    """Changing interrupt_response in the middle of an utterance does not restart the VAD: the turn is not lost."""
    driver = ConversationDriver()
    driver.take(driver.machine.speech_started(100))
    before = len(driver.vad_restarts)
    detection = {"type": "server_vad", "interrupt_response": False}
    driver.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}})
    assert len(driver.vad_restarts) == before
    driver.take(driver.machine.speech_stopped(900, tone(400, 16_000)))
    assert "input_audio_buffer.committed" in driver.types()


def test_create_response_off_creates_no_response() -> None:
    """A turn is committed and transcribed, and no response follows."""
    driver = ConversationDriver()
    detection = {"type": "semantic_vad", "create_response": False}
    driver.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}})
    driver.turn()
    assert "response.created" not in driver.types()


def test_manual_turns_are_committed_by_the_client() -> None:
    """Without turn detection the client appends, commits and requests the response."""
    driver = ConversationDriver()
    driver.send("session.update", session=MANUAL)
    assert driver.vad_restarts[-1].turn_detection is None
    assert driver.send("input_audio_buffer.append", audio=b64(tone(200, 16_000))) == []
    assert driver.send("input_audio_buffer.commit") == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
    driver.send("input_audio_buffer.append", audio=b64(silence(99, 16_000)))
    driver.send("input_audio_buffer.commit")
    assert driver.error()["code"] == "input_audio_buffer_commit_empty"
    assert "only has 99.00ms" in driver.error()["message"]
    assert driver.send("input_audio_buffer.clear") == ["input_audio_buffer.cleared"]


def test_the_refusal_of_an_empty_commit_may_be_delayed() -> None:
    """With the delay, the error follows later acknowledgements and carries the event id of the commit."""
    driver = ConversationDriver(Behaviour(commit_error_delay_ms=1000))
    assert driver.send("input_audio_buffer.commit", event_id="c1") == []
    driver.send("input_audio_buffer.clear")
    driver.take(driver.machine.timer_fired(driver.timers[-1].timer))
    assert driver.error()["event_id"] == "c1"


def test_updates_merge_deeply_and_all_or_nothing() -> None:
    """Three partial updates add up; one with a bad field changes nothing."""
    driver = ConversationDriver()
    driver.send("session.update", session={"type": "realtime", "instructions": "Be brief."})
    driver.send("session.update", session=WITH_TEXTS)
    quick = {"type": "server_vad", "silence_duration_ms": 200}
    driver.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": quick}}})
    session = driver.last("session.updated")["session"]
    assert session["instructions"] == "Be brief."
    assert session["audio"]["input"]["transcription"]["model"] == "whisper-1"
    assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 200
    assert session["audio"]["input"]["turn_detection"]["prefix_padding_ms"] == 300
    driver.send("session.update", session={"type": "realtime", "instructions": "x", "output_modalities": ["smell"]})
    assert driver.error()["param"] == "session.output_modalities[0]"
    driver.send("session.update", session={"type": "realtime", "model": "another"})
    session = driver.last("session.updated")["session"]
    assert session["instructions"] == "Be brief."
    assert session["model"] == "gpt-realtime"


@pytest.mark.parametrize(
    ("event", "code", "param"),
    [
        ({"type": "session.update", "session": {}}, "missing_required_parameter", "session.type"),
        ({"type": "session.update"}, "missing_required_parameter", "session"),
        ({"type": "session.update", "session": {"type": "bogus"}}, "invalid_value", "session.type"),
        (
            {"type": "session.update", "session": {"type": "realtime", "temperature": 1}},
            "unknown_parameter",
            "session.temperature",
        ),
        (
            {
                "type": "session.update",
                "session": {"type": "realtime", "audio": {"input": {"transcription": {"delays": 1}}}},
            },
            "unknown_parameter",
            "session.audio.input.transcription.delays",
        ),
        (
            {
                "type": "session.update",
                "session": {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad", "x": 1}}}},
            },
            "unknown_parameter",
            "session.audio.input.turn_detection.x",
        ),
        (
            {"type": "session.update", "session": {"type": "realtime", "audio": {"output": {"voice": "darth"}}}},
            "invalid_value",
            "session.audio.output.voice",
        ),
        (
            {"type": "session.update", "session": {"type": "realtime", "output_modalities": ["audio", "text"]}},
            "invalid_value",
            "session.output_modalities",
        ),
        ({"type": "bogus"}, "invalid_value", "type"),
        ({}, "missing_required_parameter", "type"),
        ({"type": "input_audio_buffer.append", "audio": "%%"}, "invalid_value", "audio"),
        ({"type": "conversation.item.retrieve", "item_id": "x"}, "item_retrieve_invalid_item_id", "item_id"),
        ({"type": "conversation.item.delete", "item_id": "x"}, "item_delete_invalid_item_id", "item_id"),
        (
            {"type": "conversation.item.truncate", "item_id": "x", "content_index": 0, "audio_end_ms": 1},
            "item_truncate_invalid_item_id",
            "item_id",
        ),
        ({"type": "response.cancel"}, "response_cancel_not_active", None),
        ({"type": "output_audio_buffer.clear"}, "invalid_value", "type"),
        (
            {"type": "response.create", "response": {"max_output_tokens": 5000}},
            "invalid_value",
            "response.max_output_tokens",
        ),
    ],
)
def test_refusals_name_the_code_and_the_field(event: dict[str, Any], code: str, param: str | None) -> None:
    """Every refusal has the documented code and the path of the field, and the session continues."""
    driver = ConversationDriver()
    driver.take(driver.machine.receive("one", json.dumps({**event, "event_id": "e1"})))
    error = driver.error()
    assert (error["code"], error["param"], error["event_id"]) == (code, param, "e1")
    assert error["type"] == "invalid_request_error"
    assert driver.to[-1] == "one"
    assert driver.send("input_audio_buffer.clear") == ["input_audio_buffer.cleared"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"type":1}', '"x"'])
def test_invalid_json_is_refused(text: str) -> None:
    """Broken JSON, and JSON that is not an event, are answered with an error."""
    driver = ConversationDriver()
    driver.take(driver.machine.receive("one", text))
    assert driver.error()["type"] == "invalid_request_error"


def test_the_voice_is_locked_once_the_assistant_has_spoken() -> None:
    """The voice may change before the first audio only; naming the same voice is always accepted."""
    driver = ConversationDriver()
    voice = {"type": "realtime", "audio": {"output": {"voice": "marin"}}}
    assert driver.send("session.update", session=voice) == ["session.updated"]
    driver.turn()
    driver.plan(Speak("Hi."))
    driver.speak()
    assert driver.send("session.update", session=voice) == ["session.updated"]
    driver.send("session.update", session={"type": "realtime", "audio": {"output": {"voice": "cedar"}}})
    assert driver.error()["code"] == "cannot_update_voice"
    driver.send("response.create", response={"audio": {"output": {"voice": "cedar"}}})
    assert driver.error()["code"] == "cannot_update_voice"


def test_items_are_placed_retrieved_and_deleted() -> None:
    """An item is placed after `root`, an id, or the last item; the id of a deleted item stays reserved."""
    driver = ConversationDriver()

    def add(item_id: str, **more: Any) -> list[str]:
        content = [{"type": "input_text", "text": item_id}]
        item = {"type": "message", "role": "user", "id": item_id, "content": content}
        return driver.send("conversation.item.create", item=item, **more)

    add("b")
    add("a", previous_item_id="root")
    add("c", previous_item_id="b")
    assert driver.last("conversation.item.added")["previous_item_id"] == "b"
    add("b")
    assert driver.error()["code"] == "item_create_duplicate_item_id"
    add("d", previous_item_id="nowhere")
    assert driver.error()["param"] == "previous_item_id"
    driver.send("conversation.item.delete", item_id="b")
    add("b")
    assert driver.error()["code"] == "item_create_duplicate_item_id"
    driver.send("response.create")
    assert [entry.text for entry in driver.brain_queries[0].request.history if isinstance(entry, Message)] == ["a", "c"]


def test_a_verbatim_say_reads_nothing_and_keeps_its_metadata() -> None:
    """`input:[]` gives the brain no history; metadata is echoed."""
    driver = ConversationDriver()
    driver.turn()
    driver.plan(Speak("Hi."))
    driver.speak()
    params = {"input": [], "instructions": "Say <say>x</say>", "metadata": {"af_id": "1"}, "tool_choice": "none"}
    driver.send("response.create", response=params)
    request = driver.plan(Speak("x"))
    assert request.history == []
    assert request.tool_choice == "none"
    driver.speak()
    assert driver.last("response.done")["response"]["metadata"] == {"af_id": "1"}


def test_a_text_response_has_text_events_only() -> None:
    """`output_modalities:["text"]` leads to output_text events and no audio."""
    driver = ConversationDriver()
    driver.send("response.create", response={"output_modalities": ["text"]})
    driver.plan(Speak("Hello, you. Welcome."))
    assert driver.last("response.output_text.done")["text"] == "Hello, you. Welcome."
    deltas = [event["delta"] for event in driver.sent if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "Hello, you. Welcome."
    assert not [kind for kind in driver.types() if "output_audio" in kind]


def test_the_token_limit_makes_a_response_incomplete() -> None:
    """The token limit ends the audio, with the reason in the details."""
    driver = ConversationDriver()
    driver.send("response.create", response={"max_output_tokens": 5})
    driver.plan(Speak("Hello."))
    driver.speak(1000, done=False)
    details = driver.last("response.done")["response"]["status_details"]
    assert details == {"type": "incomplete", "reason": "max_output_tokens"}


def test_a_failed_response_does_not_end_the_session() -> None:
    """An error and a failed response.done are sent; the next response succeeds."""
    driver = ConversationDriver(Behaviour(fail_responses=1))
    kinds = driver.send("response.create")
    assert kinds[-2:] == ["error", "response.done"]
    done = driver.last("response.done")["response"]
    assert done["status"] == "failed"
    assert done["status_details"]["error"]["code"] == "server_error"
    assert done["usage"]["total_tokens"] == 0
    driver.send("response.create")
    assert len(driver.brain_queries) == 1


def test_a_session_ends_after_an_hour() -> None:
    """At expiry, the client gets session_expired and the session ends."""
    driver = ConversationDriver()
    driver.send("response.create")
    driver.take(driver.machine.timer_fired(("expire", "")))
    assert driver.types()[-2:] == ["response.done", "error"]
    assert driver.error()["code"] == "session_expired"
    assert driver.ended


def test_an_idle_caller_gets_a_response() -> None:
    """When the idle timeout has passed since the end of playback, the silence is committed and answered."""
    driver = ConversationDriver()
    detection = {"type": "server_vad", "idle_timeout_ms": 5000}
    driver.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}})
    driver.turn()
    driver.plan(Speak("Hi."))
    driver.speak()
    assert driver.timers[-1] == ScheduleTimer(5.4, ("idle", ""))
    driver.take(driver.machine.timer_fired(("idle", "")))
    assert driver.types()[-1] == "response.done"
    driver.time += 5.4
    driver.take(driver.machine.timer_fired(("idle", "")))
    assert "input_audio_buffer.timeout_triggered" in driver.types()
    assert driver.types()[-2] == "response.created"


def test_a_behaviour_changes_order_and_adds_unknown_data() -> None:
    """Order of item.done, position of rate limits, echoed model, duplicate events and unknown fields."""
    driver = ConversationDriver(
        Behaviour(
            item_done_order="output_first",
            rate_limits="after_done",
            echo_model="something-else",
            unknown_fields=True,
            duplicate_events=frozenset({"response.done"}),
        )
    )
    assert driver.sent[0]["session"]["model"] == "something-else"
    driver.turn()
    driver.plan(Speak("Hi."))
    driver.speak()
    assert driver.types()[-5:] == [
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
        "response.done",
        "rate_limits.updated",
    ]
    assert driver.last("conversation.item.done")["item"]["x_mood"] == "curious"
    assert driver.sent[-3]["event_id"] == driver.sent[-2]["event_id"]


def test_acknowledgements_go_to_all_legs_and_errors_to_their_sender() -> None:
    """session.created and errors go to one leg, all other events to all legs."""
    driver = ConversationDriver()
    driver.take(driver.machine.attach("two"))
    assert driver.to[-2:] == ["two", "two"]
    driver.take(driver.machine.receive("two", '{"type":"response.cancel"}'))
    assert driver.to[-1] == "two"
    driver.take(driver.machine.receive("two", '{"type":"input_audio_buffer.clear"}'))
    assert driver.to[-1] is None


# invariants --------------------------------------------------------------------------------------------------------

_TEXTS = st.sampled_from(["", "hello", "A long one, with clauses. And two sentences!"])
_IDS = st.sampled_from(["item_0", "item_1", "item_2", "mine", "root", ""])
_SESSIONS = st.sampled_from(
    [
        MANUAL,
        WITH_TEXTS,
        {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}},
        {"type": "realtime", "output_modalities": ["text"]},
        {"type": "realtime", "audio": {"output": {"voice": "cedar", "format": {"type": "audio/pcmu"}}}},
        {"type": "realtime", "nonsense": True},
    ]
)
_CLIENT = st.one_of(
    st.builds(lambda s: {"type": "session.update", "session": s}, _SESSIONS),
    st.builds(lambda ms: {"type": "input_audio_buffer.append", "audio": b64(silence(ms, 16_000))}, st.integers(0, 300)),
    st.sampled_from(
        [
            {"type": "input_audio_buffer.commit"},
            {"type": "input_audio_buffer.clear"},
            {"type": "output_audio_buffer.clear"},
            {"type": "response.cancel"},
            {"type": "response.create"},
            {"type": "response.create", "response": {"conversation": "none", "input": []}},
            {"type": "response.create", "response": {"max_output_tokens": 3}},
            {"type": "conversation.item.create", "item": {"type": "function_call", "name": "f", "arguments": "{}"}},
        ]
    ),
    st.builds(
        lambda i, text: {
            "type": "conversation.item.create",
            "item": {"type": "message", "role": "user", "id": i, "content": [{"type": "input_text", "text": text}]},
        },
        _IDS,
        _TEXTS,
    ),
    st.builds(
        lambda kind, number, ms: {
            "type": f"conversation.item.{kind}",
            "item_id": number,
            **({"content_index": 0, "audio_end_ms": ms} if kind == "truncate" else {}),
        },
        st.sampled_from(["retrieve", "delete", "truncate"]),
        st.integers(0, 12),
        st.integers(0, 900),
    ),
    st.dictionaries(st.sampled_from(["type", "item", "session", "response"]), st.none() | st.text() | st.integers()),
)
_STEPS = st.lists(
    st.one_of(st.builds(Speak, _TEXTS), st.builds(CallFunction, st.just("f"), st.sampled_from(["{}", "", "{"]))),
    max_size=3,
)
_INPUTS = st.one_of(
    st.tuples(st.just("client"), _CLIENT),
    st.tuples(st.just("started"), st.none()),
    st.tuples(st.just("stopped"), st.none()),
    st.tuples(st.just("transcribed"), _TEXTS),
    st.tuples(st.just("brain_answered"), _STEPS),
    st.tuples(st.just("audio_synthesized"), st.integers(1, 500)),
    st.tuples(st.just("item_synthesized"), st.none()),
    st.tuples(st.just("response_failed"), st.none()),
    st.tuples(st.just("play"), st.integers(20, 400)),
    st.tuples(st.just("timer"), st.none()),
)


def _apply(driver: ConversationDriver, kind: str, value: Any) -> None:
    machine = driver.machine
    match kind:
        case "client":
            if isinstance(value.get("item_id"), int):
                ids = [e["item"]["id"] for e in driver.sent if e["type"] == "conversation.item.added"] or ["none"]
                value = {**value, "item_id": ids[value["item_id"] % len(ids)]}
            driver.take(machine.receive("one", json.dumps(value)))
        case "started":
            driver.take(machine.speech_started(machine.buffer.heard_ms))
        case "stopped":
            driver.take(machine.speech_stopped(machine.buffer.heard_ms, TURN))
        case "transcribed" if driver.transcriptions:
            driver.take(machine.transcribed(driver.transcriptions.popleft().item_id, value))
        case "brain_answered" if driver.brain_queries:
            driver.take(machine.brain_answered(driver.brain_queries.popleft().response_id, value))
        case "audio_synthesized" if driver.syntheses:
            job = driver.syntheses[0]
            audio = silence(value, 48_000)
            driver.take(machine.audio_synthesized(job.response_id, job.item_id, audio, value, clause=True))
        case "item_synthesized" if driver.syntheses:
            job = driver.syntheses.popleft()
            driver.take(machine.item_synthesized(job.response_id, job.item_id))
        case "response_failed" if driver.brain_queries:
            driver.take(machine.response_failed(driver.brain_queries.popleft().response_id, "broken"))
        case "play" if driver.output_buffer is not None:
            driver.play(value)
        case "timer" if driver.timers:
            timer = driver.timers.pop().timer
            if timer[0] != "expire":
                driver.time += 1000
                driver.take(machine.timer_fired(timer))


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.lists(_INPUTS, max_size=60))
def test_every_response_ends_once_and_ids_are_unique(webrtc: bool, inputs: list[tuple[str, Any]]) -> None:
    """Any sequence of inputs leads to valid events, one response.done per response.created, and unique ids."""
    driver = ConversationDriver(webrtc=webrtc)
    for kind, value in inputs:
        _apply(driver, kind, value)
    while driver.transcriptions or driver.brain_queries or driver.syntheses:
        for kind in ("transcribed", "brain_answered", "item_synthesized"):
            _apply(driver, kind, [Speak("bye")] if kind == "brain_answered" else "words")
    created = [event["response"]["id"] for event in driver.sent if event["type"] == "response.created"]
    done = Counter(event["response"]["id"] for event in driver.sent if event["type"] == "response.done")
    assert done == Counter(created)
    assert len(set(created)) == len(created)
    added = Counter(event["item"]["id"] for event in driver.sent if event["type"] == "conversation.item.added")
    assert set(added.values()) <= {1}
    events = Counter(event["event_id"] for event in driver.sent)
    assert set(events.values()) <= {1}
    if driver.output_buffer is not None:
        driver.play(60_000)
        played = Counter(e["response_id"] for e in driver.sent if e["type"] == "output_audio_buffer.started")
        stopped = Counter(e["response_id"] for e in driver.sent if e["type"] == "output_audio_buffer.stopped")
        cleared = {e["response_id"] for e in driver.sent if e["type"] == "output_audio_buffer.cleared"}
        assert set(played) - cleared <= set(stopped)
        assert driver.output_buffer.buffered_bytes == 0
