"""The conversation of the local server without sockets: sequences, refusals, interruption, and what must always hold."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfield_local.behaviour import Behaviour
from agentfield_local.brain.protocol import Call, Message, Say, ToolResult
from agentfield_local.realtime.effects import Later
from local_server_kit import Desk, b64, silence, tone

MANUAL = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
WITH_TEXTS = {"type": "realtime", "audio": {"input": {"transcription": {"model": "whisper-1"}}}}
TURN = tone(300, 16_000)


def test_a_session_begins_with_its_effective_configuration() -> None:
    """A leg is told the session and the conversation, turn detection on, expiry after an hour."""
    desk = Desk()
    assert desk.types() == ["session.created", "conversation.created"]
    assert desk.to == ["one", "one"]
    session = desk.sent[0]["session"]
    assert session["object"] == "realtime.session"
    assert session["model"] == "gpt-realtime"
    assert session["expires_at"] == 1_800_003_600
    assert session["audio"]["input"]["turn_detection"]["create_response"] is True
    assert session["audio"]["input"]["transcription"] is None
    assert desk.listen[0].turn_detection is not None


def test_a_spoken_turn_and_its_reply_come_in_the_protocols_order() -> None:
    """Speech, commit, item, response, words and audio arrive in the documented sequence."""
    desk = Desk()
    desk.send("session.update", session=WITH_TEXTS)
    desk.turn("hello")
    desk.plan(Say("Hi there."))
    desk.speak()
    assert desk.types()[3:] == [
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
    response = desk.last("response.done")["response"]
    assert response["status"] == "completed"
    assert response["output"][0]["content"] == [{"type": "output_audio", "transcript": "Hi there."}]
    assert response["usage"]["total_tokens"] == response["usage"]["input_tokens"] + response["usage"]["output_tokens"]
    assert response["usage"]["input_token_details"]["audio_tokens"] == 3


def test_transcripts_are_sent_only_where_the_session_asks_for_them() -> None:
    """Without a transcription model the brain hears the words and the client gets none."""
    desk = Desk()
    desk.turn("my order is late")
    request = desk.plan(Say("Oh."))
    assert request.history == [Message("user", "my order is late")]
    assert not [kind for kind in desk.types() if "transcription" in kind]


def test_late_transcripts_come_after_the_response() -> None:
    """With the switch the words follow their own turn's response.done."""
    desk = Desk(Behaviour(late_transcript_ms=5000))
    desk.send("session.update", session=WITH_TEXTS)
    item_id = desk.turn("hello")
    desk.plan(Say("Hi."))
    desk.speak()
    assert desk.types()[-1] == "response.done"
    assert desk.later[-1] == Later(5.0, ("transcript", item_id))
    desk.take(desk.machine.due(("transcript", item_id)))
    assert desk.sent[-1]["transcript"] == "hello"


def test_a_failed_transcription_is_an_event_and_the_turn_goes_on() -> None:
    """The client learns that the words could not be found; the response is made without them."""
    desk = Desk()
    desk.send("session.update", session=WITH_TEXTS)
    desk.take(desk.machine.speech_started(0))
    desk.take(desk.machine.speech_stopped(800, TURN))
    desk.take(desk.machine.transcribed(desk.transcribe.popleft().item_id, "", error="it broke"))
    assert desk.types()[-1] == "conversation.item.input_audio_transcription.failed"
    assert desk.think[0].request.history == [Message("user", "")]


def test_parallel_calls_are_complete_items_and_their_outputs_reach_the_brain() -> None:
    """Two calls in one response; both outputs, then one response that reads them by name."""
    desk = Desk()
    tool = {"type": "function", "name": "find_order", "description": "", "parameters": {"type": "object"}}
    desk.send("session.update", session={"type": "realtime", "tools": [tool]})
    desk.turn("two orders")
    request = desk.plan(Call("find_order", '{"id":1}'), Call("find_order", "{broken"))
    assert [offer.name for offer in request.tools] == ["find_order"]
    done = desk.last("response.done")["response"]
    assert [item["arguments"] for item in done["output"]] == ['{"id":1}', "{broken"]
    assert all(item["status"] == "completed" for item in done["output"])
    arguments = [e for e in desk.sent if e["type"] == "response.function_call_arguments.done"]
    assert [event["arguments"] for event in arguments] == ['{"id":1}', "{broken"]
    for item in done["output"]:
        output = {"type": "function_call_output", "call_id": item["call_id"], "output": "shipped"}
        assert desk.send("conversation.item.create", item=output) == [
            "conversation.item.added",
            "conversation.item.done",
        ]
    desk.send("response.create")
    results = [entry for entry in desk.plan(Say("Done.")).history if isinstance(entry, ToolResult)]
    assert [result.name for result in results] == ["find_order", "find_order"]


