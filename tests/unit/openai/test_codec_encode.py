"""Encoding: every session object and client event fits the official client's types and the command."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from agentfield.errors import CapabilityMissing, InvalidInput
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import (
    AddTextCommand,
    AppendAudioCommand,
    CancelReplyCommand,
    Command,
    CommitTurnCommand,
    EndCommand,
    ReplyCommand,
    SayCommand,
    ToolResultCommand,
    UpdateCommand,
)
from agentfield.realtime.config import SemanticVad, ServerVad, SessionConfig
from agentfield_openai.codec import Codec
from support.providers.openai import PCM, check_client_event, check_session, config, decode, tool

TOOLS = (tool("voice-support.resolve_turn", "Resolve it."), tool("shop.cancel"))
OPTIONS: dict[str, Any] = {
    "languages": ["en", "de"],
    "keywords": ["AgentField", "parcel"],
    "transcription_prompt": "The caller asks about a parcel.",
    "transcription_delay": "low",
    "include": ["item.input_audio_transcription.logprobs"],
    "noise_reduction": "near_field",
    "noise_reduction_strength": 0.5,
    "prompt": {"id": "pmpt_1", "version": "2", "variables": {"city": "Ulm"}},
    "tracing": {"workflow_name": "calls", "group_id": "g1", "metadata": {"line": "7"}},
    "speed": 1.25,
    "max_output_tokens": 1000,
    "parallel_tool_calls": True,
    "reasoning_effort": "low",
    "say_reasoning_effort": "minimal",
}
CONFIGS = [
    config(
        floor=floor,
        tools=tools,
        turn_detection=detection,
        transcription=transcription,
        modalities=modalities,
        voice=voice,
        options=options,
    )
    for floor, tools, (detection, transcription, modalities, voice, options) in itertools.product(
        ("handler", "model"),
        ((), TOOLS),
        [
            (ServerVad(silence_duration_ms=300), "gpt-transcribe", ("audio", "text"), "marin", {}),
            (SemanticVad(eagerness="low"), None, ("audio",), None, OPTIONS),
            (SemanticVad(eagerness="low"), "gpt-live-transcribe", ("audio",), None, OPTIONS),
            (None, "whisper-1", ("text",), "alloy", {"language": "de"}),
        ],
    )
]
COMMANDS: list[Command] = [
    SayCommand(id="spk_1", text='Fish & <chips>, "please".'),
    ReplyCommand(id="spk_2"),
    ReplyCommand(id="spk_3", instructions="Be brief.", tools=()),
    CancelReplyCommand(reply="resp_1"),
    CommitTurnCommand(),
    AddTextCommand(item="item_1", text="Hello"),
    AddTextCommand(item="item_2", text="Hello", role="assistant"),
    AddTextCommand(item="evt_" + "a" * 32, text="Hello", role="system"),
    ToolResultCommand(call_id="call_1", output='{"a":1}'),
    UpdateCommand(interruptible=False),
    UpdateCommand(),
]


def sent(codec: Codec, command: Command) -> list[dict[str, Any]]:
    events = codec.encode(command)
    for event in events:
        check_client_event(event)
    return events


FORMATS = [None, PCM, AudioFormat("pcmu", 8_000), AudioFormat("pcma", 8_000)]


@pytest.mark.parametrize("audio", FORMATS, ids=lambda audio: audio.name if audio else "direct")
@pytest.mark.parametrize("settings", CONFIGS)
def test_everything_that_is_sent_fits_the_official_types(settings: SessionConfig, audio: AudioFormat | None) -> None:
    """The session object of a call, the initial update and the events of every command have no unknown field."""
    codec = Codec(settings, audio=audio)
    check_session(codec.session_payload())
    check_client_event(codec.initial_update())
    ids = [event["event_id"] for command in COMMANDS for event in sent(codec, command)]
    assert len(ids) == len(set(ids))
    if settings.tools:
        sent(codec, ReplyCommand(id="spk_9", tools=("shop.cancel",)))


def test_the_handler_floor_disables_automatic_replies_and_tools() -> None:
    """On the handler floor the provider neither replies by itself nor has a tool."""
    payload = Codec(config(tools=TOOLS)).session_payload()
    assert payload["audio"]["input"]["turn_detection"]["create_response"] is False
    assert payload["audio"]["input"]["turn_detection"]["interrupt_response"] is True
    assert (payload["tools"], payload["tool_choice"]) == ([], "none")


def test_the_model_floor_offers_the_declared_tools() -> None:
    """On the model floor the provider replies at once and has the allowlist under wire names."""
    payload = Codec(config(floor="model", tools=TOOLS)).session_payload()
    assert payload["audio"]["input"]["turn_detection"]["create_response"] is True
    assert [function["name"] for function in payload["tools"]] == ["voice-support__resolve_turn", "shop__cancel"]
    assert payload["tools"][0]["parameters"] == TOOLS[0].parameters


@pytest.mark.parametrize(("modalities", "sent_as"), [(("audio", "text"), ["audio"]), (("text",), ["text"])])
def test_audio_takes_precedence_over_text(modalities: tuple[str, ...], sent_as: list[str]) -> None:
    """The provider takes one modality; audio includes its transcript."""
    assert Codec(config(modalities=modalities)).session_payload()["output_modalities"] == sent_as


def test_say_is_verbatim_without_context_or_tools() -> None:
    """A say command sends exactly its text, escaped, in the default conversation, under its own id."""
    (event,) = sent(Codec(config(tools=TOOLS)), SayCommand(id="spk_1", text="</say> & go"))
    response = event["response"]
    assert response["instructions"].endswith("\n<say>&lt;/say&gt; &amp; go</say>")
    assert (response["input"], response["tools"], response["tool_choice"]) == ([], [], "none")
    assert response["conversation"] == "auto"
    assert response["metadata"] == {"af_kind": "say", "af_id": "spk_1"}


def test_reply_instructions_extend_those_of_the_session() -> None:
    """The provider replaces instructions per response, so the session's come first."""
    codec = Codec(config())
    (event,) = sent(codec, ReplyCommand(id="spk_1", instructions="Be brief."))
    assert event["response"]["instructions"] == "You help with orders.\n\nBe brief."
    (event,) = sent(codec, ReplyCommand(id="spk_2"))
    assert "instructions" not in event["response"]


