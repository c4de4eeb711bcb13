"""The protocol without I/O: what each message of the server means, and what each command becomes."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfield.errors import CapabilityMissing
from agentfield.realtime.commands import (
    AddTextCommand,
    AppendAudioCommand,
    BeginTurnCommand,
    CancelReplyCommand,
    Command,
    CommitTurnCommand,
    EndCommand,
    ReplyCommand,
    SayCommand,
    ToolResultCommand,
    UpdateCommand,
)
from agentfield.realtime.config import ServerVad, SessionConfig, SessionDeclaration, ToolSpec, TurnDetection
from agentfield.realtime.events import (
    Event,
    Interrupted,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    ReplyTranscript,
    SessionExpiring,
    SessionReady,
    SessionResumable,
    ToolCancelled,
    ToolRequested,
    TurnTranscript,
    TurnUnanswered,
    UsageReported,
)
from agentfield_gemini.options import GeminiOptions
from agentfield_gemini.protocol import LiveProtocol
from agentfield_gemini.testing.validation import check_client_message, check_server_message

LOOK_UP = ToolSpec(
    target="shop.look_up",
    description="Look up an order.",
    parameters={"type": "object", "properties": {"number": {"type": "string"}}, "required": ["number"]},
)
VAD = ServerVad()
SECOND = ToolSpec(target="shop.cancel", parameters={"type": "object", "properties": {}})


def protocol(
    *tools: ToolSpec,
    detection: TurnDetection | None = VAD,
    options: dict[str, Any] | None = None,
    **declared: Any,
) -> LiveProtocol:
    declaration = SessionDeclaration(
        name="voice", provider="gemini", transport="websocket", floor="model", modalities=("audio",), **declared
    )
    config = SessionConfig(
        session_id="ses_1",
        target="shop.voice",
        declaration=declaration,
        model="gemini-3.8-live",
        voice="Kore",
        transcription=None,
        turn_detection=detection,
        tools=tools,
    )
    return LiveProtocol(config, GeminiOptions.model_validate(options or {}), lambda: 1000.0, lambda text: text)


def told(live: LiveProtocol, **message: Any) -> list[Event]:
    """Receive a message that the service could send."""
    check_server_message(message)
    return live.receive(json.dumps(message))


def heard(live: LiveProtocol, text: str, **more: Any) -> list[Event]:
    return told(live, serverContent={"inputTranscription": {"text": text, **more}})


def spoken(live: LiveProtocol, words: str = "", samples: int = 240) -> list[Event]:
    blob = {"mimeType": "audio/pcm;rate=24000", "data": base64.b64encode(bytes(samples * 2)).decode()}
    content: dict[str, Any] = {"modelTurn": {"parts": [{"inlineData": blob}]}}
    if words:
        content["outputTranscription"] = {"text": words}
    return told(live, serverContent=content)


def called(live: LiveProtocol, *ids: str, name: str = "shop__look_up") -> list[Event]:
    calls = [{"id": each, "name": name, "args": {"number": "7"}} for each in ids]
    return told(live, toolCall={"functionCalls": calls})


def complete(live: LiveProtocol, **more: Any) -> list[Event]:
    return told(live, serverContent={"turnComplete": True}, **more)


def sent(live: LiveProtocol, command: Command) -> list[Any]:
    """Send a command; each message must be one that the service knows."""
    messages, _ = live.send(command)
    for message in messages:
        check_client_message(message)
    return list(messages)


def kinds(events: list[Event]) -> list[str]:
    return [event.type for event in events]


# --- setup


def test_the_setup_has_what_is_declared():
    """Model, voice, instructions, tools and turn detection are in the first message, which the service knows."""
    setup = protocol(LOOK_UP, SECOND, instructions="You help.", interrupt_after_ms=200).start()["setup"]
    check_client_message({"setup": setup})
    assert setup["model"] == "models/gemini-3.8-live"
    assert setup["generationConfig"] == {
        "responseModalities": ["AUDIO"],
        "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}},
    }
    assert setup["systemInstruction"] == {"parts": [{"text": "You help."}]}
    assert setup["realtimeInputConfig"] == {
        "automaticActivityDetection": {"silenceDurationMs": 500, "prefixPaddingMs": 200}
    }
    assert setup["tools"][0]["functionDeclarations"] == [
        {
            "name": "shop__look_up",
            "behavior": "BLOCKING",
            "description": "Look up an order.",
            "parameters": {"type": "OBJECT", "properties": {"number": {"type": "STRING"}}, "required": ["number"]},
        },
        {"name": "shop__cancel", "behavior": "BLOCKING"},
    ]
    assert setup["sessionResumption"] == {}


def test_options_and_the_handle_are_in_the_setup():
    """The options of a session and the handle of a conversation are in the first message."""
    options = {"temperature": 0.5, "languages": ("de-DE",), "end_of_speech": "low"}
    setup = protocol(detection=ServerVad(silence_duration_ms=900), options=options).start("handle-1")["setup"]
    check_client_message({"setup": setup})
    assert setup["generationConfig"]["temperature"] == 0.5
    assert setup["inputAudioTranscription"] == {"languageCodes": ["de-DE"]}
    detection = setup["realtimeInputConfig"]["automaticActivityDetection"]
    assert detection == {"silenceDurationMs": 900, "endOfSpeechSensitivity": "END_SENSITIVITY_LOW"}
    assert setup["sessionResumption"] == {"handle": "handle-1"}


def test_the_session_is_ready_once():
    """`setupComplete` is the start of the session; a repetition means nothing."""
    live = protocol()
    assert told(live, setupComplete={}) == [SessionReady()]
    assert told(live, setupComplete={}) == []


# --- the caller's turns and the answers


def test_a_turn_without_voice_activity():
    """Where the service reports no voice activity, a turn begins with its first words and ends with the model's answer."""
    live = protocol()
    assert kinds(heard(live, "where is")) == ["turn.started", "turn.transcript"]
    assert kinds(heard(live, " my order")) == ["turn.transcript"]
    assert kinds(spoken(live, "It is")) == [
        "turn.stopped",
        "turn.committed",
        "reply.started",
        "reply.audio",
        "reply.transcript",
    ]
    *_, ended, transcript = [*spoken(live, " here."), *told(live, serverContent={"generationComplete": True})]
    assert isinstance(ended, ReplyEnded)
    assert (ended.status, ended.text, ended.audio_ms, ended.command) == ("completed", "It is here.", 20, None)
    assert isinstance(transcript, TurnTranscript)
    assert (transcript.text, transcript.final, transcript.failed) == ("where is my order", True, None)
    assert complete(live) == []