def test_an_output_of_an_unknown_call_is_refused() -> None:
    """A result whose call id is nobody's is not taken into the conversation."""
    desk = Desk()
    desk.send("conversation.item.create", item={"type": "function_call_output", "call_id": "call_x", "output": "1"})
    assert desk.error()["code"] == "invalid_tool_call_id"


def test_there_is_one_active_response_but_any_beside_the_conversation() -> None:
    """A second default response is refused and named; `conversation:"none"` runs in parallel and is no history."""
    desk = Desk()
    desk.send("response.create")
    first = desk.last("response.created")["response"]["id"]
    desk.send("response.create", event_id="mine")
    error = desk.error()
    assert error["code"] == "conversation_already_has_active_response"
    assert first in error["message"]
    assert error["event_id"] == "mine"
    desk.send("response.create", response={"conversation": "none", "metadata": {"kind": "aside"}})
    aside = desk.last("response.created")["response"]
    assert aside["conversation_id"] is None
    assert aside["metadata"] == {"kind": "aside"}
    desk.think.popleft()
    desk.plan(Say("Psst."))
    before = desk.types().count("conversation.item.added")
    desk.speak()
    assert desk.types().count("conversation.item.added") == before
    assert desk.last("response.done")["response"]["metadata"] == {"kind": "aside"}


def test_barge_in_on_a_socket_cancels_the_reply_and_the_client_truncates() -> None:
    """Speech during generation ends the response; the client cuts the item at what it played, no further."""
    desk = Desk()
    desk.turn()
    desk.plan(Say("A long answer."))
    spoken = desk.speak(600, done=False)
    desk.take(desk.machine.speech_started(2000))
    done = desk.last("response.done")["response"]
    assert done["status"] == "cancelled"
    assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert done["output"][0]["status"] == "incomplete"
    place = {"item_id": spoken.item_id, "content_index": 0}
    desk.send("conversation.item.truncate", audio_end_ms=601, **place)
    assert desk.error()["code"] is None
    assert "already shorter" in desk.error()["message"]
    assert desk.send("conversation.item.truncate", audio_end_ms=300, **place) == ["conversation.item.truncated"]
    desk.send("conversation.item.retrieve", item_id=spoken.item_id)
    part = desk.last("conversation.item.retrieved")["item"]["content"][0]
    assert "transcript" not in part
    assert len(part["audio"]) == len(b64(tone(300, 24_000)))


def test_barge_in_on_webrtc_clears_playout_and_truncates_by_itself() -> None:
    """The server stops what plays, ends the response, and cuts the item at what was heard."""
    desk = Desk(webrtc=True)
    desk.turn()
    desk.plan(Say("A long answer."))
    spoken = desk.speak(1000, done=False)
    desk.play(300)
    desk.take(desk.machine.speech_started(2000))
    assert (
        desk.types()[-7:]
        == [
            "output_audio_buffer.cleared",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "conversation.item.done",
            "response.output_item.done",
            "response.done",
        ]
        or desk.types()[-1] == "conversation.item.truncated"
    )
    assert desk.types().index("output_audio_buffer.cleared") < desk.types().index("response.done")
    assert desk.last("conversation.item.truncated")["audio_end_ms"] == 300
    assert desk.last("conversation.item.truncated")["item_id"] == spoken.item_id
    assert desk.playout is not None
    assert not desk.playout.playing


