"""Strict models of the session object, as a client may send it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from agentfield_local.wire.validation import StrictModel

__all__ = [
    "DEFAULT_MODEL",
    "AudioFormat",
    "FunctionTool",
    "Modalities",
    "Prompt",
    "Reasoning",
    "SemanticVad",
    "ServerVad",
    "SessionPatch",
    "TokenLimit",
    "ToolChoice",
    "TranscriptionSessionPatch",
    "VoiceId",
]

DEFAULT_MODEL = "agentfield-local"


class _Pcm(StrictModel):
    type: Literal["audio/pcm"]
    rate: Literal[24000] = 24000


class _G711(StrictModel):
    type: Literal["audio/pcmu", "audio/pcma"]


AudioFormat = Annotated[_Pcm | _G711, Field(discriminator="type")]
Modalities = Annotated[list[Literal["audio", "text"]], Field(min_length=1, max_length=1)]
TokenLimit = Annotated[int, Field(ge=1, le=4096)] | Literal["inf"]


class ServerVad(StrictModel):
    """Turn detection by voice activity."""

    type: Literal["server_vad"]
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    prefix_padding_ms: Annotated[int, Field(ge=0, le=5000)] = 300
    silence_duration_ms: Annotated[int, Field(ge=50, le=10_000)] = 500
    idle_timeout_ms: Annotated[int, Field(ge=1000, le=300_000)] | None = None
    create_response: bool = True
    interrupt_response: bool = True


class SemanticVad(StrictModel):
    """Turn detection by meaning; here, by a silence that depends on the eagerness."""

    type: Literal["semantic_vad"]
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


class _Transcription(StrictModel):
    model: str | None = None
    language: str | None = None
    languages: list[str] | None = None
    prompt: str | None = None
    keywords: list[str] | None = None
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None


class _NoiseReduction(StrictModel):
    type: Literal["near_field", "far_field"]
    strength: float | None = None


class _AudioInput(StrictModel):
    format: AudioFormat = _Pcm(type="audio/pcm")
    noise_reduction: _NoiseReduction | None = None
    transcription: _Transcription | None = None
    turn_detection: Annotated[ServerVad | SemanticVad, Field(discriminator="type")] | None = None


class VoiceId(StrictModel):
    """Reference to a custom voice of the provider; this server speaks it with the engine's own voice."""

    id: Annotated[str, Field(min_length=1, max_length=200)]


class _AudioOutput(StrictModel):
    """Audio of replies."""

    format: AudioFormat = _Pcm(type="audio/pcm")
    voice: str | VoiceId = ""
    speed: Annotated[float, Field(ge=0.25, le=1.5)] = 1.0


class _Audio(StrictModel):
    input: _AudioInput = _AudioInput()
    output: _AudioOutput = _AudioOutput()


class FunctionTool(StrictModel):
    """A function that the brain may call; `type:"mcp"` tools are refused, since they would run inside the server."""

    type: Literal["function"]
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)


class _FunctionChoice(StrictModel):
    type: Literal["function"]
    name: str


ToolChoice = Literal["auto", "none", "required"] | _FunctionChoice


class Reasoning(StrictModel):
    """Reasoning effort; accepted, without effect on the brains of this server."""

    effort: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None


class Prompt(StrictModel):
    """Reference to a prompt template of the provider; accepted and echoed, without effect: this server stores none."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    version: Annotated[str, Field(max_length=200)] | None = None
    variables: dict[str, str | dict[str, Any]] | None = None


class _TokenLimits(StrictModel):
    post_instructions: int | None = None


class _Retention(StrictModel):
    type: Literal["retention_ratio"]
    retention_ratio: Annotated[float, Field(ge=0, le=1)]
    token_limits: _TokenLimits | None = None


class _Tracing(StrictModel):
    workflow_name: str | None = None
    group_id: str | None = None
    metadata: dict[str, Any] | None = None


class SessionPatch(StrictModel):
    """A partial `session` of a conversation; only the fields that the client set are merged."""

    type: Literal["realtime"]
    model: Annotated[str, Field(min_length=1, max_length=200)] = DEFAULT_MODEL
    output_modalities: Modalities = ["audio"]  # noqa: RUF012 - pydantic copies defaults
    instructions: str = ""
    tools: Annotated[list[FunctionTool], Field(max_length=128)] = Field(default_factory=list)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    reasoning: Reasoning | None = None
    max_output_tokens: TokenLimit = "inf"
    truncation: Literal["auto", "disabled"] | _Retention = "auto"
    tracing: Literal["auto"] | _Tracing | None = None
    prompt: Prompt | None = None
    include: list[Literal["item.input_audio_transcription.logprobs"]] | None = None
    audio: _Audio = _Audio()


class _TranscriptionAudio(StrictModel):
    input: _AudioInput = _AudioInput()


class TranscriptionSessionPatch(StrictModel):
    """A partial `session` of a session that only transcribes."""

    type: Literal["transcription"]
    audio: _TranscriptionAudio = _TranscriptionAudio()
    include: list[Literal["item.input_audio_transcription.logprobs"]] | None = None
