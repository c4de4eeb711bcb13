"""Google's own Python client, which knows the protocol independently of the plugin: it talks to the fake, and writes the same setup."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentfield.adapterkit.tool_names import ToolNames
from agentfield.realtime.config import ServerVad, SessionConfig, SessionDeclaration, ToolSpec
from agentfield_gemini.commands import INPUT
from agentfield_gemini.options import GeminiOptions
from agentfield_gemini.schema import parameters_schema
from agentfield_gemini.setup_message import setup_message
from agentfield_gemini.testing.live_server import LiveServer
from agentfield_gemini.testing.peer import speech

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the client's imports
    from google import genai
    from google.genai import _live_converters, types

KEY = "canary-of-gemini"
PARAMETERS = {"type": "object", "properties": {"number": {"type": "string"}}, "required": ["number"]}
CONFIG = types.LiveConnectConfig(
    response_modalities=[types.Modality.AUDIO],
    temperature=0.5,
    speech_config=types.SpeechConfig(
        voice_config=types.VoiceConfig(prebuilt_voice_config=types.PrebuiltVoiceConfig(voice_name="Kore"))
    ),
    system_instruction=types.Content(parts=[types.Part(text="You help.")]),
    tools=[
        types.Tool(
            function_declarations=[
                types.FunctionDeclaration(
                    name="shop__look_up",
                    description="Look up an order.",
                    behavior=types.Behavior.BLOCKING,
                    parameters=types.Schema.model_validate(parameters_schema(PARAMETERS)),
                )
            ]
        )
    ],
    realtime_input_config=types.RealtimeInputConfig(
        automatic_activity_detection=types.AutomaticActivityDetection(
            silence_duration_ms=500,
            prefix_padding_ms=200,
            end_of_speech_sensitivity=types.EndSensitivity.END_SENSITIVITY_LOW,
        )
    ),
    input_audio_transcription=types.AudioTranscriptionConfig(language_codes=["de-DE"]),
    output_audio_transcription=types.AudioTranscriptionConfig(),
    session_resumption=types.SessionResumptionConfig(handle="handle-1"),
    context_window_compression=types.ContextWindowCompressionConfig(sliding_window=types.SlidingWindow()),
)


@pytest.fixture
async def server() -> AsyncIterator[LiveServer]:
    """Run the fake; no message to it may be invalid."""
    async with LiveServer(KEY) as running:
        yield running
    assert running.faults == []


def client(server: LiveServer) -> genai.Client:
    """Return a client of the fake; it would insist on TLS."""
    made = genai.Client(api_key=KEY, http_options=types.HttpOptions(api_version="v1beta"))
    made._api_client._websocket_base_url = lambda *_: server.url.replace("http", "ws", 1)  # type: ignore[method-assign]
    made._api_client._websocket_ssl_ctx = {}
    return made


def test_the_setup_is_the_same() -> None:
    """Google's client writes the same first message for the same configuration."""
    declaration = SessionDeclaration(
        name="voice",
        provider="gemini",
        transport="websocket",
        floor="model",
        instructions="You help.",
        interrupt_after_ms=200,
    )
    tool = ToolSpec(target="shop.look_up", description="Look up an order.", parameters=PARAMETERS)
    config = SessionConfig(
        session_id="ses_1",
        target="shop.voice",
        declaration=declaration,
        model="gemini-3.8-live",
        voice="Kore",
        transcription=None,
        turn_detection=ServerVad(),
        tools=(tool,),
    )
    options = GeminiOptions(temperature=0.5, languages=("de-DE",), end_of_speech="low")
    ours = setup_message(config, options, ToolNames(["shop.look_up"]), "handle-1")["setup"]
    theirs = _their_setup(CONFIG)
    theirs["systemInstruction"].pop("role", None)  # their client adds one; the service ignores it
    assert ours == {"model": "models/gemini-3.8-live", **theirs}


def _their_setup(config: types.LiveConnectConfig) -> dict[str, Any]:
    api = genai.Client(api_key=KEY)._api_client
    parameters = types.LiveConnectParameters(model="models/gemini-3.8-live", config=config).model_dump(
        exclude_none=True
    )
    message = genai._common.convert_to_dict(
        _live_converters._LiveConnectParameters_to_mldev(api_client=api, from_object=parameters)
    )
    return {name: value for name, value in _plain(message["setup"]).items() if name != "model"}


def _plain(value: Any) -> Any:
    """Return the value as it is written to the wire."""
    match value:
        case dict():
            return {_wire_name(name): _plain(each) for name, each in value.items() if each is not None}
        case list():
            return [_plain(each) for each in value]
        case types._common.CaseInSensitiveEnum():
            return value.value
    return value


def _wire_name(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(each.capitalize() for each in rest) if rest and "__" not in name else name


async def test_a_conversation_of_their_client(server: LiveServer) -> None:
    """Google's client opens a session at the fake, speaks, and hears the answer with its transcripts and usage."""
    config = CONFIG.model_copy(update={"session_resumption": types.SessionResumptionConfig()})
    async with client(server).aio.live.connect(model="gemini-3.8-live", config=config) as session:
        server.announce("where is my order")
        data = speech("where is my order", INPUT)
        for at in range(0, len(data), 3200):
            await session.send_realtime_input(
                audio=types.Blob(data=data[at : at + 3200], mime_type="audio/pcm;rate=16000")
            )
        received = [message async for message in session.receive()]
    contents = [each.server_content for each in received if each.server_content]
    heard = "".join(each.input_transcription.text or "" for each in contents if each.input_transcription)
    said = "".join(each.output_transcription.text or "" for each in contents if each.output_transcription)
    assert (heard, said) == ("where is my order", "I heard what you said, thank you.")
    assert sum(len(each.data or b"") for each in received) > 24_000
    assert received[-1].usage_metadata is not None
    assert any(each.session_resumption_update for each in received)


async def test_a_function_call_of_their_client(server: LiveServer) -> None:
    """Google's client answers a function call of the fake, and the fake goes on by itself."""
    server.model.calls.append(("shop__look_up", {"number": "7"}))
    config = CONFIG.model_copy(update={"session_resumption": None})
    async with client(server).aio.live.connect(model="gemini-3.8-live", config=config) as session:
        await session.send_client_content(turns=types.Content(role="user", parts=[types.Part(text="where is it")]))
        async for message in session.receive():
            if message.tool_call is not None:
                (call,) = message.tool_call.function_calls or []
                assert call.args == {"number": "7"}
                response = types.FunctionResponse(id=call.id, name=call.name, response={"found": "walnut"})
                await session.send_tool_response(function_responses=response)
    assert "walnut" in str(server.received)
