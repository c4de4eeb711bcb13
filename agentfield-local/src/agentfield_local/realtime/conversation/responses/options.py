"""Options of a response: the parameters of a client, filled in with the values of the session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentfield_local.realtime.configuration.client_events import ItemReference, ResponseParams
from agentfield_local.realtime.configuration.schema import VoiceId
from agentfield_local.realtime.configuration.session_config import SessionConfig
from agentfield_local.realtime.conversation.items import Item, ItemStore, item_from_client
from agentfield_local.wire.refusals import Refusal

__all__ = ["ResponseOptions", "make_options"]


@dataclass(frozen=True, slots=True)
class ResponseOptions:
    """Effective options of one response.

    Attributes:
        instructions: Instructions for the brain.
        modality: Whether the response is spoken or written.
        tools: Offered functions, as the wire has them.
        tool_choice: `auto`, `none`, `required` or the name of a function.
        voice: Name of the voice, or the id of a custom one: a response reports no object.
        format: The `format` object of the output audio.
        max_output_tokens: Token limit.
        metadata: Metadata of the client.
        conversation_id: Id of the conversation; None for a response outside the default conversation.
        input: Items that replace the conversation as input; None for the conversation.
    """

    instructions: str
    modality: Literal["audio", "text"]
    tools: Sequence[dict[str, Any]]
    tool_choice: str
    voice: str
    format: dict[str, Any]
    max_output_tokens: int | Literal["inf"]
    metadata: dict[str, str] | None
    conversation_id: str | None
    input: Sequence[Item] | None


def make_options(
    params: ResponseParams, config: SessionConfig, items: ItemStore, *, conversation_id: str, has_audio: bool
) -> ResponseOptions:
    """Return the options of a response; parameters that the client omitted come from the session.

    Args:
        params: Parameters of the client.
        config: Configuration of the session.
        items: For references to items.
        conversation_id: Id of the default conversation.
        has_audio: Whether the assistant has spoken, which locks the voice.

    Raises:
        Refusal: The voice or a referenced item does not exist.
    """
    session = config.data
    output = params.audio.output if params.audio is not None else None
    voice = _voice(output.voice) if output is not None else None
    config.check_voice(voice, has_audio=has_audio, root=("response",))
    requested_format = output.format if output is not None else None
    return ResponseOptions(
        instructions=session["instructions"] if params.instructions is None else params.instructions,
        modality=(params.output_modalities or session["output_modalities"])[0],
        tools=session["tools"] if params.tools is None else [tool.model_dump() for tool in params.tools],
        tool_choice=_choice(session["tool_choice"] if params.tool_choice is None else params.tool_choice),
        voice=_voice_name(voice or config.voice),
        format=config.output["format"] if requested_format is None else requested_format.model_dump(),
        max_output_tokens=params.max_output_tokens or session["max_output_tokens"],
        metadata=params.metadata,
        conversation_id=None if params.conversation == "none" else conversation_id,
        input=None if params.input is None else [_input_item(given, items) for given in params.input],
    )


def _voice(given: str | VoiceId | None) -> str | dict[str, str] | None:
    return {"id": given.id} if isinstance(given, VoiceId) else given


def _voice_name(voice: str | dict[str, str]) -> str:
    return voice["id"] if isinstance(voice, dict) else voice


def _input_item(given: Any, items: ItemStore) -> Item:
    if not isinstance(given, ItemReference):
        return item_from_client(given, given.id or "")
    found = items.get(given.id)
    if found is None:
        raise Refusal(f"Item with item_id not found: {given.id}", code="invalid_value", param="response.input")
    return found


def _choice(choice: Any) -> str:
    """Return the tool choice as a brain reads it: `auto`, `none`, `required` or the name of one function."""
    if isinstance(choice, str):
        return choice
    return str(choice["name"] if isinstance(choice, dict) else choice.name)
