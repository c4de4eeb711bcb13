"""Brain request of a response: instructions, history and tools that the brain reads."""

from __future__ import annotations

from collections.abc import Sequence

from agentfield_local.brain.protocol import BrainRequest, Message, ToolOffer, ToolResult
from agentfield_local.realtime.conversation.items import Item, ItemStore
from agentfield_local.realtime.conversation.responses.options import ResponseOptions

__all__ = ["brain_request"]


def brain_request(options: ResponseOptions, items: Sequence[Item], store: ItemStore) -> BrainRequest:
    """Return the brain request of a response.

    Args:
        options: Options of the response.
        items: Its input items, in order.
        store: All items, for the names of called functions.
    """
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