def test_a_turn_with_voice_activity():
    """Where the service reports voice activity, it gives the begin and the end of a turn, with their times."""
    live = protocol()
    (started,) = told(live, voiceActivity={"type": "ACTIVITY_START", "audioOffset": "1.5s"})
    stopped, committed = told(live, voiceActivity={"type": "ACTIVITY_END", "audioOffset": "2.25s"})
    assert (started.at_ms, stopped.at_ms) == (1500, 2250)
    (transcript,) = heard(live, "where is my order", finished=True)
    assert transcript == TurnTranscript(item=started.item, text="where is my order")
    assert {started.item, stopped.item, committed.item} == {started.item}
    assert kinds(spoken(live)) == ["reply.started", "reply.audio"]


def test_words_may_come_after_the_answer_began():
    """The transcript is independent of the answer: late words belong to the turn that is answered."""
    live = protocol()
    told(live, voiceActivity={"type": "ACTIVITY_START"})
    told(live, voiceActivity={"type": "ACTIVITY_END"})
    spoken(live)
    assert kinds(heard(live, "late")) == ["turn.transcript"]
    *_, last = told(live, serverContent={"generationComplete": True})
    assert (last.text, last.final) == ("late", True)


def test_a_turn_without_words_has_a_reason():
    """A turn that was not transcribed says why."""
    live = protocol()
    told(live, voiceActivity={"type": "ACTIVITY_START"})
    told(live, voiceActivity={"type": "ACTIVITY_END"})
    spoken(live)
    *_, last = told(live, serverContent={"generationComplete": True})
    assert last.failed
    assert last.text == ""


