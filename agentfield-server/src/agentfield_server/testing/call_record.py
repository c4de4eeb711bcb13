"""The transcript of a session for people: speech of both sides, calls with their outcome, and the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agentfield.wire.rest import ExecutionView

__all__ = ["CallRecord", "ExecutionNode", "SpeechRecord", "first_line", "speeches_in", "tree_of"]

_CALLED = ("call", "tool")


class ExecutionNode(NamedTuple):
    """An execution and its children; compares equal to a plain tuple, `str()` draws the tree."""

    kind: str
    target: str
    status: str
    children: Sequence[Any] = ()

    def __str__(self) -> str:
        return "\n".join(_tree_lines(self))


@dataclass(slots=True)
class SpeechRecord:
    """A speech of the agent, as recorded so far."""

    speech_id: str
    kind: str
    asked: str | None
    turn_id: str | None
    begun: bool = True
    """Whether it was sent to the provider; the records name no turn for one that was not."""
    outcome: Mapping[str, Any] | None = None
    """Body of `speech.ended`, None while it is under way."""

    @property
    def words(self) -> str:
        """The generated text, or the requested text where nothing was generated."""
        generated = str(self.outcome.get("generated") or "") if self.outcome is not None else ""
        return generated or self.asked or ""

    @property
    def status(self) -> str:
        """How it ended: `whole`, `interrupted`, `stale`, `failed`, or `under way`."""
        if self.outcome is None:
            return "under way"
        if self.outcome.get("stale"):
            return "stale"
        if self.outcome.get("failed"):
            return "failed"
        return "interrupted" if self.outcome.get("interrupted") else "whole"

    def __str__(self) -> str:
        told = self.outcome or {}
        match self.status:
            case "under way":
                return f"agent: {self.words} [under way]"
            case "stale":
                return f"agent, unsaid: {self.words} [stale: the caller had gone on]"
            case "failed":
                said = told.get("generated") or ""
                return (
                    f"agent: {said} [failed: {told['failed']}]"
                    if said
                    else f"agent, unsaid: {self.words} [failed: {told['failed']}]"
                )
            case _ if not self.words:
                return "agent: (called a tool)" if told.get("tool_calls") else "agent: (nothing was generated)"
            case "interrupted":
                return f"agent: {told.get('heard_text') or ''} [cut off; unheard: {told.get('remaining') or ''}]"
            case _:
                other = told.get("verbatim") is False
                return f"agent: {self.words}" + (f" [asked: {self.asked}]" if other else "")


def speeches_in(events: Iterable[Mapping[str, Any]]) -> list[SpeechRecord]:
    """Return the speeches in recorded events, in the order in which they began."""
    found: dict[str, SpeechRecord] = {}
    for event in events:
        body = event["body"]
        match event["type"]:
            case "speech.started":
                name = body["speech_id"]
                found[name] = SpeechRecord(name, body["kind"], body.get("asked"), body.get("turn_id"))
            case "speech.ended":
                name = body["speech_id"]
                said = found.setdefault(name, SpeechRecord(name, "say", body.get("asked"), None, begun=False))
                said.outcome = body
    return list(found.values())


@dataclass(slots=True)
class CallRecord:
    """The transcript of a session; `str()` renders it.

    Args:
        title: First line of the transcript.
        events: The recorded events.
    """

    title: str
    events: Sequence[Mapping[str, Any]]
    _ended: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def __str__(self) -> str:
        self._ended = {e["execution_id"]: e["body"] for e in self.events if e["type"] == "execution.ended"}
        speeches = {said.speech_id: said for said in speeches_in(self.events)}
        lines = [self.title]
        for event in self.events:
            lines += (f"  {line}" for line in self._lines(event, speeches))
        return "\n".join(lines)

    def _lines(self, event: Mapping[str, Any], speeches: dict[str, SpeechRecord]) -> Iterable[str]:
        body = event["body"]
        match event["type"]:
            case "turn.committed":
                missing = f"(no words: {body.get('text_missing')})"
                yield f"caller: {body['text'] if body.get('text') is not None else missing}"
            case "turn.discarded":
                yield f"caller: (discarded: {body['why']})"
            case "turn.transcript":
                yield f"caller: {body['text']} (late)"
            case "dtmf":
                yield f"caller: (key {body['digit']})"
            case "backchannel":
                yield "caller: (too short to interrupt)"
            case "speech.started" | "speech.ended":
                # listed once: where it began, or where it was dropped if it never began
                if (said := speeches.pop(body["speech_id"], None)) is not None:
                    yield str(said)
            case "execution.created" if body["kind"] in _CALLED:
                yield f"  {body['kind']} {body['target']}: {self._status(event)}"
            case "tool.refused":
                yield f"  tool {body['name']}: refused ({body['why']})"
            case "handler.failed":
                yield f"  handler failed: {first_line(body['message'])}"
            case "warning":
                yield f"  warning {body['code']}: {first_line(body['message'])}"
            case "session.state" if body.get("state") == "ended":
                yield f"ended: {body['reason']}" + (f" ({body['detail']})" if body.get("detail") else "")

    def _status(self, event: Mapping[str, Any]) -> str:
        ended = self._ended.get(event["execution_id"])
        if ended is None:
            return str(event["body"]["status"])
        problem = ended.get("problem")
        return str(ended["status"]) + (f" ({first_line(problem.get('detail'))})" if problem else "")


def first_line(text: object) -> str:
    """Return the first line of a message, which is the message without its hints."""
    return str(text).partition("\n")[0]


def tree_of(executions: Iterable[ExecutionView], root: str) -> ExecutionNode:
    """Return an execution with all its descendants."""
    known = list(executions)
    top = next(each for each in known if each.id == root)
    below = [tree_of(known, each.id) for each in known if each.parent_id == root]
    return ExecutionNode(top.kind, top.target, top.status, below)


def _tree_lines(node: ExecutionNode) -> Iterable[str]:
    yield f"{node.kind} {node.target}: {node.status}"
    for number, child in enumerate(node.children):
        last = number == len(node.children) - 1
        first, *rest = _tree_lines(child)
        yield ("└─ " if last else "├─ ") + first
        yield from (("   " if last else "│  ") + connection for connection in rest)
