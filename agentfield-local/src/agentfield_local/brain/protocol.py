"""What a brain must do: given the conversation and the offered tools, decide what is said or called next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = ["Brain", "BrainRequest", "Call", "Message", "Say", "Step", "ToolOffer", "ToolResult"]


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """A function the brain may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """Something said in the conversation so far."""

    role: Literal["user", "assistant", "system"]
    text: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call that the brain made gave back; `output` is the string the client sent."""

    call_id: str
    name: str
    output: str


@dataclass(frozen=True, slots=True)
class BrainRequest:
    """All that a brain may look at for one response."""

    instructions: str
    history: Sequence[Message | ToolResult]
    tools: Sequence[ToolOffer] = ()
    tool_choice: str = "auto"
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Say:
    """Speak this text."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """Call this function with these JSON arguments (text, because a model may produce invalid JSON)."""

    name: str
    arguments: str


Step = Say | Call
"""One output item of a response."""


class Brain(Protocol):
    """Decides what a response holds; synchronous and called from a worker thread."""

    def respond(self, request: BrainRequest) -> Sequence[Step]:
        """Return the output items of the next response, in order."""