def test_turns_follow_each_other():
    """The second turn names the first as the one before it."""
    live = protocol()
    first = heard(live, "one")[0].item
    spoken(live)
    complete(live)
    heard(live, "two")
    committed = next(event for event in spoken(live) if event.type == "turn.committed")
    assert committed.previous == first


def test_the_model_chooses_silence():
    """A turn that the model does not answer is committed and reported as unanswered, once."""
    live = protocol()
    item = heard(live, "one moment")[0].item
    events = complete(live)
    assert kinds(events) == ["turn.stopped", "turn.committed", "turn.transcript", "turn.unanswered"]
    assert events[-1] == TurnUnanswered(item=item)
    assert complete(live) == []


def test_a_turn_is_refused():
    """A turn that the service refuses to answer is unanswered, with a warning that names the reason."""
    live = protocol()
    item = heard(live, "how do I")[0].item
    events = told(live, serverContent={"turnComplete": True, "turnCompleteReason": "PROHIBITED_INPUT_CONTENT"})
    assert kinds(events)[-2:] == ["warning", "turn.unanswered"]
    assert events[-2].code == "prohibited_input_content"
    assert events[-1].item == item


def test_a_reply_is_broken_off():
    """A reply that the service breaks off has failed, with its reason."""
    live = protocol()
    spoken(live, "You")
    *_, ended = told(live, serverContent={"turnComplete": True, "turnCompleteReason": "GENERATED_AUDIO_SAFETY"})
    assert (ended.status, ended.why) == ("failed", "generated_audio_safety")


def test_a_say_without_a_reply_is_a_fault():
    """A say that gets no reply is reported under its id, and the next reply is not taken for it."""
    live = protocol()
    sent(live, SayCommand(id="say_1", text="Hello."))
    (fault,) = complete(live)
    assert (fault.type, fault.command, fault.code) == ("error", "say_1", "no_answer")
    assert spoken(live)[0].command is None


def test_a_model_that_thinks_is_not_silent():
    """A turn of the protocol that ends while the model goes on in the background is not an answer, and no silence."""
    live = protocol()
    told(live, voiceActivity={"type": "ACTIVITY_START"})
    told(live, voiceActivity={"type": "ACTIVITY_END"})
    heard(live, "plan my trip")
    events = told(live, serverContent={"turnComplete": True, "interactionStatus": "IN_PROGRESS"})
    assert kinds(events) == ["turn.transcript"]
    assert kinds(spoken(live)) == ["reply.started", "reply.audio"]
    complete(live)
    heard(live, "thanks")
    assert kinds(told(live, serverContent={"turnComplete": True, "interactionStatus": "IDLE"}))[-1] == "turn.unanswered"


def test_late_content_is_dropped():
    """What comes between the end of a generation and the end of the turn belongs to no reply."""
    live = protocol()
    spoken(live, "Hello.")
    told(live, serverContent={"generationComplete": True})
    assert spoken(live, "?") == []
    complete(live)
    assert kinds(spoken(live)) == ["reply.started", "reply.audio"]


def test_thoughts_are_not_spoken():
    """Thoughts of the model are not part of a reply."""
    live = protocol()
    assert told(live, serverContent={"modelTurn": {"parts": [{"text": "Hm.", "thought": True}]}}) == []


# --- interruptions