@pytest.mark.parametrize("mirrored", [False, True])
def test_audio_reaches_the_legs_of_a_webrtc_call_only_by_the_switch(mirrored: bool) -> None:
    """The caller hears RTP; with the switch the legs also get 24 kHz deltas, and an item keeps its audio either way."""
    desk = Desk(Behaviour(sideband_audio_deltas=mirrored), webrtc=True)
    desk.turn()
    desk.plan(Say("An answer."))
    spoken = desk.speak(200)
    deltas = [event["delta"] for event in desk.sent if event["type"] == "response.output_audio.delta"]
    assert len("".join(deltas)) == (len(b64(silence(200, 24_000))) if mirrored else 0)
    desk.send("conversation.item.retrieve", item_id=spoken.item_id)
    part = desk.last("conversation.item.retrieved")["item"]["content"][0]
    assert len(part["audio"]) == len(b64(silence(200, 24_000)))


def test_a_reply_that_is_generated_but_still_heard_can_be_interrupted() -> None:
    """On WebRTC the response is done before it was heard; speech then clears and truncates, nothing is cancelled."""
    desk = Desk(webrtc=True)
    desk.turn()
    desk.plan(Say("A long answer."))
    desk.speak(1000)
    desk.play(100)
    assert desk.types()[-1] == "output_audio_buffer.started"
    desk.take(desk.machine.speech_started(2000))
    assert desk.types()[-3:] == [
        "input_audio_buffer.speech_started",
        "output_audio_buffer.cleared",
        "conversation.item.truncated",
    ]


def test_a_reply_beside_the_conversation_is_not_interrupted_by_speech() -> None:
    """Speech of the caller leaves an out-of-band announcement playing."""
    desk = Desk(webrtc=True)
    desk.send("response.create", response={"conversation": "none"})
    desk.plan(Say("An announcement."))
    desk.speak(400)
    desk.play(100)
    desk.take(desk.machine.speech_started(500))
    assert "output_audio_buffer.cleared" not in desk.types()
    desk.play(400)
    assert desk.types()[-1] == "output_audio_buffer.stopped"


def test_speech_does_not_interrupt_where_the_session_says_so() -> None:
    """With interrupt_response off the reply goes on; the new turn's response then finds the slot taken."""
    desk = Desk()
    detection = {"type": "server_vad", "interrupt_response": False}
    desk.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}})
    desk.turn()
    desk.plan(Say("A long answer."))
    desk.turn()
    assert desk.error()["code"] == "conversation_already_has_active_response"
    desk.speak()
    assert desk.last("response.done")["response"]["status"] == "completed"


def test_what_a_turn_leads_to_may_change_while_the_caller_speaks() -> None:
    """Switching interruption in the middle of an utterance does not restart listening: the turn is not lost."""
    desk = Desk()
    desk.take(desk.machine.speech_started(100))
    before = len(desk.listen)
    detection = {"type": "server_vad", "interrupt_response": False}
    desk.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}})
    assert len(desk.listen) == before
    desk.take(desk.machine.speech_stopped(900, tone(400, 16_000)))
    assert "input_audio_buffer.committed" in desk.types()


def test_no_response_is_made_where_the_client_wants_to_answer() -> None:
    """With create_response off a turn is committed and transcribed, nothing more."""
    desk = Desk()
    detection = {"type": "semantic_vad", "create_response": False}
    desk.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}})
    desk.turn()
    assert "response.created" not in desk.types()


def test_manual_turns_are_committed_by_the_client() -> None:
    """Without turn detection the client appends, commits and asks for the response."""
    desk = Desk()
    desk.send("session.update", session=MANUAL)
    assert desk.listen[-1].turn_detection is None
    assert desk.send("input_audio_buffer.append", audio=b64(tone(200, 16_000))) == []
    assert desk.send("input_audio_buffer.commit") == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
    desk.send("input_audio_buffer.append", audio=b64(silence(99, 16_000)))
    desk.send("input_audio_buffer.commit")
    assert desk.error()["code"] == "input_audio_buffer_commit_empty"
    assert "only has 99.00ms" in desk.error()["message"]
    assert desk.send("input_audio_buffer.clear") == ["input_audio_buffer.cleared"]