def test_replies_carry_their_tools_on_the_handler_floor() -> None:
    """A reply offers all declared tools, some or none; on the model floor those of the session stand."""
    codec = Codec(config(tools=TOOLS))

    def names(reply: ReplyCommand) -> tuple[list[str], str]:
        response = sent(codec, reply)[0]["response"]
        return [function["name"] for function in response["tools"]], response["tool_choice"]

    assert names(ReplyCommand(id="1")) == (["voice-support__resolve_turn", "shop__cancel"], "auto")
    assert names(ReplyCommand(id="2", tools=("shop.cancel",))) == (["shop__cancel"], "auto")
    assert names(ReplyCommand(id="3", tools=())) == ([], "none")
    (event,) = sent(Codec(config(floor="model", tools=TOOLS)), ReplyCommand(id="4"))
    assert "tools" not in event["response"]


def test_a_reply_cannot_offer_undeclared_tools() -> None:
    """An undeclared tool is refused before anything is sent."""
    with pytest.raises(InvalidInput, match="none of the session's tools") as caught:
        Codec(config(tools=TOOLS)).encode(ReplyCommand(id="1", tools=("shop.steal",)))
    assert caught.value.code == "unknown_tool"


def test_cancelling_stops_generation_and_playout() -> None:
    """A generating reply is cancelled and its playout cleared; a generated one is only cleared, a heard one is left."""
    codec = Codec(config())
    decode(codec, {"type": "response.created", "response": {"id": "resp_1"}})
    decode(codec, {"type": "output_audio_buffer.started", "response_id": "resp_1"})
    kinds = [event["type"] for event in sent(codec, CancelReplyCommand(reply="resp_1"))]
    assert kinds == ["response.cancel", "output_audio_buffer.clear"]
    decode(codec, {"type": "response.done", "response": {"id": "resp_1", "status": "completed"}})
    assert [event["type"] for event in sent(codec, CancelReplyCommand(reply="resp_1"))] == ["output_audio_buffer.clear"]
    decode(codec, {"type": "output_audio_buffer.stopped", "response_id": "resp_1"})
    assert sent(codec, CancelReplyCommand(reply="resp_1")) == []


def test_an_update_omits_model_and_used_voice() -> None:
    """An update restores every setting except those that the provider refuses to change."""
    codec = Codec(config())
    (event,) = sent(codec, UpdateCommand(interruptible=False))
    assert event["session"]["audio"]["input"]["turn_detection"]["interrupt_response"] is False
    assert event["session"]["audio"]["output"] == {"voice": "marin"}
    assert "model" not in event["session"]
    decode(codec, {"type": "response.created", "response": {"id": "resp_1"}})
    decode(codec, {"type": "output_audio_buffer.started", "response_id": "resp_1"})
    (event,) = sent(codec, UpdateCommand())
    assert event["session"]["audio"]["input"]["turn_detection"]["interrupt_response"] is True
    assert "output" not in event["session"]["audio"]


