"""Commands to a provider's session, independent of any provider.

A class is named after its `type` literal. Each command but audio carries an `id`, which the events that answer it repeat in
`command`: `ReplyStarted` and `ReplyEnded` for speech, `ProviderFault` for a command that the provider refuses.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = [
    "AddTextCommand",
    "AppendAudioCommand",
    "BeginTurnCommand",
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
    """Speak this text: exactly, or as well as the model can, as `Capabilities.say` declares."""

    type: Literal["say"] = "say"
    id: str
    """Id of the command, which the reply repeats in `command`."""
    text: str
    """The words to speak."""
    interruptible: bool = True
    """Whether the caller's speech may stop it; False only where the pair declares `uninterruptible`, which also gets
    `UpdateCommand` before."""


class ReplyCommand(_Command):
    """Let the model answer, with `instructions` in addition to the session's own; `tools` are the targets it may call (None: all).

    On the model's floor it has neither: it asks for the answer to what was added before, such as a typed text or a late result.
    """

    type: Literal["reply"] = "reply"
    id: str
    """Id of the command, which the reply repeats in `command`."""
    instructions: str | None = None
    """Instructions for this answer."""
    tools: tuple[str, ...] | None = None
    """Targets of the tools that it may call; None allows all of the session."""


class CancelReplyCommand(_Command):
    """Stop a reply and discard the audio that was not played.

    Where the media is carried, it also comes for a reply whose generation is over and that the caller interrupts while it is
    still played: the model may then learn what was heard. An adapter that can interrupt and whose provider has nothing to stop
    ignores it.
    """

    type: Literal["cancel_reply"] = "cancel_reply"
    id: str = ""
    """Id of the command: a `ProviderFault` of it repeats the id."""
    reply: str
    """Id of the reply to stop."""
    heard_ms: int | None = None
    """Milliseconds that were played, if the control plane knows them better than the provider."""


class AppendAudioCommand(_Command):
    """Append audio of the caller in the session's input format; only where the control plane carries the media."""

    type: Literal["append_audio"] = "append_audio"
    data: bytes
    """Whole samples."""


class BeginTurnCommand(_Command):
    """The caller begins a turn (push to talk); only where `Capabilities.begins_turns` asks for it.

    Its audio follows, then `CommitTurnCommand`. The provider stops a reply that it is generating.
    """

    type: Literal["begin_turn"] = "begin_turn"
    id: str = ""
    """Id of the command: a `ProviderFault` of it repeats the id."""
    item: str | None = None
    """Id for the turn, if the provider accepts one."""


class CommitTurnCommand(_Command):
    """Commit the caller's turn (push-to-talk and recorded turns)."""

    type: Literal["commit_turn"] = "commit_turn"
    id: str = ""
    """Id of the command: a `ProviderFault` of it repeats the id."""
    item: str | None = None
    """Id for the turn, if the provider accepts one."""


class AddTextCommand(_Command):
    """Add a text to the conversation without requesting an answer; `item` becomes its id."""

    type: Literal["add_text"] = "add_text"
    id: str = ""
    """Id of the command: a `ProviderFault` of it repeats the id."""
    item: str
    """Id for the text."""
    text: str
    """The text."""
    role: Literal["user", "assistant", "system"] = "user"
    """The speaker: the caller, the agent, or the system."""


class ToolResultCommand(_Command):
    """Give the model the result of a tool call, as JSON text."""

    type: Literal["tool_result"] = "tool_result"
    id: str = ""
    """Id of the command: a `ProviderFault` of it repeats the id."""
    call_id: str
    """Id of the call (`ToolRequested`)."""
    output: str
    """JSON text: the result, or the error."""


class UpdateCommand(_Command):
    """Restore the provider's configuration to the declared one."""

    type: Literal["update"] = "update"
    id: str = ""
    """Id of the command: a `ProviderFault` of it repeats the id."""
    interruptible: bool = True
    """Whether the caller's speech stops replies. While False, the model does not answer by itself either: such an answer would
    be refused, or heard over the speech that must not be interrupted."""


class EndCommand(_Command):
    """End the session at the provider."""

    type: Literal["end"] = "end"
    id: str = ""
    """Id of the command: a `ProviderFault` of it repeats the id."""


Command = (
    SayCommand
    | ReplyCommand
    | CancelReplyCommand
    | AppendAudioCommand
    | BeginTurnCommand
    | CommitTurnCommand
    | AddTextCommand
    | ToolResultCommand
    | UpdateCommand
    | EndCommand
)
"""Any command to a provider session."""
