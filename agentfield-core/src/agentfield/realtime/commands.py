"""Commands to a provider's session, independent of any provider.

A class is named after its `type` literal. A command that starts speech carries an `id`, which the events that answer it repeat
in `command`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = [
    "AddTextCommand",
    "AppendAudioCommand",
    "CancelReplyCommand",
    "Command",
    "CommitTurnCommand",
    "EndCommand",
    "ReplyCommand",
    "SayCommand",
    "ToolResultCommand",
    "UpdateCommand",
]


class _Command(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SayCommand(_Command):
    """Speak exactly this text."""

    type: Literal["say"] = "say"
    id: str
    text: str
    interruptible: bool = True


class ReplyCommand(_Command):
    """Let the model answer, with `instructions` in addition to the session's own; `tools` are the targets it may call (None: all)."""

    type: Literal["reply"] = "reply"
    id: str
    instructions: str | None = None
    tools: tuple[str, ...] | None = None


class CancelReplyCommand(_Command):
    """Stop a reply and discard the audio that was not played."""

    type: Literal["cancel_reply"] = "cancel_reply"
    reply: str
    heard_ms: int | None = None
    """Milliseconds that were played, if the control plane knows them better than the provider."""


class AppendAudioCommand(_Command):
    """Append audio of the caller in the session's input format; only where the control plane carries the media."""

    type: Literal["append_audio"] = "append_audio"
    data: bytes


class CommitTurnCommand(_Command):
    """Commit the caller's turn (push-to-talk and recorded turns)."""

    type: Literal["commit_turn"] = "commit_turn"
    item: str | None = None
    """Id for the turn, if the provider accepts one."""


class AddTextCommand(_Command):
    """Add a text to the conversation without requesting an answer; `item` becomes its id."""

    type: Literal["add_text"] = "add_text"
    item: str
    text: str
    role: Literal["user", "assistant", "system"] = "user"


class ToolResultCommand(_Command):
    """Give the model the result of a tool call, as JSON text."""

    type: Literal["tool_result"] = "tool_result"
    call_id: str
    output: str


class UpdateCommand(_Command):
    """Restore the provider's configuration to the declared one."""

    type: Literal["update"] = "update"
    interruptible: bool = True
    """Whether the caller's speech stops replies. While False, the model does not answer by itself either: such an answer would
    be refused, or heard over the speech that must not be interrupted."""


class EndCommand(_Command):
    """End the session at the provider."""

    type: Literal["end"] = "end"


Command = (
    SayCommand
    | ReplyCommand
    | CancelReplyCommand
    | AppendAudioCommand
    | CommitTurnCommand
    | AddTextCommand
    | ToolResultCommand
    | UpdateCommand
    | EndCommand
)
"""Any command to a provider session."""