def test_the_caller_interrupts():
    """An interruption is the caller's speech: a turn begins, the reply is interrupted and ends."""
    live = protocol()
    reply = spoken(live, "Every order")[0].reply
    events = told(live, serverContent={"interrupted": True})
    assert kinds(events) == ["turn.started", "interrupted", "reply.transcript", "reply.ended"]
    assert events[1] == Interrupted(reply=reply, method="provider")
    assert (events[-1].status, events[-1].why, events[-1].text) == ("cancelled", "interrupted", "Every order")
    assert kinds(complete(live)) == []
    assert kinds(heard(live, "stop")) == ["turn.transcript"]
    assert "reply.started" in kinds(spoken(live))


def test_a_reply_is_interrupted_after_its_generation():
    """A reply that is generated and still played can be interrupted; one whose turn is over cannot."""
    live = protocol()
    reply = spoken(live)[0].reply
    told(live, serverContent={"generationComplete": True})
    events = told(live, serverContent={"interrupted": True})
    assert kinds(events) == ["turn.started", "interrupted"]
    assert events[1].reply == reply
    complete(live)
    assert told(live, serverContent={"interrupted": True}) == []


def test_our_own_message_interrupts():
    """A say, or a text, that stops the model is not an interruption by the caller."""
    live = protocol()
    spoken(live, "Every")
    sent(live, SayCommand(id="say_1", text="Stop."))
    events = told(live, serverContent={"interrupted": True})
    assert kinds(events) == ["reply.transcript", "reply.ended"]
    assert events[-1].why == "asked"
    complete(live)
    assert spoken(live)[0].command == "say_1"
    sent(live, AddTextCommand(item="item_1", text="Note"))
    assert kinds(told(live, serverContent={"interrupted": True})) == ["reply.ended"]


def test_a_reply_is_cancelled():
    """A cancelled reply ends at once, and what still comes of it is dropped; no message is sent."""
    live = protocol()
    reply = spoken(live, "Every")[0].reply
    messages, events = live.send(CancelReplyCommand(reply=reply, heard_ms=5))
    assert messages == []
    assert kinds(events) == ["reply.transcript", "reply.ended"]
    assert (events[-1].status, events[-1].why) == ("cancelled", "asked")
    assert spoken(live, " order") == []
    assert told(live, serverContent={"generationComplete": True}) == []
    assert complete(live) == []
    assert live.send(CancelReplyCommand(reply=reply))[1] == []


# --- tools


def test_a_tool_is_called():
    """A call has the name of its target; its reply ends with it, and what the model says after the result is another."""
    live = protocol(LOOK_UP)
    heard(live, "where is my order")
    first = spoken(live, "Let me see.")[2].reply
    requested, _, ended, *_ = called(live, "call_1")
    assert requested == ToolRequested(call_id="call_1", name="shop.look_up", arguments='{"number": "7"}', reply=first)
    assert (ended.reply, ended.tools, ended.text) == (first, 1, "Let me see.")
    (message,) = sent(live, ToolResultCommand(call_id="call_1", output='{"found": "né"}'))
    assert message["toolResponse"]["functionResponses"] == [
        {"id": "call_1", "name": "shop__look_up", "response": {"found": "né"}}
    ]
    started = spoken(live)[0]
    assert isinstance(started, ReplyStarted)
    assert (started.reply != first, started.command) == (True, None)


def test_parallel_calls_are_one_reply():
    """Calls of one message belong to one reply; an unknown function keeps its name."""
    live = protocol(LOOK_UP)
    events = called(live, "call_1", "call_2", name="unknown")
    assert kinds(events) == ["reply.started", "tool.requested", "tool.requested", "reply.ended"]
    assert [each.name for each in events if isinstance(each, ToolRequested)] == ["unknown", "unknown"]
    assert events[-1].tools == 2
    assert called(live, "call_1") == []
    assert complete(live) == [], "the model waits for results; it did not choose silence"


@pytest.mark.parametrize(
    ("output", "response"), [("7", {"output": 7}), ("null", {"output": None}), ("oops", {"output": "oops"})]
)
def test_results_that_are_no_object(output: str, response: dict[str, Any]):
    """A result that is no JSON object is sent in one."""
    live = protocol(LOOK_UP)
    called(live, "call_1")
    (message,) = sent(live, ToolResultCommand(call_id="call_1", output=output))
    assert message["toolResponse"]["functionResponses"][0]["response"] == response


