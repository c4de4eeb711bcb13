"""Behaviour of the local server field by field, without sockets: event order, transcripts, failures, and the named variants."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_type_hints

import pytest

from agentfield_local.brain.protocol import CallFunction, Speak
from agentfield_local.faults.behaviour import Behaviour, DisconnectFaults, EventOrder, RefusalShape
from agentfield_local.faults.variants import BEHAVIOUR_VARIANTS, HARMLESS_VARIANTS
from agentfield_local.realtime.conversation.effects import ScheduleTimer
from support.audio import tone
from support.providers.local_server import ConversationDriver, b64

WITH_TEXTS = {"type": "realtime", "audio": {"input": {"transcription": {"model": "whisper-1"}}}}
COMPLETED = "conversation.item.input_audio_transcription.completed"
SETTINGS = [
    (group, field)
    for group, record in (
        ("", Behaviour),
        ("order", EventOrder),
        ("refuse", RefusalShape),
        ("disconnects", DisconnectFaults),
    )
    for field in dataclasses.fields(record)
    if field.name not in {"order", "refuse", "disconnects"}
]


def setting(behaviour: Behaviour, group: str, name: str) -> Any:
    return getattr(getattr(behaviour, group) if group else behaviour, name)


@pytest.mark.parametrize(("group", "field"), SETTINGS, ids=[f"{group}.{field.name}" for group, field in SETTINGS])
def test_every_value_of_every_setting_has_a_variant(group: str, field: dataclasses.Field[Any]) -> None:
    """Each field has a variant with a value that is not its default; each literal field has one for every value."""
    default = setting(Behaviour(), group, field.name)
    seen = {setting(behaviour, group, field.name) for behaviour in BEHAVIOUR_VARIANTS.values()}
    assert seen - {default}
    hints = get_type_hints(
        {"order": EventOrder, "refuse": RefusalShape, "disconnects": DisconnectFaults, "": Behaviour}[group]
    )
    values = {value for part in get_args(hints[field.name]) for value in (get_args(part) or (part,))}
    literals = {value for value in values if isinstance(value, str)}
    assert literals <= seen or field.name in {"at", "duplicate_events", "fail_error"}


def test_harmless_variants_inject_no_fault() -> None:
    """Harmless variants are a subset of all variants, and none of them disconnects, refuses or fails."""
    assert set(BEHAVIOUR_VARIANTS) > HARMLESS_VARIANTS
    for name in HARMLESS_VARIANTS:
        behaviour = BEHAVIOUR_VARIANTS[name]
        assert behaviour != Behaviour()
        assert (behaviour.refuse_calls, behaviour.fail_responses, behaviour.disconnects.drop_after) == (None, 0, None)


def spoken(behaviour: Behaviour) -> ConversationDriver:
    """Run a spoken turn with its reply."""
    driver = ConversationDriver(behaviour)
    driver.send("session.update", session=WITH_TEXTS)
    driver.turn("hello")
    driver.plan(Speak("Hi there."))
    driver.speak()
    return driver


@pytest.mark.parametrize(
    ("behaviour", "first", "second"),
    [
        (Behaviour(), "response.output_item.added", "conversation.item.added"),
        (
            *(Behaviour(order=EventOrder(item_added="conversation_first")),),
            *("conversation.item.added", "response.output_item.added"),
        ),
        (Behaviour(), "response.output_audio.done", "response.output_audio_transcript.done"),
        (
            *(Behaviour(order=EventOrder(audio_done="transcript_first")),),
            *("response.output_audio_transcript.done", "response.output_audio.done"),
        ),
        (Behaviour(), "response.output_audio_transcript.delta", "response.output_audio.delta"),
        (
            *(Behaviour(order=EventOrder(words="after_audio")),),
            *("response.output_audio.delta", "response.output_audio_transcript.delta"),
        ),
        (Behaviour(), "input_audio_buffer.committed", "conversation.item.done"),
        (
            *(Behaviour(order=EventOrder(committed="after_item")),),
            *("conversation.item.done", "input_audio_buffer.committed"),
        ),
        (Behaviour(), "response.created", COMPLETED),
        (Behaviour(), COMPLETED, "response.done"),
        (Behaviour(order=EventOrder(transcript="before_response")), COMPLETED, "response.created"),
        (Behaviour(order=EventOrder(transcript="after_response")), "response.done", COMPLETED),
    ],
)
def test_event_order_follows_the_behaviour(behaviour: Behaviour, first: str, second: str) -> None:
    """The events of a turn and its reply are sent in the configured order."""
    types = spoken(behaviour).types()
    if first == "conversation.item.added" or second == "conversation.item.added":
        types = types[types.index("response.created") :]
    assert types.index(first) < types.index(second)


def test_a_turn_without_a_response_still_gets_its_transcript() -> None:
    """With create_response off, no transcript waits for a response that is never created."""
    for order in ("before_response", "after_response"):
        driver = ConversationDriver(Behaviour(order=EventOrder(transcript=order)))
        detection = {"type": "server_vad", "create_response": False}
        audio = {"input": {"transcription": {"model": "whisper-1"}, "turn_detection": detection}}
        driver.send("session.update", session={"type": "realtime", "audio": audio})
        driver.turn("hello")
        assert driver.types()[-1] == COMPLETED
        assert "response.created" not in driver.types()


@pytest.mark.parametrize(("mode", "deltas"), [("one", ["hello you"]), ("words", ["hello ", "you"]), ("none", [])])
def test_transcript_deltas(mode: Any, deltas: list[str]) -> None:
    """A transcript is sent as one delta, as one delta a word, or without deltas."""
    driver = ConversationDriver(Behaviour(transcript_deltas=mode))
    driver.send("session.update", session=WITH_TEXTS)
    driver.turn("hello you")
    kind = "conversation.item.input_audio_transcription.delta"
    assert [event["delta"] for event in driver.sent if event["type"] == kind] == deltas
    assert driver.last(COMPLETED)["transcript"] == "hello you"


def test_the_configured_number_of_transcripts_fails() -> None:
    """The first transcript fails although the brain reads the words; the second one succeeds."""
    driver = ConversationDriver(Behaviour(fail_transcripts=1))
    driver.send("session.update", session=WITH_TEXTS)
    driver.turn("hello")
    assert "conversation.item.input_audio_transcription.failed" in driver.types()
    assert driver.plan(Speak("Hi.")).history[-1].text == "hello"  # type: ignore[union-attr]
    driver.speak()
    driver.turn("again")
    assert driver.last(COMPLETED)["transcript"] == "again"


def test_cleared_is_sent_before_or_after_response_done() -> None:
    """On barge-in, `output_audio_buffer.cleared` precedes `response.done`, or follows it if so configured."""
    for order, expected in (("before_done", ["cleared", "done"]), ("after_done", ["done", "cleared"])):
        driver = ConversationDriver(Behaviour(order=EventOrder(cleared=order)), webrtc=True)  # type: ignore[arg-type]
        driver.turn()
        driver.plan(Speak("One, two."))
        driver.speak(2000, done=False)
        driver.play(400)
        driver.take(driver.machine.speech_started(5000))
        kinds = {"output_audio_buffer.cleared", "response.done"}
        assert [kind.rpartition(".")[2] for kind in driver.types() if kind in kinds] == expected


@pytest.mark.parametrize("last", [False, True])
def test_a_response_fails_in_the_middle(last: bool) -> None:
    """A response that fails after its first audio has an incomplete item; the next response succeeds."""
    order = EventOrder(failure="after_done") if last else EventOrder()
    driver = ConversationDriver(
        Behaviour(fail_responses=1, fail_after_audio=True, fail_error=("quota", "gone"), order=order)
    )
    driver.turn()
    driver.plan(Speak("Hi there."))
    driver.speak(done=False)
    ends = [kind for kind in driver.types() if kind in {"error", "response.done"}]
    assert ends == (["response.done", "error"] if last else ["error", "response.done"])
    done = driver.last("response.done")["response"]
    assert (done["status"], done["status_details"]["error"]["code"]) == ("failed", "gone")
    assert done["output"][0]["status"] == "incomplete"
    assert driver.last("error")["error"]["type"] == "quota"
    driver.turn()
    driver.plan(CallFunction("find", "{}"))
    assert driver.last("response.done")["response"]["status"] == "completed"


def test_a_response_without_audio_fails_in_the_middle_too() -> None:
    """A response with function calls only fails instead of sending them."""
    driver = ConversationDriver(Behaviour(fail_responses=1, fail_after_audio=True))
    driver.turn()
    driver.plan(CallFunction("find", "{}"))
    assert driver.last("response.done")["response"]["status"] == "failed"
    assert "response.function_call_arguments.done" not in driver.types()


def test_a_function_call_cancelled_during_its_arguments_is_incomplete() -> None:
    """arguments.done carries the partial arguments, the item is incomplete, and the late timer has no effect."""
    driver = ConversationDriver(Behaviour(slow_arguments_ms=500))
    driver.turn()
    driver.plan(CallFunction("find", '{"order": 427}'))
    (timer,) = [wait for wait in driver.timers if wait.timer[0] == "arguments"]
    assert timer.seconds == 0.5
    driver.send("response.cancel")
    done = driver.last("response.function_call_arguments.done")
    assert done["arguments"] == '{"order'
    assert driver.last("response.output_item.done")["item"]["status"] == "incomplete"
    assert driver.types()[-1] == "response.done"
    driver.take(driver.machine.timer_fired(timer.timer))
    assert driver.types()[-1] == "response.done"


def test_slow_arguments_complete_when_the_timer_fires() -> None:
    """When the timer fires, the call completes and the response continues with its next item."""
    driver = ConversationDriver(Behaviour(slow_arguments_ms=500))
    driver.turn()
    driver.plan(CallFunction("find", '{"order": 427}'), CallFunction("find", "{}"))
    for _ in range(2):
        driver.take(
            driver.machine.timer_fired([wait for wait in driver.timers if wait.timer[0] == "arguments"][-1].timer)
        )
    output = driver.last("response.done")["response"]["output"]
    assert [(item["arguments"], item["status"]) for item in output] == [
        ('{"order": 427}', "completed"),
        ("{}", "completed"),
    ]


def test_the_token_limit_truncates_arguments() -> None:
    """The call and the response are incomplete, with the arguments that fit the limit."""
    driver = ConversationDriver()
    driver.send("response.create", response={"max_output_tokens": 3})
    driver.plan(CallFunction("find", '{"order": "a long value indeed"}'))
    done = driver.last("response.done")["response"]
    assert (done["status"], done["status_details"]["reason"]) == ("incomplete", "max_output_tokens")
    assert done["output"][0]["arguments"] == '{"order": "a'
    assert done["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize("position", ["items", "parts", "events"])
def test_the_phase_field_of_replies(position: Any) -> None:
    """The field is on items (also in `response.done`), on content parts, or on events."""
    driver = spoken(Behaviour(phase=position))
    found = {
        "items": "phase" in driver.last("response.done")["response"]["output"][0],
        "parts": "phase" in driver.last("response.content_part.done")["part"],
        "events": "phase" in driver.last("response.output_audio.delta"),
    }
    assert [name for name, present in found.items() if present] == [position]


@pytest.mark.parametrize("detail", ["whole", "brief", "never"])
def test_session_created_of_a_sideband(detail: Any) -> None:
    """A caller always gets the whole session; a sideband gets all of it, its identity, or no event."""
    driver = ConversationDriver(Behaviour(sideband_created=detail), webrtc=True)
    sent = [event["session"] for event in driver.sent if event["type"] == "session.created"]
    assert [("audio" in session) for session in sent] == {"whole": [True], "brief": [False], "never": []}[detail]
    driver.take(driver.machine.attach("caller"))
    assert "audio" in driver.last("session.created")["session"]


@pytest.mark.parametrize(
    ("audio_format", "width"), [({"type": "audio/pcm", "rate": 24_000}, 48), ({"type": "audio/pcmu"}, 8)]
)
def test_a_commit_needs_exactly_a_tenth_of_a_second(audio_format: dict[str, Any], width: int) -> None:
    """100 ms on the wire are enough although a resampler delays some of it; 99 ms are not."""
    for ms, accepted in ((100, True), (99, False)):
        driver = ConversationDriver()
        audio = {"input": {"turn_detection": None, "format": audio_format}}
        driver.send("session.update", session={"type": "realtime", "audio": audio})
        driver.resampler_bytes = 64  # two milliseconds inside a resampler
        driver.send("input_audio_buffer.append", audio=b64(b"\1" * (ms * width)))
        types = driver.send("input_audio_buffer.commit")
        assert ("input_audio_buffer.committed" in types) is accepted
        if not accepted:
            assert driver.error()["code"] == "input_audio_buffer_commit_empty"
            assert "only has 99.00ms" in driver.error()["message"]


def test_audio_in_a_created_user_item_is_transcribed() -> None:
    """An item with audio and no transcript is transcribed, and the brain reads its words."""
    driver = ConversationDriver()
    driver.send("session.update", session=WITH_TEXTS)
    content = [{"type": "input_audio", "audio": b64(tone(300, 24_000))}]
    driver.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
    driver.send("response.create")
    (job,) = driver.transcriptions
    assert len(job.pcm) == 300 * 32
    assert not driver.brain_queries
    driver.take(driver.machine.transcribed(job.item_id, "where is it"))
    assert driver.plan(Speak("Here.")).history[-1].text == "where is it"  # type: ignore[union-attr]
    assert driver.last(COMPLETED)["transcript"] == "where is it"
    bad = [{"type": "input_audio", "audio": "?"}]
    driver.send("conversation.item.create", item={"type": "message", "role": "user", "content": bad})
    assert driver.error()["param"] == "item.content[0].audio"


def test_a_transcription_session_creates_no_responses() -> None:
    """Turns and transcripts, no responses; conversation events and the conversation session type are refused."""
    driver = ConversationDriver(transcription=True)
    assert driver.types() == ["session.created"]
    assert driver.sent[0]["session"]["object"] == "realtime.transcription_session"
    session = {"type": "transcription", "audio": {"input": {"transcription": {"model": "whisper-1", "language": "en"}}}}
    assert driver.send("session.update", session=session) == ["session.updated"]
    driver.turn("hello")
    assert driver.types()[-1] == COMPLETED
    assert not driver.brain_queries
    for kind in ("response.create", "output_audio_buffer.clear"):
        driver.send(kind)
        assert (driver.error()["code"], driver.error()["param"]) == ("invalid_value", "type")
    driver.send("session.update", session={"type": "realtime"})
    assert (driver.error()["code"], driver.error()["param"]) == ("invalid_parameter", "session.type")
    driver.send("session.update", session={"type": "transcription", "instructions": "Be kind."})
    assert (driver.error()["code"], driver.error()["param"]) == ("unknown_parameter", "session.instructions")
    conversation = ConversationDriver()
    conversation.send("session.update", session={"type": "transcription"})
    assert conversation.error()["code"] == "invalid_parameter"


def test_the_default_silence_is_configurable() -> None:
    """A session that names no silence duration gets the configured one."""
    driver = ConversationDriver(Behaviour(default_silence_ms=200))
    assert driver.sent[0]["session"]["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 200
    detection = {"type": "server_vad", "threshold": 0.4}
    driver.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}})
    assert driver.last("session.updated")["session"]["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 200


def test_refusals_list_the_supported_values() -> None:
    """An invalid literal lists the supported values; in a transcription session, a model without turn detection says so."""
    driver = ConversationDriver(transcription=True)
    for audio, message in (
        ({"noise_reduction": {"type": "x"}}, "Invalid value: 'x'. Supported values are: 'near_field' and 'far_field'."),
        (
            {"turn_detection": {"type": "semantic_vad", "eagerness": "x"}},
            "Invalid value: 'x'. Supported values are: 'low', 'medium', 'high', and 'auto'.",
        ),
        (
            {"transcription": {"model": "gpt-realtime-whisper"}},
            "Turn detection is not supported with 'gpt-realtime-whisper'; set 'turn_detection' to null.",
        ),
    ):
        driver.send("session.update", session={"type": "transcription", "audio": {"input": audio}})
        assert (driver.error()["code"], driver.error()["message"]) == ("invalid_value", message)


def test_a_session_expires_after_the_configured_time() -> None:
    """The expiry is announced at the start; at that time the session ends with its error code."""
    driver = ConversationDriver(Behaviour(session_seconds=90))
    assert driver.sent[0]["session"]["expires_at"] == 1_800_000_090
    assert ScheduleTimer(90, ("expire", "")) in driver.timers
    driver.take(driver.machine.timer_fired(("expire", "")))
    assert driver.error()["code"] == "session_expired"
    assert driver.error()["message"] == "Your session hit the maximum duration of 1.5 minutes."
    assert driver.ended
