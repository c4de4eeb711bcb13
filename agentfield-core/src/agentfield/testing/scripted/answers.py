"""Answers of the scripted model: text, tool uses, or a function of what the model was asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from agentfield.realtime.events import Usage

__all__ = ["AnswerLike", "ModelRequest", "ScriptedAnswer", "ToolUse", "resolve_answer"]


class ToolUse:
    """A tool that the model uses.

    Args:
        target: ``node.reasoner``. A target that the session does not offer is an error of the script, unless `listed` is False.
        listed: False to play a model that makes up a tool.
        written: The arguments as the model writes them; by default the JSON of `arguments`.
        **arguments: The input of the tool.
    """

    def __init__(self, target: str, /, *, listed: bool = True, written: str | None = None, **arguments: Any) -> None:
        self.target = target
        self.listed = listed
        self.arguments = json.dumps(arguments) if written is None else written

    def __repr__(self) -> str:
        return f"ToolUse({self.target!r}, {self.arguments})"


@dataclass(frozen=True, slots=True)
class ScriptedAnswer:
    """One answer of the model: text, tool uses, or text followed by tool uses."""

    text: str = ""
    uses: tuple[ToolUse, ...] = ()
    usage: Usage | None = None
    """The usage that the provider reports for the answer."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What the model is asked; the argument of an answer function."""

    heard: str | None
    """The caller's last turn."""
    instructions: str | None
    """Instructions of this one answer."""
    offered: tuple[str, ...]
    """Targets of the tools that the model may use."""
    results: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Results of the tools used since the last answer, by target."""


AnswerLike = str | ToolUse | ScriptedAnswer | Callable[[ModelRequest], "str | ToolUse | ScriptedAnswer"]
"""Any value that a script accepts as an answer."""


def resolve_answer(answer: AnswerLike, request: ModelRequest) -> ScriptedAnswer:
    """Return an answer in its full form; a function is called with the request."""
    value = answer if isinstance(answer, str | ToolUse | ScriptedAnswer) else answer(request)
    match value:
        case str():
            return ScriptedAnswer(value)
        case ToolUse():
            return ScriptedAnswer(uses=(value,))
        case _:
            return value