def test_a_call_is_taken_back():
    """A call that the service takes back needs no result, and a result that comes all the same is not sent."""
    live = protocol(LOOK_UP)
    called(live, "call_1", "call_2")
    events = told(live, toolCallCancellation={"ids": ["call_1", "unknown"]})
    assert events == [ToolCancelled(call_id="call_1")]
    assert sent(live, ToolResultCommand(call_id="call_1", output="{}")) == []
    assert len(sent(live, ToolResultCommand(call_id="call_2", output="{}"))) == 1
    assert sent(live, ToolResultCommand(call_id="call_2", output="{}")) == []


def test_tools_cannot_be_chosen():
    """A reply has all tools of the session; other choices are refused by name."""
    live = protocol(LOOK_UP, SECOND)
    sent(live, ReplyCommand(id="reply_1", tools=("shop.cancel", "shop.look_up")))
    with pytest.raises(CapabilityMissing, match=r"shop\.other"):
        live.send(ReplyCommand(id="reply_2", tools=("shop.other",)))
    with pytest.raises(CapabilityMissing, match="all tools"):
        live.send(ReplyCommand(id="reply_3", tools=("shop.cancel",)))


# --- commands


def test_commands_become_messages():
    """Audio, says, replies and texts become messages that the service knows."""
    live = protocol()
    (audio,) = sent(live, AppendAudioCommand(data=b"\1\0" * 160))
    assert audio["realtimeInput"]["audio"]["mimeType"] == "audio/pcm;rate=16000"
    (say,) = sent(live, SayCommand(id="say_1", text="Grüße"))
    assert say["clientContent"]["turnComplete"] is True
    assert "Grüße" in say["clientContent"]["turns"][0]["parts"][0]["text"]
    assert sent(live, ReplyCommand(id="reply_1")) == [{"clientContent": {"turnComplete": True}}]
    (asked,) = sent(live, ReplyCommand(id="reply_2", instructions="Be brief."))
    assert "Be brief." in asked["clientContent"]["turns"][0]["parts"][0]["text"]
    roles = [
        sent(live, AddTextCommand(item="item_1", text="x", role=role))[0]["clientContent"]["turns"][0]["role"]
        for role in ("user", "assistant", "system")
    ]
    assert roles == ["user", "model", "user"]
    assert sent(live, UpdateCommand()) == sent(live, EndCommand()) == []


def test_replies_answer_commands_in_order():
    """Each reply that was asked for repeats the id of its command."""
    live = protocol()
    sent(live, SayCommand(id="say_1", text="One."))
    assert spoken(live)[0].command == "say_1"
    complete(live)
    sent(live, ReplyCommand(id="reply_1"))
    assert spoken(live)[0].command == "reply_1"


def test_a_say_does_not_end_the_callers_turn():
    """What was asked for is not the answer to the caller's words."""
    live = protocol()
    heard(live, "one")
    sent(live, SayCommand(id="say_1", text="Please hold."))
    assert kinds(spoken(live)) == ["reply.started", "reply.audio"]


def test_push_to_talk():
    """Push to talk: audio is sent between begin and commit only, and both are signalled once."""
    live = protocol(detection=None)
    assert live.start()["setup"]["realtimeInputConfig"] == {"automaticActivityDetection": {"disabled": True}}
    noise = AppendAudioCommand(data=b"\1\0")
    assert sent(live, noise) == []
    messages, (started,) = live.send(BeginTurnCommand())
    assert messages == [{"realtimeInput": {"activityStart": {}}}]
    assert live.send(BeginTurnCommand()) == ([], [])
    assert len(sent(live, noise)) == 1
    assert kinds(heard(live, "hello")) == ["turn.transcript"]
    messages, events = live.send(CommitTurnCommand())
    assert messages == [{"realtimeInput": {"activityEnd": {}}}]
    assert [(event.type, event.item) for event in events] == [
        ("turn.stopped", started.item),
        ("turn.committed", started.item),
    ]
    assert live.send(CommitTurnCommand()) == ([], [])
    assert sent(live, noise) == []
    assert kinds(spoken(live)) == ["reply.started", "reply.audio"]


