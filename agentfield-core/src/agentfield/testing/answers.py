"""What a scripted model answers: words, tools that it uses, or a function that decides."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from agentfield.realtime.events import Usage

__all__ = ["Answer", "Answering", "Asked", "Use", "answer_of"]


class Use:
    """A tool that the model uses.

    Args:
        target: ``node.reasoner``; one that the session does not offer is a mistake in the script, unless `listed` is False.
        listed: False where the test wants to see what becomes of a tool that nobody offered.
        written: The arguments as the model writes them, where they are to be something else than JSON of `arguments`.
        **arguments: What it is given.
    """

    def __init__(self, target: str, /, *, listed: bool = True, written: str | None = None, **arguments: Any) -> None:
        self.target = target
        self.listed = listed
        self.arguments = json.dumps(arguments) if written is None else written

    def __repr__(self) -> str:
        return f"Use({self.target!r}, {self.arguments})"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the model: words, tools, or words before tools."""

    text: str = ""
    uses: tuple[Use, ...] = ()
    usage: Usage | None = None
    """What it cost, where that matters."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the model is asked, for an answer that depends on it."""

    heard: str | None
    """What the caller said last."""
    instructions: str | None
    """Those of this one answer."""
    offered: tuple[str, ...]
    """The tools that it may use."""
    results: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """What the tools gave that it used since its last answer, by target."""


Answering = str | Use | Answer | Callable[[Asked], "str | Use | Answer"]
"""Anything that a script takes for an answer."""


def answer_of(given: Answering, asked: Asked) -> Answer:
    """Return what a script's answer comes to."""
    value = given if isinstance(given, str | Use | Answer) else given(asked)
    match value:
        case str():
            return Answer(value)
        case Use():
            return Answer(uses=(value,))
        case _:
            return value
