"""The provider's end of a contract test: a voice of tones and a scripted brain, which both record their requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from threading import Lock

from agentfield_local.brain.obedient import ObedientBrain
from agentfield_local.brain.protocol import BrainRequest, CallFunction, Message, Speak, Step, ToolResult
from agentfield_local.brain.scripted import paraphrase
from agentfield_local.brain.verbatim import verbatim_text
from agentfield_local.speech.synthetic import ToneTts

__all__ = ["ScriptedBrain", "Voice"]


class Voice(ToneTts):
    """The provider's voice as tones; it records the requested texts."""

    def __init__(self) -> None:
        self.spoken: list[str] = []

    @property
    def voices(self) -> tuple[str, ...]:
        """The voice of the offline provider."""
        return ("joe",)

    def say(self, text: str) -> Iterator[bytes]:
        """Speak."""
        self.spoken.append(text)
        return super().say(text)


class ScriptedBrain:
    """An obedient brain that makes these tool calls at the first turn, and records its requests.

    Args:
        calls: The tool calls of one response: the name of a function and its arguments.
        rewords: Whether it rewords requested texts.
        while_saying: A text that it says before these calls, in the same response.
    """

    def __init__(
        self, calls: Iterable[tuple[str, str]] = (), *, rewords: bool = False, while_saying: str | None = None
    ) -> None:
        self.asked: list[BrainRequest] = []
        self._calls = list(calls)
        self._rewords = rewords
        self._first = [] if while_saying is None else [Speak(while_saying)]
        self._obedient = ObedientBrain()
        self._lock = Lock()

    def respond(self, request: BrainRequest) -> Sequence[Step]:
        """Return the steps of the response."""
        with self._lock:
            self.asked.append(request)
            verbatim = verbatim_text(request.instructions)
            if verbatim is not None:
                return (Speak(paraphrase(verbatim) if self._rewords else verbatim),)
            if self._calls and request.tools:
                calls, self._calls = self._calls, []
                return [
                    *self._first,
                    *(CallFunction(self._named(request, name), arguments) for name, arguments in calls),
                ]
            if request.history and isinstance(request.history[-1], ToolResult):
                return (Speak("Done."),)
        return self._obedient.respond(replace(request, tools=()))

    def results(self) -> list[str]:
        """Return the tool results of the last request."""
        return [entry.output for entry in self.asked[-1].history if isinstance(entry, ToolResult)]

    def history(self) -> list[tuple[str, str]]:
        """Return role and text of the history of the last request."""
        return [(entry.role, entry.text) for entry in self.asked[-1].history if isinstance(entry, Message)]

    @staticmethod
    def _named(request: BrainRequest, name: str) -> str:
        return next((tool.name for tool in request.tools if tool.name.endswith(name)), name)