def test_push_to_talk_needs_its_declaration():
    """A session with turn detection refuses begin and commit."""
    for command in (BeginTurnCommand(), CommitTurnCommand()):
        with pytest.raises(CapabilityMissing):
            protocol().send(command)


# --- the session


def test_usage_is_of_its_reply():
    """Usage that comes after the end of a reply names it; thoughts and tokens without a modality are counted."""
    live = protocol()
    reply = spoken(live, "Hello.")[0].reply
    told(live, serverContent={"generationComplete": True})
    (reported,) = complete(
        live,
        usageMetadata={
            "promptTokenCount": 522,
            "responseTokenCount": 42,
            "totalTokenCount": 700,
            "thoughtsTokenCount": 136,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 332},
                {"modality": "AUDIO", "tokenCount": 165},
            ],
            "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 42}],
        },
    )
    assert isinstance(reported, UsageReported)
    assert (reported.kind, reported.reply) == ("reply", reply)
    usage = reported.usage
    assert (usage.input_text_tokens, usage.input_audio_tokens) == (357, 165)
    assert (usage.output_text_tokens, usage.output_audio_tokens, usage.thinking_tokens) == (0, 42, 136)


def test_usage_with_the_end_is_in_it():
    """Usage that comes with the end of a reply is part of it."""
    live = protocol()
    spoken(live)
    ended, *rest = complete(live, usageMetadata={"promptTokenCount": 5, "responseTokenCount": 2})
    assert ended.usage.input_text_tokens == 5
    assert rest == []


def test_the_end_is_announced():
    """`goAway` tells when the session ends; its end is then an expiry."""
    live = protocol()
    assert told(live, goAway={"timeLeft": "9.5s"}) == [SessionExpiring(expires_at=1009.5)]
    closed = live.closed(1011, "going away", asked=False)
    assert (closed.reason, closed.retry) == ("provider_expired", True)


@pytest.mark.parametrize(
    ("code", "reason", "expected", "retry"),
    [
        (1011, "Deadline expired before operation could complete.", "provider_expired", True),
        (1011, "Internal error encountered.", "provider_error", True),
        (None, "", "provider_error", True),
        (1007, "Request contains an invalid argument.", "provider_error", False),
        (1008, "Operation is not implemented, or supported, or enabled.", "provider_error", False),
    ],
)
def test_the_reason_of_the_end(code: int | None, reason: str, expected: str, retry: bool):
    """The close code tells whether another session may be opened; the service's own words are in the message."""
    closed = protocol().closed(code, reason, asked=False)
    assert (closed.reason, closed.retry) == (expected, retry)
    assert reason in (closed.message or "")
    assert protocol().closed(code, reason, asked=True).reason == "closed"


def test_the_session_can_be_resumed():
    """The latest handle is passed on, and does not appear in texts; an update without one leaves the earlier handle valid."""
    live = protocol()
    (resumable,) = told(live, sessionResumptionUpdate={"newHandle": "handle-1", "resumable": True})
    assert resumable == SessionResumable(handle="handle-1")
    assert "handle-1" not in repr(resumable)
    assert told(live, sessionResumptionUpdate={"resumable": False}) == []


# --- borders

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.just("9s"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    [
        ("serverContent", "interrupted"),
        ("serverContent", "turnComplete"),
        ("serverContent", "generationComplete"),
        ("serverContent", "modelTurn", "parts"),
        ("serverContent", "inputTranscription", "text"),
        ("serverContent", "inputTranscription", "finished"),
        ("serverContent", "outputTranscription", "text"),
        ("toolCall", "functionCalls"),
        ("toolCallCancellation", "ids"),
        ("goAway", "timeLeft"),
        ("usageMetadata", "promptTokenCount"),
        ("usageMetadata", "promptTokensDetails"),
        ("sessionResumptionUpdate", "newHandle"),
        ("voiceActivity", "type"),
        ("setupComplete",),
    ]
)


