"""From what a client asked of a response to its options, and from the conversation to what a brain reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentfield_local.brain.protocol import BrainRequest, Message, ToolOffer, ToolResult
from agentfield_local.realtime import events as ev
from agentfield_local.realtime.items import Item, ItemStore, item_from_client
from agentfield_local.realtime.responses import Options
from agentfield_local.realtime.session_config import SessionConfig
from agentfield_local.refusals import Refusal

__all__ = ["brain_request", "make_options"]


def make_options(
    params: ev.ResponseParams, config: SessionConfig, items: ItemStore, *, conversation_id: str, has_audio: bool
) -> Options:
    """Return the options of a response, the session's values where the client gave none.

    Args:
        params: What the client asked.
        config: The session.
        items: For references to items.
        conversation_id: Id of the default conversation.
        has_audio: Whether the assistant already spoke, which locks the voice.

    Raises:
        Refusal: For a voice or an item that is not there.
    """
    session = config.data
    output = params.audio.output if params.audio is not None else None
    voice = output.voice if output is not None else None
    config.check_voice(voice, has_audio=has_audio, root=("response",))
    asked_format = output.format if output is not None else None
    return Options(
        instructions=session["instructions"] if params.instructions is None else params.instructions,
        modality=(params.output_modalities or session["output_modalities"])[0],
        tools=session["tools"] if params.tools is None else [tool.model_dump() for tool in params.tools],
        tool_choice=_choice(session["tool_choice"] if params.tool_choice is None else params.tool_choice),
        voice=voice or config.voice,
        format=config.output["format"] if asked_format is None else asked_format.model_dump(),
        max_output_tokens=params.max_output_tokens or session["max_output_tokens"],
        metadata=params.metadata,
        conversation_id=None if params.conversation == "none" else conversation_id,
        input=None if params.input is None else [_input_item(given, items) for given in params.input],
    )


def brain_request(options: Options, items: Sequence[Item], store: ItemStore) -> BrainRequest:
    """Return what the brain reads for a response over these items."""
    offers = [
        ToolOffer(tool["name"], tool.get("description", ""), tool.get("parameters", {})) for tool in options.tools
    ]
    return BrainRequest(
        instructions=options.instructions,
        history=_history(items, store),
        tools=offers,
        tool_choice=options.tool_choice,
        metadata=options.metadata or {},
    )


def _history(items: Sequence[Item], store: ItemStore) -> list[Message | ToolResult]:
    history: list[Message | ToolResult] = []
    for item in items:
        if item.role is not None and (item.text or item.role == "user"):
            history.append(Message(item.role, item.text or ""))
        elif item.type == "function_call_output":
            history.append(ToolResult(item.call_id, store.call_name(item.call_id) or "", item.output))
    return history


def _input_item(given: Any, items: ItemStore) -> Item:
    if not isinstance(given, ev.ItemReference):
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
