"""Commands: what a provider session is asked to do, in words that no provider owns.

Every command that starts something carries an `id`; the events that answer it name that id in `command`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = [
    "AddText",
    "AppendAudio",
    "CancelReply",
    "Command",
    "CommitTurn",
    "End",
    "Reply",
    "Say",
    "SendToolResult",
    "Update",
]


class _Command(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Say(_Command):
    """Speak this text and nothing else."""

    type: Literal["say"] = "say"
    id: str
    text: str
    interruptible: bool = True


class Reply(_Command):
    """Let the model answer; `instructions` go on top of the session's own, `tools` are the targets it may call (None: as declared)."""

    type: Literal["reply"] = "reply"
    id: str
    instructions: str | None = None
    tools: tuple[str, ...] | None = None


class CancelReply(_Command):
    """Stop a reply and throw away what was not played."""

    type: Literal["cancel_reply"] = "cancel_reply"
    reply: str
    heard_ms: int | None = None
    """How much was played, where we know better than the provider."""


class AppendAudio(_Command):
    """Audio of the caller at the session's input format, only where the control plane carries the media."""

    type: Literal["append_audio"] = "append_audio"
    data: bytes


class CommitTurn(_Command):
    """The caller is done speaking (push to talk)."""

    type: Literal["commit_turn"] = "commit_turn"
    item: str | None = None
    """What the turn is to be called, where the provider lets us choose."""


class AddText(_Command):
    """Add text to the conversation without asking for an answer; `item` becomes its id."""

    type: Literal["add_text"] = "add_text"
    item: str
    text: str
    role: Literal["user", "assistant", "system"] = "user"


class SendToolResult(_Command):
    """Give the model the result of a tool, as JSON text."""

    type: Literal["tool_result"] = "tool_result"
    call_id: str
    output: str


class Update(_Command):
    """Bring the provider's configuration back to ours; `interruptible` switches whether speech of the caller stops replies."""

    type: Literal["update"] = "update"
    interruptible: bool = True


class End(_Command):
    """End the session at the provider."""

    type: Literal["end"] = "end"


Command = Say | Reply | CancelReply | AppendAudio | CommitTurn | AddText | SendToolResult | Update | End
"""Any command to a provider session."""
