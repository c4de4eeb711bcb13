"""Brains: rule-based stand-ins for a model, which decide the text and the tool calls of a response.

A `BrainRequest` (instructions, history, tools) goes in, steps (`Speak`, `CallFunction`) come out. Read `protocol` and
`obedient` first. `matcher`, `arguments` and `numbers` choose a tool and fill its arguments from the caller's words,
`results` turns a tool's output into a sentence, `verbatim` finds texts to say exactly, `scripted` plays a script for
tests, and `tokens` counts tokens.
"""

from __future__ import annotations

from agentfield.errors import InvalidInput
from agentfield_local.brain.obedient import ObedientBrain
from agentfield_local.brain.protocol import Brain
from agentfield_local.brain.scripted import ScriptedBrain

__all__ = ["BRAIN_NAMES", "ObedientBrain", "ScriptedBrain", "load_brain"]

BRAIN_NAMES = ("obedient", "paraphrasing")
"""Names of the brains: one that obeys, and one that rewords every verbatim text."""


def load_brain(name: str = "obedient") -> Brain:
    """Return a new brain of this name.

    Raises:
        InvalidInput: There is no such brain.
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
