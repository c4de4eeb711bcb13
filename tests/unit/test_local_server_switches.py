"""The switches of the local server one by one, without sockets: orders, transcripts, failures, and their register."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_type_hints

import pytest

from agentfield_local.behaviour import Behaviour, Breaks, Order, Refuse
from agentfield_local.brain.protocol import Call, Say
from agentfield_local.positions import BEHAVIOURS, HARMLESS
from agentfield_local.realtime.effects import Later
from local_server_kit import Desk, b64, tone

WITH_TEXTS = {"type": "realtime", "audio": {"input": {"transcription": {"model": "whisper-1"}}}}
COMPLETED = "conversation.item.input_audio_transcription.completed"
SWITCHES = [
    (group, field)
    for group, record in (("", Behaviour), ("order", Order), ("refuse", Refuse), ("breaks", Breaks))
    for field in dataclasses.fields(record)
    if field.name not in {"order", "refuse", "breaks"}
]


def position(behaviour: Behaviour, group: str, name: str) -> Any:
    return getattr(getattr(behaviour, group) if group else behaviour, name)


@pytest.mark.parametrize(("group", "field"), SWITCHES, ids=[f"{group}.{field.name}" for group, field in SWITCHES])
def test_every_switch_is_in_the_register_in_every_position(group: str, field: dataclasses.Field[Any]) -> None:
    """Each field has another value than its default somewhere, each literal every one of its values."""
    usual = position(Behaviour(), group, field.name)
    seen = {position(behaviour, group, field.name) for behaviour in BEHAVIOURS.values()}
    assert seen - {usual}
    hints = get_type_hints({"order": Order, "refuse": Refuse, "breaks": Breaks, "": Behaviour}[group])
    values = {value for part in get_args(hints[field.name]) for value in (get_args(part) or (part,))}
    literals = {value for value in values if isinstance(value, str)}
    assert literals <= seen or field.name in {"at", "duplicate_events", "fail_error"}


def test_the_register_tells_harm_from_none() -> None:
    """Names of harmless positions are names of the register, and nothing in them breaks, refuses or fails."""
    assert set(BEHAVIOURS) > HARMLESS
    for name in HARMLESS:
        behaviour = BEHAVIOURS[name]
        assert behaviour != Behaviour()
        assert (behaviour.refuse_calls, behaviour.fail_responses, behaviour.breaks.drop_after) == (None, 0, None)


def spoken(behaviour: Behaviour) -> Desk:
    """A whole spoken turn with its reply."""
    desk = Desk(behaviour)
    desk.send("session.update", session=WITH_TEXTS)
    desk.turn("hello")
    desk.plan(Say("Hi there."))
    desk.speak()
    return desk


@pytest.mark.parametrize(
    ("behaviour", "first", "second"),
    [
        (Behaviour(), "response.output_item.added", "conversation.item.added"),
        (
            *(Behaviour(order=Order(item_added="conversation_first")),),
            *("conversation.item.added", "response.output_item.added"),
        ),
        (Behaviour(), "response.output_audio.done", "response.output_audio_transcript.done"),
        (
            *(Behaviour(order=Order(audio_done="transcript_first")),),
            *("response.output_audio_transcript.done", "response.output_audio.done"),
        ),
        (Behaviour(), "response.output_audio_transcript.delta", "response.output_audio.delta"),
        (
            *(Behaviour(order=Order(words="after_audio")),),
            *("response.output_audio.delta", "response.output_audio_transcript.delta"),
        ),
        (Behaviour(), "input_audio_buffer.committed", "conversation.item.done"),
        (
            *(Behaviour(order=Order(committed="after_item")),),
            *("conversation.item.done", "input_audio_buffer.committed"),
        ),
        (Behaviour(), "response.created", COMPLETED),
        (Behaviour(), COMPLETED, "response.done"),
        (Behaviour(order=Order(transcript="before_response")), COMPLETED, "response.created"),
        (Behaviour(order=Order(transcript="after_response")), "response.done", COMPLETED),
    ],
)
def test_orders(behaviour: Behaviour, first: str, second: str) -> None:
    """The events of a turn and its reply come in the order that the switch says."""
    types = spoken(behaviour).types()
    if first == "conversation.item.added" or second == "conversation.item.added":
        types = types[types.index("response.created") :]
    assert types.index(first) < types.index(second)


def test_a_turn_without_a_response_has_its_transcript_all_the_same() -> None:
    """Where the client answers by itself, no transcript waits for a response that never comes."""
    for place in ("before_response", "after_response"):
        desk = Desk(Behaviour(order=Order(transcript=place)))
        detection = {"type": "server_vad", "create_response": False}
        audio = {"input": {"transcription": {"model": "whisper-1"}, "turn_detection": detection}}
        desk.send("session.update", session={"type": "realtime", "audio": audio})
        desk.turn("hello")
        assert desk.types()[-1] == COMPLETED
        assert "response.created" not in desk.types()


@pytest.mark.parametrize(("how", "deltas"), [("one", ["hello you"]), ("words", ["hello ", "you"]), ("none", [])])
def test_transcripts_come_in_pieces(how: Any, deltas: list[str]) -> None:
    """One delta, one a word, or only the whole."""
    desk = Desk(Behaviour(transcript_deltas=how))
    desk.send("session.update", session=WITH_TEXTS)
    desk.turn("hello you")
    kind = "conversation.item.input_audio_transcription.delta"
    assert [event["delta"] for event in desk.sent if event["type"] == kind] == deltas
    assert desk.last(COMPLETED)["transcript"] == "hello you"


def test_transcripts_fail_as_often_as_the_switch_says() -> None:
    """The first transcript fails, the brain hears the words all the same; the second succeeds."""
    desk = Desk(Behaviour(fail_transcripts=1))
    desk.send("session.update", session=WITH_TEXTS)
    desk.turn("hello")
    assert "conversation.item.input_audio_transcription.failed" in desk.types()
    assert desk.plan(Say("Hi.")).history[-1].text == "hello"  # type: ignore[union-attr]
    desk.speak()
    desk.turn("again")
    assert desk.last(COMPLETED)["transcript"] == "again"


def test_what_is_cut_is_told_before_or_after_the_end_of_its_response() -> None:
    """On barge-in `output_audio_buffer.cleared` precedes `response.done`, or follows it by the switch."""
    for place, wanted in (("before_done", ["cleared", "done"]), ("after_done", ["done", "cleared"])):
        desk = Desk(Behaviour(order=Order(cleared=place)), webrtc=True)  # type: ignore[arg-type]
        desk.turn()
        desk.plan(Say("One, two."))
        desk.speak(2000, done=False)
        desk.play(400)
        desk.take(desk.machine.speech_started(5000))
        kinds = {"output_audio_buffer.cleared", "response.done"}
        assert [kind.rpartition(".")[2] for kind in desk.types() if kind in kinds] == wanted


@pytest.mark.parametrize("last", [False, True])
def test_a_response_fails_in_the_middle(last: bool) -> None:
    """After its first audio: the item is incomplete, the error comes before or after `response.done`; then all is well."""
    order = Order(failure="after_done") if last else Order()
    desk = Desk(Behaviour(fail_responses=1, fail_after_audio=True, fail_error=("quota", "gone"), order=order))
    desk.turn()
    desk.plan(Say("Hi there."))
    desk.speak(done=False)
    ends = [kind for kind in desk.types() if kind in {"error", "response.done"}]
    assert ends == (["response.done", "error"] if last else ["error", "response.done"])
    done = desk.last("response.done")["response"]
    assert (done["status"], done["status_details"]["error"]["code"]) == ("failed", "gone")
    assert done["output"][0]["status"] == "incomplete"
    assert desk.last("error")["error"]["type"] == "quota"
    desk.turn()
    desk.plan(Call("find", "{}"))
    assert desk.last("response.done")["response"]["status"] == "completed"


def test_a_response_without_audio_fails_in_the_middle_too() -> None:
    """A response of calls alone fails instead of them."""
    desk = Desk(Behaviour(fail_responses=1, fail_after_audio=True))
    desk.turn()
    desk.plan(Call("find", "{}"))
    assert desk.last("response.done")["response"]["status"] == "failed"
    assert "response.function_call_arguments.done" not in desk.types()


def test_a_call_that_is_cancelled_in_its_arguments_is_incomplete() -> None:
    """Its arguments are told as done, cut, and the item says that it is incomplete; a late rest changes nothing."""
    desk = Desk(Behaviour(slow_arguments_ms=500))
    desk.turn()
    desk.plan(Call("find", '{"order": 427}'))
    (later,) = [wait for wait in desk.later if wait.what[0] == "arguments"]
    assert later.seconds == 0.5
    desk.send("response.cancel")
    done = desk.last("response.function_call_arguments.done")
    assert done["arguments"] == '{"order'
    assert desk.last("response.output_item.done")["item"]["status"] == "incomplete"
    assert desk.types()[-1] == "response.done"
    desk.take(desk.machine.due(later.what))
    assert desk.types()[-1] == "response.done"


def test_slow_arguments_come_to_their_end() -> None:
    """When they are due the call is complete and the response goes on to its next item."""
    desk = Desk(Behaviour(slow_arguments_ms=500))
    desk.turn()
    desk.plan(Call("find", '{"order": 427}'), Call("find", "{}"))
    for _ in range(2):
        desk.take(desk.machine.due([wait for wait in desk.later if wait.what[0] == "arguments"][-1].what))
    output = desk.last("response.done")["response"]["output"]
    assert [(item["arguments"], item["status"]) for item in output] == [
        ('{"order": 427}', "completed"),
        ("{}", "completed"),
    ]


def test_too_many_tokens_cut_a_calls_arguments() -> None:
    """The call and the response are incomplete, the arguments are what fitted."""
    desk = Desk()
    desk.send("response.create", response={"max_output_tokens": 3})
    desk.plan(Call("find", '{"order": "a long value indeed"}'))
    done = desk.last("response.done")["response"]
    assert (done["status"], done["status_details"]["reason"]) == ("incomplete", "max_output_tokens")
    assert done["output"][0]["arguments"] == '{"order": "a'
    assert done["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize("place", ["items", "parts", "events"])
def test_replies_may_say_their_phase(place: Any) -> None:
    """The unknown field is on items (those of `response.done` too), on content parts, or on events."""
    desk = spoken(Behaviour(phase=place))
    found = {
        "items": "phase" in desk.last("response.done")["response"]["output"][0],
        "parts": "phase" in desk.last("response.content_part.done")["part"],
        "events": "phase" in desk.last("response.output_audio.delta"),
    }
    assert [name for name, there in found.items() if there] == [place]


@pytest.mark.parametrize("told", ["whole", "brief", "never"])
def test_a_sideband_is_told_as_much_of_the_session_as_the_switch_says(told: Any) -> None:
    """The caller always learns the whole session; a sideband all of it, its identity, or nothing."""
    desk = Desk(Behaviour(sideband_created=told), webrtc=True)
    sent = [event["session"] for event in desk.sent if event["type"] == "session.created"]
    assert [("audio" in session) for session in sent] == {"whole": [True], "brief": [False], "never": []}[told]
    desk.take(desk.machine.attach("caller"))
    assert "audio" in desk.last("session.created")["session"]


@pytest.mark.parametrize(
    ("audio_format", "width"), [({"type": "audio/pcm", "rate": 24_000}, 48), ({"type": "audio/pcmu"}, 8)]
)
def test_a_commit_needs_exactly_a_tenth_of_a_second(audio_format: dict[str, Any], width: int) -> None:
    """100 ms on the wire are enough although a resampler keeps some of it inside, 99 ms are not."""
    for ms, accepted in ((100, True), (99, False)):
        desk = Desk()
        audio = {"input": {"turn_detection": None, "format": audio_format}}
        desk.send("session.update", session={"type": "realtime", "audio": audio})
        desk.swallow = 64  # what a resampler keeps: two milliseconds
        desk.send("input_audio_buffer.append", audio=b64(b"\1" * (ms * width)))
        types = desk.send("input_audio_buffer.commit")
        assert ("input_audio_buffer.committed" in types) is accepted
        if not accepted:
            assert desk.error()["code"] == "input_audio_buffer_commit_empty"
            assert "only has 99.00ms" in desk.error()["message"]


def test_audio_in_an_item_of_the_caller_is_listened_to() -> None:
    """An item with audio and no transcript is transcribed, and the brain reads its words."""
    desk = Desk()
    desk.send("session.update", session=WITH_TEXTS)
    content = [{"type": "input_audio", "audio": b64(tone(300, 24_000))}]
    desk.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
    desk.send("response.create")
    (wanted,) = desk.transcribe
    assert len(wanted.pcm) == 300 * 32
    assert not desk.think
    desk.take(desk.machine.transcribed(wanted.item_id, "where is it"))
    assert desk.plan(Say("Here.")).history[-1].text == "where is it"  # type: ignore[union-attr]
    assert desk.last(COMPLETED)["transcript"] == "where is it"
    bad = [{"type": "input_audio", "audio": "?"}]
    desk.send("conversation.item.create", item={"type": "message", "role": "user", "content": bad})
    assert desk.error()["param"] == "item.content[0].audio"


def test_a_session_that_transcribes_answers_nothing() -> None:
    """Turns and their words, no response; what belongs to a conversation is refused, its session type too."""
    desk = Desk(transcription=True)
    assert desk.types() == ["session.created"]
    assert desk.sent[0]["session"]["object"] == "realtime.transcription_session"
    session = {"type": "transcription", "audio": {"input": {"transcription": {"model": "whisper-1", "language": "en"}}}}
    assert desk.send("session.update", session=session) == ["session.updated"]
    desk.turn("hello")
    assert desk.types()[-1] == COMPLETED
    assert not desk.think
    for kind in ("response.create", "output_audio_buffer.clear"):
        desk.send(kind)
        assert (desk.error()["code"], desk.error()["param"]) == ("invalid_value", "type")
    desk.send("session.update", session={"type": "realtime"})
    assert (desk.error()["code"], desk.error()["param"]) == ("invalid_parameter", "session.type")
    desk.send("session.update", session={"type": "transcription", "instructions": "Be kind."})
    assert (desk.error()["code"], desk.error()["param"]) == ("unknown_parameter", "session.instructions")
    ordinary = Desk()
    ordinary.send("session.update", session={"type": "transcription"})
    assert ordinary.error()["code"] == "invalid_parameter"


def test_the_default_silence_is_a_switch() -> None:
    """A session that names none has it; semantic detection has none."""
    desk = Desk(Behaviour(default_silence_ms=200))
    assert desk.sent[0]["session"]["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 200
    detection = {"type": "server_vad", "threshold": 0.4}
    desk.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}})
    assert desk.last("session.updated")["session"]["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 200


def test_refusals_name_the_values_as_the_protocol_does() -> None:
    """A wrong literal lists the supported values; a transcription model without turn detection says so."""
    desk = Desk()
    for audio, words in (
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
        desk.send("session.update", session={"type": "realtime", "audio": {"input": audio}})
        assert (desk.error()["code"], desk.error()["message"]) == ("invalid_value", words)


def test_a_session_lives_as_long_as_the_switch_says() -> None:
    """Expiry is announced from the start and comes with its code."""
    desk = Desk(Behaviour(session_seconds=90))
    assert desk.sent[0]["session"]["expires_at"] == 1_800_000_090
    assert Later(90, ("expire", "")) in desk.later
    desk.take(desk.machine.due(("expire", "")))
    assert desk.error()["code"] == "session_expired"
    assert desk.error()["message"] == "Your session hit the maximum duration of 1.5 minutes."
    assert desk.ended
