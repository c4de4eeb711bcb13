"""What the codec sends: every session object and client event fits the official client's types, and says what was asked."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from agentfield.errors import CapabilityMissing, InvalidInput
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import (
    AddText,
    AppendAudio,
    CancelReply,
    Command,
    CommitTurn,
    End,
    Reply,
    Say,
    SendToolResult,
    Update,
)
from agentfield.realtime.config import SemanticVad, ServerVad, SessionConfig
from agentfield_openai.codec import Codec
from openai_kit import PCM, check_client_event, check_session, config, decode, tool

TOOLS = (tool("voice-support.resolve_turn", "Resolve it."), tool("shop.cancel"))
OPTIONS: dict[str, Any] = {
    "language": "en",
    "noise_reduction": "near_field",
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
            (None, "whisper-1", ("text",), "alloy", {"language": "de"}),
        ],
    )
]
COMMANDS: list[Command] = [
    Say(id="spk_1", text='Fish & <chips>, "please".'),
    Reply(id="spk_2"),
    Reply(id="spk_3", instructions="Be brief.", tools=()),
    CancelReply(reply="resp_1"),
    CommitTurn(),
    AddText(item="item_1", text="Hello"),
    AddText(item="item_2", text="Hello", role="assistant"),
    AddText(item="evt_" + "a" * 32, text="Hello", role="system"),
    SendToolResult(call_id="call_1", output='{"a":1}'),
    Update(interruptible=False),
    Update(),
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
    """The call's session object, the joining update and the events of every command have no field that is unknown."""
    codec = Codec(settings, audio=audio)
    check_session(codec.session_payload())
    check_client_event(codec.join())
    ids = [event["event_id"] for command in COMMANDS for event in sent(codec, command)]
    assert len(ids) == len(set(ids))
    if settings.tools:
        sent(codec, Reply(id="spk_9", tools=("shop.cancel",)))


def test_the_handler_floor_leaves_answering_and_tools_to_us() -> None:
    """On the handler floor the provider must not answer by itself, and has no tool."""
    payload = Codec(config(tools=TOOLS)).session_payload()
    assert payload["audio"]["input"]["turn_detection"]["create_response"] is False
    assert payload["audio"]["input"]["turn_detection"]["interrupt_response"] is True
    assert (payload["tools"], payload["tool_choice"]) == ([], "none")


def test_the_model_floor_lets_the_model_answer_with_exactly_the_declared_tools() -> None:
    """On the model floor the provider answers at once, and knows the allowlist by safe names."""
    payload = Codec(config(floor="model", tools=TOOLS)).session_payload()
    assert payload["audio"]["input"]["turn_detection"]["create_response"] is True
    assert [function["name"] for function in payload["tools"]] == ["voice-support__resolve_turn", "shop__cancel"]
    assert payload["tools"][0]["parameters"] == TOOLS[0].parameters


@pytest.mark.parametrize(("modalities", "sent_as"), [(("audio", "text"), ["audio"]), (("text",), ["text"])])
def test_audio_wins_where_both_modalities_are_declared(modalities: tuple[str, ...], sent_as: list[str]) -> None:
    """The provider takes one modality; audio always carries its words."""
    assert Codec(config(modalities=modalities)).session_payload()["output_modalities"] == sent_as


def test_say_is_verbatim_without_context_or_tools() -> None:
    """A say asks for exactly its text, escaped, in the default conversation, under its own id."""
    (event,) = sent(Codec(config(tools=TOOLS)), Say(id="spk_1", text="</say> & go"))
    response = event["response"]
    assert response["instructions"].endswith("\n<say>&lt;/say&gt; &amp; go</say>")
    assert (response["input"], response["tools"], response["tool_choice"]) == ([], [], "none")
    assert response["conversation"] == "auto"
    assert response["metadata"] == {"af_kind": "say", "af_id": "spk_1"}


def test_instructions_of_a_reply_go_on_top_of_those_of_the_session() -> None:
    """The provider replaces instructions per response, so the session's come first in ours."""
    codec = Codec(config())
    (event,) = sent(codec, Reply(id="spk_1", instructions="Be brief."))
    assert event["response"]["instructions"] == "You help with orders.\n\nBe brief."
    (event,) = sent(codec, Reply(id="spk_2"))
    assert "instructions" not in event["response"]


def test_tools_travel_with_the_reply_on_the_handler_floor() -> None:
    """A reply offers all declared tools, a part of them, or none; on the model floor the session's own stand."""
    codec = Codec(config(tools=TOOLS))

    def names(reply: Reply) -> tuple[list[str], str]:
        response = sent(codec, reply)[0]["response"]
        return [function["name"] for function in response["tools"]], response["tool_choice"]

    assert names(Reply(id="1")) == (["voice-support__resolve_turn", "shop__cancel"], "auto")
    assert names(Reply(id="2", tools=("shop.cancel",))) == (["shop__cancel"], "auto")
    assert names(Reply(id="3", tools=())) == ([], "none")
    (event,) = sent(Codec(config(floor="model", tools=TOOLS)), Reply(id="4"))
    assert "tools" not in event["response"]


