"""Strict models of the request bodies, with limits on every field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from agentfield_local.wire.validation import StrictModel

__all__ = [
    "AssistantMessage",
    "ChatRequest",
    "ChatTool",
    "InputAudio",
    "InputAudioPart",
    "Message",
    "SystemMessage",
    "TextPart",
    "ToolCall",
    "ToolMessage",
    "TranscriptionRequest",
    "UserMessage",
]

_MAX_TEXT = 1_000_000
_MAX_MESSAGES = 1000
_MAX_PARTS = 64
_MAX_TOOLS = 128
_MAX_AUDIO = 36_000_000
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
_Short = Annotated[str, Field(max_length=512)]
_Model = Annotated[str, Field(min_length=1, max_length=256)]
_Text = Annotated[str, Field(max_length=_MAX_TEXT)]


class TextPart(StrictModel):
    """A text part."""

    type: Literal["text"]
    text: _Text


class InputAudio(StrictModel):
    """A recording: raw base64 of a file; `pcm16` has no header and is 24 kHz mono, signed little-endian."""

    data: Annotated[str, Field(min_length=1, max_length=_MAX_AUDIO)]
    format: Literal["wav", "mp3", "flac", "ogg", "m4a", "aac", "pcm16"]


class InputAudioPart(StrictModel):
    """A recording of the caller."""

    type: Literal["input_audio"]
    input_audio: InputAudio


def _content_form(content: object) -> str:
    """Return the form of a content, so that a validation error refers to that form only."""
    return "parts" if isinstance(content, list) else "text"


_TextParts = Annotated[list[TextPart], Field(min_length=1, max_length=_MAX_PARTS)]
_UserPart = Annotated[TextPart | InputAudioPart, Field(discriminator="type")]
_UserParts = Annotated[list[_UserPart], Field(min_length=1, max_length=_MAX_PARTS)]
_Words = Annotated[Annotated[_Text, Tag("text")] | Annotated[_TextParts, Tag("parts")], Discriminator(_content_form)]
_Speech = Annotated[Annotated[_Text, Tag("text")] | Annotated[_UserParts, Tag("parts")], Discriminator(_content_form)]


class SystemMessage(StrictModel):
    """A message of the program to the model."""

    role: Literal["system", "developer"]
    content: _Words
    name: _Short | None = None


class UserMessage(StrictModel):
    """A spoken or typed message of the caller."""

    role: Literal["user"]
    content: _Speech
    name: _Short | None = None


class _Function(StrictModel):
    name: _Name
    arguments: _Text


class ToolCall(StrictModel):
    """A tool call of the model."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["function"] = "function"
    function: _Function
    index: int | None = None


class _AudioRef(StrictModel):
    id: _Short


class AssistantMessage(StrictModel):
    """An earlier answer of the model."""

    role: Literal["assistant"]
    content: _Words | None = None
    audio: _AudioRef | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1, max_length=_MAX_TOOLS)] | None = None
    refusal: _Text | None = None
    name: _Short | None = None


class ToolMessage(StrictModel):
    """The result of a tool call."""

    role: Literal["tool"]
    tool_call_id: Annotated[str, Field(min_length=1, max_length=256)]
    content: _Words


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class _ToolFunction(StrictModel):
    name: _Name
    description: _Text = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    strict: bool | None = None


class ChatTool(StrictModel):
    """A function that the model may call."""

    type: Literal["function"]
    function: _ToolFunction


class _NamedFunction(StrictModel):
    name: _Name


class _NamedTool(StrictModel):
    type: Literal["function"]
    function: _NamedFunction


class _Voice(StrictModel):
    id: _Short


class _Audio(StrictModel):
    voice: _Short | _Voice
    format: Literal["wav", "aac", "mp3", "flac", "opus", "pcm16"]


class _StreamOptions(StrictModel):
    include_usage: bool = False
    include_obfuscation: bool = True


class _UsageOptions(StrictModel):
    include: bool = False


class _TextFormat(StrictModel):
    type: Literal["text"]


class _Routing(StrictModel):
    """Routing preferences; without effect, since there is only one upstream."""

    order: list[_Short] | None = None
    only: list[_Short] | None = None
    ignore: list[_Short] | None = None
    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    data_collection: Literal["allow", "deny"] | None = None
    zdr: bool | None = None
    sort: _Short | None = None
    quantizations: list[_Short] | None = None


class ChatRequest(StrictModel):
    """The body of `POST /v1/chat/completions`; any model name is accepted and echoed."""

    model: _Model
    messages: Annotated[list[Message], Field(min_length=1, max_length=_MAX_MESSAGES)]
    modalities: Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=2)] | None = None
    audio: _Audio | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    usage: _UsageOptions | None = None
    tools: Annotated[list[ChatTool], Field(max_length=_MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | _NamedTool | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    provider: _Routing | None = None
    user: _Short | None = None
    session_id: _Short | None = None
    safety_identifier: _Short | None = None
    prompt_cache_key: _Short | None = None
    metadata: Annotated[dict[str, _Short], Field(max_length=16)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: int | None = None
    stop: _Short | Annotated[list[_Short], Field(max_length=4)] | None = None
    n: Literal[1] | None = None
    store: bool | None = None
    response_format: _TextFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None

    @property
    def speaks(self) -> bool:
        """Whether the completion is spoken."""
        return self.modalities is not None and "audio" in self.modalities

    @property
    def limit(self) -> int | None:
        """Token limit of the completion."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def choice(self) -> str:
        """Tool choice of the brain request: `auto`, `none`, `required` or a name."""
        match self.tool_choice:
            case None:
                return "auto"
            case str(word):
                return word
            case named:
                return named.function.name

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with usage."""
        asked = self.stream_options is not None and self.stream_options.include_usage
        return asked or (self.usage is not None and self.usage.include)


class TranscriptionRequest(StrictModel):
    """The JSON body of `POST /v1/audio/transcriptions`."""

    model: _Model
    input_audio: InputAudio
    language: Annotated[str, Field(pattern=r"^en(-[A-Za-z]{2,4})?$")] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    provider: _Routing | None = None
    user: _Short | None = None
