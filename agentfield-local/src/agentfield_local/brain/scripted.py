"""Scripted brain for tests; it can also reword verbatim texts."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from threading import Lock

from agentfield_local.brain.obedient import ObedientBrain
from agentfield_local.brain.protocol import Brain, BrainRequest, Speak, Step
from agentfield_local.brain.verbatim import verbatim_text

__all__ = ["ScriptedBrain", "paraphrase"]

_OTHER_WORDS = {
    "found": "located",
    "order": "purchase",
    "want": "like",
    "start": "begin",
    "stuck": "held",
    "replacement": "substitute",
    "help": "assist",
    "please": "kindly",
    "yes": "certainly",
    "hello": "hi",
    "goodbye": "bye",
    "sorry": "apologies",
    "need": "require",
    "done": "finished",
}
_WORD = re.compile(r"[A-Za-z]+")


class ScriptedBrain:
    """Answers each response with the next entry of a script, then like its fallback.

    Args:
        steps: Steps of each response, in order.
        paraphrase: Reword a verbatim text, as a model may; a verbatim response consumes no entry.
        fallback: Brain after the end of the script; the obedient brain by default.
    """

    def __init__(
        self, steps: Iterable[Sequence[Step]] = (), *, paraphrase: bool = False, fallback: Brain | None = None
    ) -> None:
        self._steps = deque(tuple(step) for step in steps)
        self._paraphrase = paraphrase
        self._fallback: Brain = fallback or ObedientBrain()
        self._lock = Lock()

    def respond(self, request: BrainRequest) -> Sequence[Step]:
        """Return the output items of the next response, in order."""
        verbatim = verbatim_text(request.instructions)
        if verbatim is not None:
            return (Speak(paraphrase(verbatim) if self._paraphrase else verbatim),)
        with self._lock:
            if self._steps:
                return self._steps.popleft()
        return self._fallback.respond(request)


def paraphrase(text: str) -> str:
    """Return a text in other words, as of a model that does not stick to its text; deterministic."""
    return f"Sure, {_WORD.sub(_reword, text)}" if text.strip() else text


def _reword(match: re.Match[str]) -> str:
    word = match[0]
    other = _OTHER_WORDS.get(word.lower(), word)
    return other.capitalize() if word[0].isupper() and other != word else other
