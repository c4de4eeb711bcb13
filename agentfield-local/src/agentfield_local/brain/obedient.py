"""The default brain: says what it is told, calls the tool that the words ask for, and says when it found none."""

from __future__ import annotations

import json
from collections.abc import Sequence

from agentfield_local.brain.arguments import fill_arguments
from agentfield_local.brain.matcher import best_tool
from agentfield_local.brain.protocol import BrainRequest, Call, Message, Say, Step, ToolOffer, ToolResult
from agentfield_local.brain.results import speak_result
from agentfield_local.brain.verbatim import verbatim_text

__all__ = ["ObedientBrain"]

_GREETING = "Hello. How can I help you?"
_NOT_HEARD = "Sorry, I did not hear you. Could you say that again?"


class ObedientBrain:
    """Decides by fixed rules, so that the same conversation always gets the same answer.

    In this order: a verbatim say is said; a tool's result is spoken; an offered tool that fits the caller's words is
    called; else it says that none fits, or repeats what it heard.
    """

    def respond(self, request: BrainRequest) -> Sequence[Step]:
        """Return the output items of the next response: one thing to say, or one call (a result each for several)."""
        verbatim = verbatim_text(request.instructions)
        if verbatim is not None:
            return (Say(verbatim),)
        results = _new_results(request.history)
        if results:
            return (Say(" ".join(speak_result(result.output) for result in results)),)
        return (self._answer(request),)

    def _answer(self, request: BrainRequest) -> Step:
        heard = _last_heard(request.history)
        if request.tools and request.tool_choice != "none":
            tool = _choose(request, heard or "")
            if tool is not None:
                return Call(tool.name, json.dumps(fill_arguments(tool.parameters, heard or ""), ensure_ascii=False))
        if heard is None:
            return Say(_GREETING)
        if not heard.strip():
            return Say(_NOT_HEARD)
        if request.tools:
            return Say(f"I heard: {_ended(heard)} I found no tool of mine that fits.")
        return Say(f"You said: {_ended(heard)}")


def _choose(request: BrainRequest, heard: str) -> ToolOffer | None:
    match request.tool_choice:
        case "auto":
            return best_tool(heard, request.tools)
        case "required":
            return best_tool(heard, request.tools, forced=True)
        case name:
            return next((tool for tool in request.tools if tool.name == name), None)


def _new_results(history: Sequence[Message | ToolResult]) -> list[ToolResult]:
    """Return the results since the caller last spoke that nothing was said about yet; else the last one of them."""
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


def _ended(text: str) -> str:
    stripped = text.strip()
    return stripped if stripped[-1:] in {".", "!", "?"} else f"{stripped}."
