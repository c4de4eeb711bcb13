"""The provider's end of a contract test: a voice of tones and a brain that does what the test says, both with a memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from threading import Lock

from agentfield_local.brain.obedient import ObedientBrain
from agentfield_local.brain.protocol import BrainRequest, Call, Message, Say, Step, ToolResult
from agentfield_local.brain.scripted import paraphrase
from agentfield_local.brain.verbatim import verbatim_text
from agentfield_local.speech.energy import ToneTts

__all__ = ["Mind", "Voice"]


class Voice(ToneTts):
    """The voice of the provider, as tones; it remembers what it was asked to speak."""

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


class Mind:
    """A brain that obeys, but makes these calls for the first thing that it hears and no others; it remembers what it was asked.

    Args:
        calls: The calls of one response: a target's last name and its arguments.
        rewords: Whether it says in other words what it is told to say.
        while_saying: What it says before these calls, in the same response.
    """

    def __init__(
        self, calls: Iterable[tuple[str, str]] = (), *, rewords: bool = False, while_saying: str | None = None
    ) -> None:
        self.asked: list[BrainRequest] = []
        self._calls = list(calls)
        self._rewords = rewords
        self._first = [] if while_saying is None else [Say(while_saying)]
        self._obedient = ObedientBrain()
        self._lock = Lock()

    def respond(self, request: BrainRequest) -> Sequence[Step]:
        """Return what is said or called next."""
        with self._lock:
            self.asked.append(request)
            verbatim = verbatim_text(request.instructions)
            if verbatim is not None:
                return (Say(paraphrase(verbatim) if self._rewords else verbatim),)
            if self._calls and request.tools:
                calls, self._calls = self._calls, []
                return [*self._first, *(Call(self._named(request, name), arguments) for name, arguments in calls)]
            if request.history and isinstance(request.history[-1], ToolResult):
                return (Say("Done."),)
        return self._obedient.respond(replace(request, tools=()))

    def results(self) -> list[str]:
        """Return the results of calls that it was told last."""
        return [entry.output for entry in self.asked[-1].history if isinstance(entry, ToolResult)]

    def history(self) -> list[tuple[str, str]]:
        """Return who said what before it was asked last."""
        return [(entry.role, entry.text) for entry in self.asked[-1].history if isinstance(entry, Message)]

    @staticmethod
    def _named(request: BrainRequest, name: str) -> str:
        return next((tool.name for tool in request.tools if tool.name.endswith(name)), name)
