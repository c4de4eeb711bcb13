"""Protocol of a brain: from the conversation and the offered tools to the next steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = ["Brain", "BrainRequest", "CallFunction", "Message", "Speak", "Step", "ToolOffer", "ToolResult"]


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """A function that the brain may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the conversation so far."""

    role: Literal["user", "assistant", "system"]
    text: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of a function call; `output` is the string that the client sent."""

    call_id: str
    name: str
    output: str


@dataclass(frozen=True, slots=True)
class BrainRequest:
    """Everything that a brain reads for one response."""

    instructions: str
    history: Sequence[Message | ToolResult]
    tools: Sequence[ToolOffer] = ()
    tool_choice: str = "auto"
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Speak:
    """Speak this text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallFunction:
    """Call this function; `arguments` is JSON text, since a model may produce invalid JSON."""

    name: str
    arguments: str


Step = Speak | CallFunction
"""One output item of a response."""


class Brain(Protocol):
    """Decides the content of a response; synchronous, and called from a worker thread."""

    def respond(self, request: BrainRequest) -> Sequence[Step]:
        """Return the output items of the next response, in order."""