def test_the_refusal_of_an_empty_commit_may_come_late() -> None:
    """With the switch the error follows later acknowledgements, with the commit's own event id."""
    desk = Desk(Behaviour(commit_error_delay_ms=1000))
    assert desk.send("input_audio_buffer.commit", event_id="c1") == []
    desk.send("input_audio_buffer.clear")
    desk.take(desk.machine.due(desk.later[-1].what))
    assert desk.error()["event_id"] == "c1"


def test_updates_merge_deeply_and_all_or_nothing() -> None:
    """Three partial updates add up; one with a bad field changes nothing."""
    desk = Desk()
    desk.send("session.update", session={"type": "realtime", "instructions": "Be brief."})
    desk.send("session.update", session=WITH_TEXTS)
    quick = {"type": "server_vad", "silence_duration_ms": 200}
    desk.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": quick}}})
    session = desk.last("session.updated")["session"]
    assert session["instructions"] == "Be brief."
    assert session["audio"]["input"]["transcription"]["model"] == "whisper-1"
    assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 200
    assert session["audio"]["input"]["turn_detection"]["prefix_padding_ms"] == 300
    desk.send("session.update", session={"type": "realtime", "instructions": "x", "output_modalities": ["smell"]})
    assert desk.error()["param"] == "session.output_modalities[0]"
    desk.send("session.update", session={"type": "realtime", "model": "another"})
    session = desk.last("session.updated")["session"]
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
def test_what_is_wrong_is_named(event: dict[str, Any], code: str, param: str | None) -> None:
    """Every refusal has the documented code and the path of the field, and the session goes on."""
    desk = Desk()
    desk.take(desk.machine.receive("one", json.dumps({**event, "event_id": "e1"})))
    error = desk.error()
    assert (error["code"], error["param"], error["event_id"]) == (code, param, "e1")
    assert error["type"] == "invalid_request_error"
    assert desk.to[-1] == "one"
    assert desk.send("input_audio_buffer.clear") == ["input_audio_buffer.cleared"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"type":1}', '"x"'])
def test_what_is_no_event_is_refused(text: str) -> None:
    """Broken JSON and other JSON are errors of the sender, nothing else."""
    desk = Desk()
    desk.take(desk.machine.receive("one", text))
    assert desk.error()["type"] == "invalid_request_error"


def test_the_voice_is_locked_once_the_assistant_has_spoken() -> None:
    """Before the first audio a voice may change, after it no more; naming the same one is fine."""
    desk = Desk()
    voice = {"type": "realtime", "audio": {"output": {"voice": "marin"}}}
    assert desk.send("session.update", session=voice) == ["session.updated"]
    desk.turn()
    desk.plan(Say("Hi."))
    desk.speak()
    assert desk.send("session.update", session=voice) == ["session.updated"]
    desk.send("session.update", session={"type": "realtime", "audio": {"output": {"voice": "cedar"}}})
    assert desk.error()["code"] == "cannot_update_voice"
    desk.send("response.create", response={"audio": {"output": {"voice": "cedar"}}})
    assert desk.error()["code"] == "cannot_update_voice"


def test_items_are_placed_retrieved_and_deleted() -> None:
    """`root`, an id and nothing place an item; a deleted one is gone, its id stays used."""
    desk = Desk()

    def add(item_id: str, **more: Any) -> list[str]:
        content = [{"type": "input_text", "text": item_id}]
        item = {"type": "message", "role": "user", "id": item_id, "content": content}
        return desk.send("conversation.item.create", item=item, **more)

    add("b")
    add("a", previous_item_id="root")
    add("c", previous_item_id="b")
    assert desk.last("conversation.item.added")["previous_item_id"] == "b"
    add("b")
    assert desk.error()["code"] == "item_create_duplicate_item_id"
    add("d", previous_item_id="nowhere")
    assert desk.error()["param"] == "previous_item_id"
    desk.send("conversation.item.delete", item_id="b")
    add("b")
    assert desk.error()["code"] == "item_create_duplicate_item_id"
    desk.send("response.create")
    assert [entry.text for entry in desk.think[0].request.history if isinstance(entry, Message)] == ["a", "c"]