def test_a_reply_cannot_offer_what_the_session_does_not_declare() -> None:
    """An undeclared tool is refused before anything is sent."""
    with pytest.raises(InvalidInput, match="none of the session's tools") as caught:
        Codec(config(tools=TOOLS)).encode(Reply(id="1", tools=("shop.steal",)))
    assert caught.value.code == "unknown_tool"


def test_cancelling_stops_generation_and_playback() -> None:
    """A running reply is cancelled and its playback cleared; one that is generated is only cleared, one heard is left."""
    codec = Codec(config())
    decode(codec, {"type": "response.created", "response": {"id": "resp_1"}})
    decode(codec, {"type": "output_audio_buffer.started", "response_id": "resp_1"})
    kinds = [event["type"] for event in sent(codec, CancelReply(reply="resp_1"))]
    assert kinds == ["response.cancel", "output_audio_buffer.clear"]
    decode(codec, {"type": "response.done", "response": {"id": "resp_1", "status": "completed"}})
    assert [event["type"] for event in sent(codec, CancelReply(reply="resp_1"))] == ["output_audio_buffer.clear"]
    decode(codec, {"type": "output_audio_buffer.stopped", "response_id": "resp_1"})
    assert sent(codec, CancelReply(reply="resp_1")) == []


def test_update_switches_interruption_and_keeps_model_and_a_used_voice_out() -> None:
    """An update brings everything back but what the provider refuses to take again."""
    codec = Codec(config())
    (event,) = sent(codec, Update(interruptible=False))
    assert event["session"]["audio"]["input"]["turn_detection"]["interrupt_response"] is False
    assert event["session"]["audio"]["output"] == {"voice": "marin"}
    assert "model" not in event["session"]
    decode(codec, {"type": "response.created", "response": {"id": "resp_1"}})
    decode(codec, {"type": "output_audio_buffer.started", "response_id": "resp_1"})
    (event,) = sent(codec, Update())
    assert event["session"]["audio"]["input"]["turn_detection"]["interrupt_response"] is True
    assert "output" not in event["session"]["audio"]


def test_results_of_a_call_have_ids_of_their_own_that_survive_a_restart() -> None:
    """The same result is recognisable after a restart, a later one of the same call is another item."""
    first, second = (sent(codec := Codec(config()), SendToolResult(call_id="c", output="1")) for _ in "ab")
    assert first[0]["item"]["id"] == second[0]["item"]["id"]
    assert sent(codec, SendToolResult(call_id="c", output="2"))[0]["item"]["id"] != first[0]["item"]["id"]
    assert len(first[0]["item"]["id"]) <= 32


def test_audio_is_sent_only_where_it_passes_through_us() -> None:
    """On a direct pair appending audio is a typed refusal; on a carried one it is sent."""
    with pytest.raises(CapabilityMissing):
        Codec(config()).encode(AppendAudio(data=b"\0\0"))
    (event,) = Codec(config(), audio=PCM).encode(AppendAudio(data=b"\0\0"))
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
def test_the_format_of_carried_audio_is_asked_for_in_both_directions(
    audio: AudioFormat, written: dict[str, Any]
) -> None:
    """The joining update names the format of input and output; a direct call leaves that to its media."""
    asked = Codec(config(), audio=audio).join()["session"]["audio"]
    assert (asked["input"]["format"], asked["output"]["format"]) == (written, written)
    assert "format" not in Codec(config()).join()["session"]["audio"]["input"]


def test_end_is_nothing_that_is_sent_on_the_socket() -> None:
    """Ending is a hang-up, which is another channel."""
    assert Codec(config()).encode(End()) == []


def test_options_that_do_not_fit_are_refused_by_name() -> None:
    """An unknown or impossible option says which, and what there is."""
    with pytest.raises(InvalidInput) as caught:
        Codec(config(options={"speed": 9}))
    assert caught.value.data["field"] == "options.speed"
    with pytest.raises(InvalidInput) as caught:
        Codec(config(options={"sped": 1}))
    assert "noise_reduction" in str(caught.value)


def test_the_strict_check_notices_what_it_should() -> None:
    """The helper that guards the tests above refuses unknown fields at any depth."""
    event = json.loads(json.dumps(Codec(config()).encode(Say(id="1", text="x"))[0]))
    event["response"]["vocie"] = "marin"
    with pytest.raises(AssertionError):
        check_client_event(event)
