"""The session object: what a client may set, how partial updates merge, and what the server reports."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentfield_local.refusals import Refusal, from_validation

__all__ = [
    "DEFAULT_MODEL",
    "OPENAI_VOICES",
    "AudioFormat",
    "AudioOutput",
    "FunctionTool",
    "Modalities",
    "Reasoning",
    "SessionConfig",
    "StrictModel",
    "TokenLimit",
    "ToolChoice",
]

DEFAULT_MODEL = "agentfield-local"
_WITHOUT_TURNS = "gpt-realtime-whisper"
OPENAI_VOICES = ("alloy", "ash", "ballad", "cedar", "coral", "echo", "marin", "sage", "shimmer", "verse")
"""Voices that clients of the protocol ask for by habit; all are spoken by the engine's own voice."""


class StrictModel(BaseModel):
    """What arrives from a client: nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


class _Pcm(StrictModel):
    type: Literal["audio/pcm"]
    rate: Literal[24000] = 24000


class _G711(StrictModel):
    type: Literal["audio/pcmu", "audio/pcma"]


AudioFormat = Annotated[_Pcm | _G711, Field(discriminator="type")]
Modalities = Annotated[list[Literal["audio", "text"]], Field(min_length=1, max_length=1)]
TokenLimit = Annotated[int, Field(ge=1, le=4096)] | Literal["inf"]


class _ServerVad(StrictModel):
    type: Literal["server_vad"]
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    prefix_padding_ms: Annotated[int, Field(ge=0, le=5000)] = 300
    silence_duration_ms: Annotated[int, Field(ge=50, le=10_000)] = 500
    idle_timeout_ms: Annotated[int, Field(ge=1000, le=300_000)] | None = None
    create_response: bool = True
    interrupt_response: bool = True


class _SemanticVad(StrictModel):
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
    turn_detection: Annotated[_ServerVad | _SemanticVad, Field(discriminator="type")] | None = None


class AudioOutput(StrictModel):
    """How replies sound."""

    format: AudioFormat = _Pcm(type="audio/pcm")
    voice: str = ""
    speed: Annotated[float, Field(ge=0.25, le=1.5)] = 1.0


class _Audio(StrictModel):
    input: _AudioInput = _AudioInput()
    output: AudioOutput = AudioOutput()


class FunctionTool(StrictModel):
    """A function that the brain may call; `type:"mcp"` tools are refused, they would run inside the server."""

    type: Literal["function"]
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
    description: str = ""
    parameters: dict[str, Any] = {}


class _FunctionChoice(StrictModel):
    type: Literal["function"]
    name: str


ToolChoice = Literal["auto", "none", "required"] | _FunctionChoice


class Reasoning(StrictModel):
    """How hard a model thinks; accepted, and of no effect on the brains of this server."""

    effort: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None


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


class _SessionPatch(StrictModel):
    """A `session` as a client sends it; only the fields that it set count."""

    type: Literal["realtime"]
    model: Annotated[str, Field(min_length=1, max_length=200)] = DEFAULT_MODEL
    output_modalities: Modalities = ["audio"]
    instructions: str = ""
    tools: Annotated[list[FunctionTool], Field(max_length=128)] = []
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    reasoning: Reasoning | None = None
    max_output_tokens: TokenLimit = "inf"
    truncation: Literal["auto", "disabled"] | _Retention = "auto"
    tracing: Literal["auto"] | _Tracing | None = None
    prompt: None = None
    include: list[Literal["item.input_audio_transcription.logprobs"]] | None = None
    audio: _Audio = _Audio()


class _TranscriptionAudio(StrictModel):
    input: _AudioInput = _AudioInput()


class _TranscriptionPatch(StrictModel):
    """The `session` of a session that only transcribes."""

    type: Literal["transcription"]
    audio: _TranscriptionAudio = _TranscriptionAudio()
    include: list[Literal["item.input_audio_transcription.logprobs"]] | None = None


_TURN_DETECTION: dict[str, dict[str, Any]] = {
    "server_vad": _ServerVad(type="server_vad").model_dump(),
    "semantic_vad": _SemanticVad(type="semantic_vad").model_dump(),
}


class SessionConfig:
    """The effective configuration of one session.

    Args:
        model: Model that the session is for; None until a client names one.
        session_id: Id that the server reports.
        expires_at: Unix time at which the session ends.
        voices: Voices that may be asked for; the first is the default.
        transcription: Whether the session only transcribes.
        silence_ms: Silence that ends a turn until a client says otherwise.
    """

    def __init__(
        self,
        *,
        model: str | None,
        session_id: str,
        expires_at: int,
        voices: Collection[str],
        transcription: bool = False,
        silence_ms: int = 500,
    ) -> None:
        self.transcription = transcription
        self._voices = tuple(dict.fromkeys((*voices, *OPENAI_VOICES)))
        self._named = model is not None
        self.data: dict[str, Any] = {
            "type": "realtime",
            "object": "realtime.session",
            "id": session_id,
            "model": model or DEFAULT_MODEL,
            "output_modalities": ["audio"],
            "instructions": "",
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "max_output_tokens": "inf",
            "truncation": "auto",
            "tracing": None,
            "prompt": None,
            "include": None,
            "expires_at": expires_at,
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": 24000},
                    "noise_reduction": None,
                    "transcription": None,
                    "turn_detection": {**_TURN_DETECTION["server_vad"], "silence_duration_ms": silence_ms},
                },
                "output": {
                    "format": {"type": "audio/pcm", "rate": 24000},
                    "voice": self._voices[0],
                    "speed": 1.0,
                },
            },
        }

    def update(
        self, patch: Mapping[str, Any], *, has_audio: bool = False, root: tuple[str, ...] = ("session",)
    ) -> None:
        """Merge a partial session, or change nothing.

        Args:
            patch: The `session` object of the client.
            has_audio: Whether the assistant already spoke, which locks the voice.
            root: Where the object stands in the client's message, for the refusal.

        Raises:
            Refusal: For the first field that is wrong, or a session of the other type.
        """
        data = dict(patch)
        self._check_type(data.get("type"), root)
        model: type[StrictModel] = _TranscriptionPatch if self.transcription else _SessionPatch
        try:
            valid = model.model_validate(data).model_dump(exclude_unset=True)
        except ValidationError as error:
            raise from_validation(error, data, root) from None
        if self._named:
            valid.pop("model", None)
        self.check_voice(valid.get("audio", {}).get("output", {}).get("voice"), has_audio=has_audio, root=root)
        merged = _merge(self.data, valid)
        _check_whisper(merged["audio"]["input"], root)
        self.data = merged
        self._named = self._named or "model" in valid

    def _check_type(self, given: object, root: tuple[str, ...]) -> None:
        mine, other = ("transcription", "realtime") if self.transcription else ("realtime", "transcription")
        if given == other:
            raise Refusal(
                f"Passing a {other} session update event to a {mine} session is not allowed.",
                code="invalid_parameter",
                param=".".join((*root, "type")),
            )

    def check_voice(self, voice: str | None, *, has_audio: bool, root: tuple[str, ...]) -> None:
        """Refuse a voice that is not there, and a change after the assistant has spoken.

        Raises:
            Refusal: `invalid_value` or `cannot_update_voice`.
        """
        if voice is None:
            return
        param = ".".join((*root, "audio.output.voice"))
        if voice not in self._voices:
            known = ", ".join(repr(name) for name in self._voices)
            raise Refusal(
                f"Invalid value: {voice!r:.200}. Supported values are: {known}.", code="invalid_value", param=param
            )
        if has_audio and voice != self.voice:
            raise Refusal(
                "Cannot update a conversation's voice if assistant audio is present.",
                code="cannot_update_voice",
                param=param,
            )

    def view(self, echo_model: str | None = None) -> dict[str, Any]:
        """Return a copy as the server reports it."""
        copy = deepcopy(self.data)
        if self.transcription:
            return {
                "type": "transcription",
                "object": "realtime.transcription_session",
                **{name: copy[name] for name in ("id", "expires_at", "include")},
                "audio": {"input": copy["audio"]["input"]},
            }
        if echo_model is not None:
            copy["model"] = echo_model
        return copy

    @property
    def input(self) -> dict[str, Any]:
        """Settings of what is heard."""
        found: dict[str, Any] = self.data["audio"]["input"]
        return found

    @property
    def output(self) -> dict[str, Any]:
        """Settings of what is said."""
        found: dict[str, Any] = self.data["audio"]["output"]
        return found

    @property
    def voice(self) -> str:
        """Name of the voice."""
        return str(self.output["voice"])

    @property
    def turn_detection(self) -> dict[str, Any] | None:
        """Settings of turn detection, None where the client commits by hand."""
        found: dict[str, Any] | None = self.input["turn_detection"]
        return found


def _check_whisper(heard: Mapping[str, Any], root: tuple[str, ...]) -> None:
    """Refuse turn detection with the one transcription model that has none.

    Raises:
        Refusal: `invalid_value`.
    """
    model = (heard["transcription"] or {}).get("model")
    if model == _WITHOUT_TURNS and heard["turn_detection"] is not None:
        raise Refusal(
            f"Turn detection is not supported with {_WITHOUT_TURNS!r}; set 'turn_detection' to null.",
            code="invalid_value",
            param=".".join((*root, "audio.input.turn_detection")),
        )


def _merge(current: dict[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Merge objects deeply; everything else, and objects of another type, replaces what was there."""
    merged = dict(current)
    for name, value in patch.items():
        if not isinstance(value, dict):
            merged[name] = value
        elif name == "turn_detection":
            before = merged.get(name) or {}
            same = before.get("type") == value["type"]
            merged[name] = {**(before if same else _TURN_DETECTION[value["type"]]), **value}
        elif name in {"audio", "input", "output", "transcription"}:
            merged[name] = _merge(merged.get(name) or {}, value)
        elif name == "format":
            merged[name] = {"type": "audio/pcm", "rate": 24000} if value["type"] == "audio/pcm" else value
        else:
            merged[name] = value
    return merged