def test_a_verbatim_say_reads_nothing_and_keeps_its_metadata() -> None:
    """`input:[]` with instructions of its own gives the brain no history; metadata is echoed."""
    desk = Desk()
    desk.turn()
    desk.plan(Say("Hi."))
    desk.speak()
    params = {"input": [], "instructions": "Say <say>x</say>", "metadata": {"af_id": "1"}, "tool_choice": "none"}
    desk.send("response.create", response=params)
    request = desk.plan(Say("x"))
    assert request.history == []
    assert request.tool_choice == "none"
    desk.speak()
    assert desk.last("response.done")["response"]["metadata"] == {"af_id": "1"}


def test_a_text_response_has_text_events_only() -> None:
    """`output_modalities:["text"]` gives output_text and no audio."""
    desk = Desk()
    desk.send("response.create", response={"output_modalities": ["text"]})
    desk.plan(Say("Hello, you. Welcome."))
    assert desk.last("response.output_text.done")["text"] == "Hello, you. Welcome."
    deltas = [event["delta"] for event in desk.sent if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "Hello, you. Welcome."
    assert not [kind for kind in desk.types() if "output_audio" in kind]


def test_too_many_tokens_make_a_response_incomplete() -> None:
    """A token limit ends audio in the middle with the reason."""
    desk = Desk()
    desk.send("response.create", response={"max_output_tokens": 5})
    desk.plan(Say("Hello."))
    desk.speak(1000, done=False)
    details = desk.last("response.done")["response"]["status_details"]
    assert details == {"type": "incomplete", "reason": "max_output_tokens"}


def test_a_failing_server_fails_the_response_and_goes_on() -> None:
    """The failure ladder: error, response.done failed, then the next response succeeds."""
    desk = Desk(Behaviour(fail_responses=1))
    kinds = desk.send("response.create")
    assert kinds[-2:] == ["error", "response.done"]
    done = desk.last("response.done")["response"]
    assert done["status"] == "failed"
    assert done["status_details"]["error"]["code"] == "server_error"
    assert done["usage"]["total_tokens"] == 0
    desk.send("response.create")
    assert len(desk.think) == 1


def test_a_session_ends_after_an_hour() -> None:
    """At expiry the client gets session_expired and the legs are closed."""
    desk = Desk()
    desk.send("response.create")
    desk.take(desk.machine.due(("expire", "")))
    assert desk.types()[-2:] == ["response.done", "error"]
    assert desk.error()["code"] == "session_expired"
    assert desk.ended


def test_an_idle_caller_is_asked() -> None:
    """The idle timeout after the reply was played, an empty turn is committed and answered."""
    desk = Desk()
    detection = {"type": "server_vad", "idle_timeout_ms": 5000}
    desk.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}})
    desk.turn()
    desk.plan(Say("Hi."))
    desk.speak()
    assert desk.later[-1] == Later(5.4, ("idle", ""))
    desk.take(desk.machine.due(("idle", "")))
    assert desk.types()[-1] == "response.done"
    desk.time += 5.4
    desk.take(desk.machine.due(("idle", "")))
    assert "input_audio_buffer.timeout_triggered" in desk.types()
    assert desk.types()[-2] == "response.created"


def test_the_switches_change_order_and_add_what_nobody_knows() -> None:
    """Item-done order, place of rate limits, echoed model, duplicate and unknown events and fields."""
    desk = Desk(
        Behaviour(
            item_done_order="output_first",
            rate_limits="after_done",
            echo_model="something-else",
            unknown_fields=True,
            duplicate_events=frozenset({"response.done"}),
        )
    )
    assert desk.sent[0]["session"]["model"] == "something-else"
    desk.turn()
    desk.plan(Say("Hi."))
    desk.speak()
    assert desk.types()[-5:] == [
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
        "response.done",
        "rate_limits.updated",
    ]
    assert desk.last("conversation.item.done")["item"]["x_mood"] == "curious"
    assert desk.sent[-3]["event_id"] == desk.sent[-2]["event_id"]


def test_acknowledgements_go_to_all_legs_and_errors_to_their_sender() -> None:
    """session.created and errors are for one leg, everything else for all."""
    desk = Desk()
    desk.take(desk.machine.attach("two"))
    assert desk.to[-2:] == ["two", "two"]
    desk.take(desk.machine.receive("two", '{"type":"response.cancel"}'))
    assert desk.to[-1] == "two"
    desk.take(desk.machine.receive("two", '{"type":"input_audio_buffer.clear"}'))
    assert desk.to[-1] is None


