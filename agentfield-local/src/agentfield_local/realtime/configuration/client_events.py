"""The eleven client events of the protocol as strict models, and their parser."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from agentfield_local.realtime.configuration.schema import (
    AudioFormat,
    FunctionTool,
    Modalities,
    Prompt,
    Reasoning,
    TokenLimit,
    ToolChoice,
    VoiceId,
)
from agentfield_local.wire.json_values import check_values, load_object
from agentfield_local.wire.refusals import Refusal
from agentfield_local.wire.validation import StrictModel, refusal_from_validation

__all__ = [
    "BufferAppend",
    "BufferClear",
    "BufferCommit",
    "ClientEvent",
    "InputItem",
    "ItemCreate",
    "ItemDelete",
    "ItemReference",
    "ItemRetrieve",
    "ItemTruncate",
    "NewFunctionCall",
    "NewFunctionOutput",
    "NewItem",
    "NewMessage",
    "OutputClear",
    "ResponseCancel",
    "ResponseCreate",
    "ResponseParams",
    "SessionUpdate",
    "event_id_of",
    "parse_event",
]

_MAX_EVENT_ID = 512
_MAX_AUDIO_CHARS = 15 * 1024 * 1024 * 4 // 3 + 4


class _Event(StrictModel):
    event_id: Annotated[str, Field(max_length=_MAX_EVENT_ID)] | None = None


class SessionUpdate(_Event):
    """Change the session; the object is validated when it is merged."""

    type: Literal["session.update"]
    session: dict[str, Any]


class BufferAppend(_Event):
    """Append audio of the caller, base64 in the session's input format."""

    type: Literal["input_audio_buffer.append"]
    audio: Annotated[str, Field(max_length=_MAX_AUDIO_CHARS)]


class BufferCommit(_Event):
    """Commit the input buffer as a turn of the caller."""

    type: Literal["input_audio_buffer.commit"]


class BufferClear(_Event):
    """Clear the input buffer."""

    type: Literal["input_audio_buffer.clear"]


class _Content(StrictModel):
    type: Literal["input_text", "input_audio", "input_image", "output_text", "output_audio"]
    text: str | None = None
    audio: Annotated[str, Field(max_length=_MAX_AUDIO_CHARS)] | None = None
    transcript: str | None = None
    image_url: str | None = None
    detail: Literal["auto", "low", "high"] | None = None


class _NewItem(StrictModel):
    id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    object: Literal["realtime.item"] | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None


class NewMessage(_NewItem):
    """A message that the client adds to the conversation."""

    type: Literal["message"]
    role: Literal["system", "user", "assistant"]
    content: Annotated[list[_Content], Field(max_length=64)]


class NewFunctionCall(_NewItem):
    """A function call that the client adds to the conversation, to replay history."""

    type: Literal["function_call"]
    name: str
    arguments: str
    call_id: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class NewFunctionOutput(_NewItem):
    """The result of a function call."""

    type: Literal["function_call_output"]
    call_id: str
    output: str


NewItem = Annotated[NewMessage | NewFunctionCall | NewFunctionOutput, Field(discriminator="type")]


class ItemReference(StrictModel):
    """Reference to an item of the conversation."""

    type: Literal["item_reference"]
    id: str


InputItem = Annotated[NewMessage | NewFunctionCall | NewFunctionOutput | ItemReference, Field(discriminator="type")]


class ItemCreate(_Event):
    """Add an item."""

    type: Literal["conversation.item.create"]
    item: NewItem
    previous_item_id: str | None = None


class ItemRetrieve(_Event):
    """Retrieve an item with its audio."""

    type: Literal["conversation.item.retrieve"]
    item_id: str


class ItemTruncate(_Event):
    """Truncate an assistant item to the audio that was heard."""

    type: Literal["conversation.item.truncate"]
    item_id: str
    content_index: Annotated[int, Field(ge=0)]
    audio_end_ms: Annotated[int, Field(ge=0)]


class ItemDelete(_Event):
    """Remove an item."""

    type: Literal["conversation.item.delete"]
    item_id: str


class _ResponseOutput(StrictModel):
    format: AudioFormat | None = None
    voice: str | VoiceId | None = None


class _ResponseAudio(StrictModel):
    output: _ResponseOutput = _ResponseOutput()


class ResponseParams(StrictModel):
    """Parameters of one response that override the session."""

    instructions: str | None = None
    output_modalities: Modalities | None = None
    audio: _ResponseAudio | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: TokenLimit | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    conversation: Literal["auto", "none"] | None = None
    input: Annotated[list[InputItem], Field(max_length=256)] | None = None
    prompt: Prompt | None = None
    reasoning: Reasoning | None = None


class ResponseCreate(_Event):
    """Request a response."""

    type: Literal["response.create"]
    response: ResponseParams | None = None


class ResponseCancel(_Event):
    """Cancel a response."""

    type: Literal["response.cancel"]
    response_id: str | None = None


class OutputClear(_Event):
    """Clear the output audio buffer of a WebRTC caller."""

    type: Literal["output_audio_buffer.clear"]


ClientEvent = Annotated[
    SessionUpdate
    | BufferAppend
    | BufferCommit
    | BufferClear
    | ItemCreate
    | ItemRetrieve
    | ItemTruncate
    | ItemDelete
    | ResponseCreate
    | ResponseCancel
    | OutputClear,
    Field(discriminator="type"),
]

_ADAPTER: TypeAdapter[Any] = TypeAdapter(ClientEvent)


def event_id_of(data: object) -> str | None:
    """Return the client's event id; None if it is missing or is not a valid one."""
    found = data.get("event_id") if isinstance(data, dict) else None
    return found if isinstance(found, str) and len(found) <= _MAX_EVENT_ID else None


def parse_event(text: str | bytes) -> tuple[Any, str | None]:
    """Parse one client event.

    Returns:
        The typed event, or a refusal of it, and the client's event id for the answer.
    """
    try:
        data = load_object(text, "The event")
    except Refusal as refusal:
        return refusal, None
    event_id = event_id_of(data)
    try:
        check_values(data, "The event")
        return _ADAPTER.validate_python(data), event_id
    except Refusal as refusal:
        return refusal, event_id
    except ValidationError as error:
        return refusal_from_validation(error, data), event_id
