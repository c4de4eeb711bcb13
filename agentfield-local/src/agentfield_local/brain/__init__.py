"""Brains: what decides the words and the calls of a response; chosen explicitly by name."""

from __future__ import annotations

from agentfield.errors import InvalidInput
from agentfield_local.brain.obedient import ObedientBrain
from agentfield_local.brain.protocol import Brain
from agentfield_local.brain.scripted import ScriptedBrain

__all__ = ["BRAIN_NAMES", "ObedientBrain", "ScriptedBrain", "load_brain"]

BRAIN_NAMES = ("obedient", "paraphrasing")
"""The brains that can be chosen: one that obeys, and one that rewords every verbatim say."""


def load_brain(name: str = "obedient") -> Brain:
    """Return a new brain of this name.

    Raises:
        InvalidInput: there is no such brain.
    """
    match name:
        case "obedient":
            return ObedientBrain()
        case "paraphrasing":
            return ScriptedBrain(paraphrase=True)
        case _:
            raise InvalidInput(
                f"there is no brain named {name!r}; there are: {', '.join(BRAIN_NAMES)}",
                hint=f"choose one of: {', '.join(BRAIN_NAMES)}",
                field="brain",
            )