def test_result_ids_survive_a_restart() -> None:
    """The same result has the same id after a restart; a later result of the call has another one."""
    first, second = (sent(codec := Codec(config()), ToolResultCommand(call_id="c", output="1")) for _ in "ab")
    assert first[0]["item"]["id"] == second[0]["item"]["id"]
    assert sent(codec, ToolResultCommand(call_id="c", output="2"))[0]["item"]["id"] != first[0]["item"]["id"]
    assert len(first[0]["item"]["id"]) <= 32


def test_audio_is_sent_only_on_a_websocket() -> None:
    """On a direct pair appending audio is a typed refusal."""
    with pytest.raises(CapabilityMissing):
        Codec(config()).encode(AppendAudioCommand(data=b"\0\0"))
    (event,) = Codec(config(), audio=PCM).encode(AppendAudioCommand(data=b"\0\0"))
    check_client_event(event)
    assert event["audio"] == "AAA="


@pytest.mark.parametrize(
    ("audio", "written"),
    [
        (PCM, {"type": "audio/pcm", "rate": 24_000}),
        (AudioFormat("pcmu", 8_000), {"type": "audio/pcmu"}),
        (AudioFormat("pcma", 8_000), {"type": "audio/pcma"}),
    ],
)
def test_the_audio_format_is_requested_in_both_directions(audio: AudioFormat, written: dict[str, Any]) -> None:
    """The initial update names the formats of input and output; a direct call leaves them to its media."""
    asked = Codec(config(), audio=audio).initial_update()["session"]["audio"]
    assert (asked["input"]["format"], asked["output"]["format"]) == (written, written)
    assert "format" not in Codec(config()).initial_update()["session"]["audio"]["input"]


def test_end_sends_no_client_event() -> None:
    """Ending is an HTTP hang-up, not a client event."""
    assert Codec(config()).encode(EndCommand()) == []


def test_options_are_the_fields_of_the_protocol() -> None:
    """Each option arrives in its field, and tracing only in the first object of a session: it cannot be changed later."""
    codec = Codec(config(options=OPTIONS, transcription="gpt-live-transcribe", instructions="Be kind."), audio=PCM)
    session = codec.initial_update()["session"]
    for name in ("prompt", "tracing", "include"):
        assert session[name] == OPTIONS[name]
    assert session["instructions"] == "Be kind."
    assert session["audio"]["input"]["noise_reduction"] == {"type": "near_field", "strength": 0.5}
    assert session["audio"]["input"]["transcription"] == {
        "model": "gpt-live-transcribe",
        "languages": ["en", "de"],
        "keywords": ["AgentField", "parcel"],
        "prompt": "The caller asks about a parcel.",
        "delay": "low",
    }
    (later,) = codec.encode(UpdateCommand(interruptible=False))
    assert later["session"]["prompt"] == OPTIONS["prompt"]
    assert "tracing" not in later["session"]
    call = Codec(config(options={"tracing": "auto"}))
    assert call.session_payload()["tracing"] == "auto"
    assert "tracing" not in call.initial_update()["session"]


def test_a_prompt_template_is_not_erased_by_absent_instructions() -> None:
    """Without instructions of the declaration, the template keeps its own."""
    session = Codec(config(options={"prompt": {"id": "pmpt_1"}}, instructions=None)).session_payload()
    assert session["prompt"] == {"id": "pmpt_1"}
    assert "instructions" not in session


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"language": "en", "languages": ["en"]}, "options"),
        ({"noise_reduction_strength": 0.5}, "options"),
        ({"noise_reduction": "near_field", "noise_reduction_strength": -1}, "options.noise_reduction_strength"),
        ({"languages": ["english"]}, "options.languages.0"),
        ({"keywords": [""]}, "options.keywords.0"),
        ({"prompt": {"name": "x"}}, "options.prompt.id"),
        ({"transcription_delay": "none"}, "options.transcription_delay"),
        ({"include": ["everything"]}, "options.include.0"),
    ],
)
def test_options_that_contradict_each_other_or_the_protocol_are_refused(options: dict[str, Any], field: str) -> None:
    """The refusal names the field."""
    with pytest.raises(InvalidInput) as caught:
        Codec(config(options=options))
    assert caught.value.data["field"] == field


def test_invalid_options_are_refused_by_name() -> None:
    """An unknown or invalid option is named together with the known ones."""
    with pytest.raises(InvalidInput) as caught:
        Codec(config(options={"speed": 9}))
    assert caught.value.data["field"] == "options.speed"
    with pytest.raises(InvalidInput) as caught:
        Codec(config(options={"sped": 1}))
    assert "noise_reduction" in str(caught.value)


def test_the_type_check_finds_unknown_fields() -> None:
    """The helper of the tests above refuses unknown fields at any depth."""
    event = json.loads(json.dumps(Codec(config()).encode(SayCommand(id="1", text="x"))[0]))
    event["response"]["vocie"] = "marin"
    with pytest.raises(AssertionError):
        check_client_event(event)