@st.composite
def messages(draw: st.DrawFn) -> str:
    """Return a message with arbitrary values in known fields."""
    message: dict[str, Any] = {}
    for path in draw(st.lists(FIELDS, max_size=3)):
        here = message
        for name in path[:-1]:
            here = here.setdefault(name, {})
        here[path[-1]] = draw(JSON)
    return json.dumps(message)


@pytest.mark.fuzz
@given(st.lists(messages() | st.text(max_size=20) | st.binary(max_size=20), max_size=8))
def test_arbitrary_messages_do_no_harm(received: list[str | bytes]):
    """No message of the service raises, whatever its values are."""
    live = protocol(LOOK_UP)
    for each in received:
        live.receive(each)


STEPS = st.sampled_from(
    [
        "hear",
        "finish",
        "speak",
        "interrupt",
        "generated",
        "complete",
        "call",
        "take_back",
        "begin",
        "end",
        "say",
        "reply",
        "cancel",
        "text",
        "result",
    ]
)


@pytest.mark.fuzz
@settings(deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_events_are_ordered(steps: list[str]):
    """Whatever the order of messages and commands: each turn starts, is committed and transcribed once, each reply starts and ends once."""
    live = protocol(LOOK_UP)
    events: list[Event] = []
    for number, step in enumerate(steps):
        replies = [event.reply for event in events if isinstance(event, ReplyStarted)]
        match step:
            case "hear":
                events += heard(live, "words")
            case "finish":
                events += heard(live, "all words", finished=True)
            case "speak":
                events += spoken(live, "words")
            case "interrupt":
                events += told(live, serverContent={"interrupted": True})
            case "generated":
                events += told(live, serverContent={"generationComplete": True})
            case "complete":
                events += complete(live)
            case "call":
                events += called(live, f"call_{number}")
            case "take_back":
                events += told(live, toolCallCancellation={"ids": [f"call_{each}" for each in range(number)]})
            case "begin" | "end":
                kind = "ACTIVITY_START" if step == "begin" else "ACTIVITY_END"
                events += told(live, voiceActivity={"type": kind})
            case "say":
                events += live.send(SayCommand(id=f"say_{number}", text="words"))[1]
            case "reply":
                events += live.send(ReplyCommand(id=f"reply_{number}"))[1]
            case "cancel" if replies:
                events += live.send(CancelReplyCommand(reply=replies[-1]))[1]
            case "text":
                events += live.send(AddTextCommand(item=f"item_{number}", text="words"))[1]
            case "result":
                events += live.send(ToolResultCommand(call_id=f"call_{max(0, number - 1)}", output="{}"))[1]
    check_order(events)


def check_order(events: list[Event]) -> None:
    turns: dict[str, str] = {}
    replies: dict[str, str] = {}
    after = {"turn.started": (), "turn.stopped": ("turn.started",), "turn.committed": ("turn.stopped",)}
    for event in events:
        match event:
            case ReplyStarted():
                assert event.reply not in replies
                assert all(state == "ended" for state in replies.values()), "one reply at a time"
                replies[event.reply] = "started"
            case ReplyAudio() | ToolRequested():
                assert replies[event.reply] == "started"
            case ReplyTranscript() | ReplyEnded():
                assert replies[event.reply] == "started"
                if isinstance(event, ReplyEnded):
                    replies[event.reply] = "ended"
            case Interrupted():
                assert event.reply in replies
            case TurnTranscript():
                assert turns[event.item] in ("turn.started", "turn.committed")
                if event.final:
                    assert turns[event.item] == "turn.committed"
                    turns[event.item] = "final"
            case _ if event.type in after:
                assert turns.get(event.item, "") in (after[event.type] or ("",))
                turns[event.item] = event.type