# what must hold whatever happens ------------------------------------------------------------------------------------

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
    st.one_of(st.builds(Say, _TEXTS), st.builds(Call, st.just("f"), st.sampled_from(["{}", "", "{"]))), max_size=3
)
_HAPPENINGS = st.one_of(
    st.tuples(st.just("client"), _CLIENT),
    st.tuples(st.just("started"), st.none()),
    st.tuples(st.just("stopped"), st.none()),
    st.tuples(st.just("transcribed"), _TEXTS),
    st.tuples(st.just("planned"), _STEPS),
    st.tuples(st.just("voiced"), st.integers(1, 500)),
    st.tuples(st.just("voice_done"), st.none()),
    st.tuples(st.just("failed"), st.none()),
    st.tuples(st.just("play"), st.integers(20, 400)),
    st.tuples(st.just("due"), st.none()),
)


def _happen(desk: Desk, what: str, value: Any) -> None:
    machine = desk.machine
    match what:
        case "client":
            if isinstance(value.get("item_id"), int):
                ids = [e["item"]["id"] for e in desk.sent if e["type"] == "conversation.item.added"] or ["none"]
                value = {**value, "item_id": ids[value["item_id"] % len(ids)]}
            desk.take(machine.receive("one", json.dumps(value)))
        case "started":
            desk.take(machine.speech_started(machine.buffer.heard_ms))
        case "stopped":
            desk.take(machine.speech_stopped(machine.buffer.heard_ms, TURN))
        case "transcribed" if desk.transcribe:
            desk.take(machine.transcribed(desk.transcribe.popleft().item_id, value))
        case "planned" if desk.think:
            desk.take(machine.planned(desk.think.popleft().response_id, value))
        case "voiced" if desk.voice:
            wanted = desk.voice[0]
            audio = silence(value, 48_000)
            desk.take(machine.voiced(wanted.response_id, wanted.item_id, audio, value, clause=True))
        case "voice_done" if desk.voice:
            wanted = desk.voice.popleft()
            desk.take(machine.voice_done(wanted.response_id, wanted.item_id))
        case "failed" if desk.think:
            desk.take(machine.failed(desk.think.popleft().response_id, "broken"))
        case "play" if desk.playout is not None:
            desk.play(value)
        case "due" if desk.later:
            what_is = desk.later.pop().what
            if what_is[0] != "expire":
                desk.time += 1000
                desk.take(machine.due(what_is))


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.lists(_HAPPENINGS, max_size=60))
def test_every_response_ends_once_and_ids_are_used_once(webrtc: bool, happenings: list[tuple[str, Any]]) -> None:
    """Whatever clients send and engines do: no crash, valid events, one done for each created, ids unique."""
    desk = Desk(webrtc=webrtc)
    for what, value in happenings:
        _happen(desk, what, value)
    while desk.transcribe or desk.think or desk.voice:
        for what in ("transcribed", "planned", "voice_done"):
            _happen(desk, what, [Say("bye")] if what == "planned" else "words")
    created = [event["response"]["id"] for event in desk.sent if event["type"] == "response.created"]
    done = Counter(event["response"]["id"] for event in desk.sent if event["type"] == "response.done")
    assert done == Counter(created)
    assert len(set(created)) == len(created)
    added = Counter(event["item"]["id"] for event in desk.sent if event["type"] == "conversation.item.added")
    assert set(added.values()) <= {1}
    events = Counter(event["event_id"] for event in desk.sent)
    assert set(events.values()) <= {1}
    if desk.playout is not None:
        desk.play(60_000)
        played = Counter(e["response_id"] for e in desk.sent if e["type"] == "output_audio_buffer.started")
        over = Counter(e["response_id"] for e in desk.sent if e["type"] == "output_audio_buffer.stopped")
        cleared = {e["response_id"] for e in desk.sent if e["type"] == "output_audio_buffer.cleared"}
        assert set(played) - cleared <= set(over)
        assert desk.playout.buffered_bytes == 0
