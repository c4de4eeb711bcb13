"""Validation rules across fields: streamed audio is PCM, tool calls require results, names must exist."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from agentfield_local.chat.refusals import invalid
from agentfield_local.chat.request import AssistantMessage, ChatRequest, Message, ToolMessage

__all__ = ["validate_request"]


def validate_request(request: ChatRequest, voices: Collection[str]) -> None:
    """Reject a request whose fields contradict each other.

    Args:
        request: The request; each of its fields is valid.
        voices: The accepted voices.

    Raises:
        ChatRefusal: The error names the field.
    """
    _check_modalities(request)
    _check_audio(request, voices)
    if request.stream_options is not None and not request.stream:
        raise invalid("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")
    _check_tools(request)
    _check_order(request.messages)


def _check_modalities(request: ChatRequest) -> None:
    modalities = request.modalities
    if modalities is not None and (len(set(modalities)) != len(modalities) or "text" not in modalities):
        raise invalid(
            f"Invalid value: {modalities}. Supported values are: ['text'] and ['text', 'audio'].", "modalities"
        )


def _check_audio(request: ChatRequest, voices: Collection[str]) -> None:
    if not request.speaks:
        return
    if request.audio is None:
        raise invalid("Missing required parameter: 'audio' is needed when audio is asked for.", "audio")
    if request.stream and request.audio.format != "pcm16":
        raise invalid(
            f"audio.format does not support {request.audio.format!r} when stream=true. Supported values are: 'pcm16'.",
            "audio.format",
        )
    voice = request.audio.voice
    if isinstance(voice, str) and voice not in voices:  # any custom voice is spoken with the engine's own
        names = ", ".join(repr(name) for name in voices)
        raise invalid(f"Invalid value: {voice!r:.200}. Supported values are: {names}.", "audio.voice")


def _check_tools(request: ChatRequest) -> None:
    names = [tool.function.name for tool in request.tools or ()]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise invalid(f"The tool {duplicate!r} is declared more than once.", "tools")
    if request.tool_choice is None:
        return
    if not names:
        raise invalid("'tool_choice' is only allowed when 'tools' are specified.", "tool_choice")
    if request.choice not in {"auto", "none", "required", *names}:
        raise invalid(f"Tool choice {request.choice!r} not found in the 'tools' parameter.", "tool_choice")


def _check_order(messages: Sequence[Message]) -> None:
    """Check that all results of a tool call directly follow it, and that each result belongs to a call."""
    pending: list[str] = []
    answered: set[str] = set()
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        match message:
            case ToolMessage(tool_call_id=call_id) if call_id in pending:
                pending.remove(call_id)
                answered.add(call_id)
            case ToolMessage(tool_call_id=call_id):
                why = "was answered already" if call_id in answered else "is of no preceding message with 'tool_calls'"
                raise invalid(f"The tool_call_id {call_id!r:.200} {why}.", f"{where}.tool_call_id")
            case _ if pending:
                raise _unanswered(pending, where)
            case AssistantMessage(content=None, audio=None, tool_calls=None, refusal=None):
                raise invalid("An assistant message needs 'content', 'audio' or 'tool_calls'.", f"{where}.content")
            case AssistantMessage(tool_calls=calls):
                pending = [call.id for call in calls or ()]
                if len(set(pending)) != len(pending):
                    raise invalid("Two calls have the same id.", f"{where}.tool_calls")
            case _:
                continue
    if pending:
        raise _unanswered(pending, "messages")


def _unanswered(pending: Sequence[str], where: str) -> Exception:
    names = ", ".join(pending)
    return invalid(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
        f"The following tool_call_ids did not have response messages: {names:.500}",
        where,
    )
