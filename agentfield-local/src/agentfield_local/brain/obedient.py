"""Default brain: says given texts, calls the tool that matches the caller's words, or reports that none matches."""

from __future__ import annotations

import json
from collections.abc import Sequence

from agentfield_local.brain.arguments import fill_arguments
from agentfield_local.brain.matcher import best_tool
from agentfield_local.brain.protocol import BrainRequest, CallFunction, Message, Speak, Step, ToolOffer, ToolResult
from agentfield_local.brain.results import speak_result
from agentfield_local.brain.verbatim import verbatim_text

__all__ = ["ObedientBrain"]

_GREETING = "Hello. How can I help you?"
_NOT_HEARD = "Sorry, I did not hear you. Could you say that again?"


class ObedientBrain:
    """Decides by fixed rules: the same conversation always gets the same answer.

    In this order: a verbatim text is said; a tool result is spoken; a tool that matches the caller's words is called;
    otherwise the brain says that no tool matches, or repeats the caller's words.
    """

    def respond(self, request: BrainRequest) -> Sequence[Step]:
        """Return one step: the results of all pending calls as one text, or one text, or one call."""
        verbatim = verbatim_text(request.instructions)
        if verbatim is not None:
            return (Speak(verbatim),)
        results = _new_results(request.history)
        if results:
            return (Speak(" ".join(speak_result(result.output) for result in results)),)
        return (self._answer(request),)

    def _answer(self, request: BrainRequest) -> Step:
        heard = _last_heard(request.history)
        if request.tools and request.tool_choice != "none":
            tool = _choose(request, heard or "")
            if tool is not None:
                return CallFunction(
                    tool.name, json.dumps(fill_arguments(tool.parameters, heard or ""), ensure_ascii=False)
                )
        if heard is None:
            return Speak(_GREETING)
        if not heard.strip():
            return Speak(_NOT_HEARD)
        if request.tools:
            return Speak(f"I heard: {_as_sentence(heard)} I found no tool of mine that fits.")
        return Speak(f"You said: {_as_sentence(heard)}")


def _choose(request: BrainRequest, heard: str) -> ToolOffer | None:
    match request.tool_choice:
        case "auto":
            return best_tool(heard, request.tools)
        case "required":
            return best_tool(heard, request.tools, forced=True)
        case name:
            return next((tool for tool in request.tools if tool.name == name), None)


def _new_results(history: Sequence[Message | ToolResult]) -> list[ToolResult]:
    """Return the results of this turn that no reply has followed yet; if there are none, its last result."""
    since: list[ToolResult] = []
    fresh: list[ToolResult] = []
    for entry in history:
        match entry:
            case ToolResult():
                since.append(entry)
                fresh.append(entry)
            case Message(role="user"):
                since, fresh = [], []
            case Message(role="assistant"):
                fresh = []
            case _:
                continue
    return fresh or since[-1:]


def _last_heard(history: Sequence[Message | ToolResult]) -> str | None:
    said = (entry.text for entry in reversed(history) if isinstance(entry, Message) and entry.role == "user")
    return next(said, None)


def _as_sentence(text: str) -> str:
    stripped = text.strip()
    return stripped if stripped[-1:] in {".", "!", "?"} else f"{stripped}."
