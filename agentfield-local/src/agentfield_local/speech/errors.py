"""Typed errors of speech engines."""

from __future__ import annotations

from agentfield.errors import AgentFieldError, Unavailable

__all__ = ["SpeechFailed", "SpeechUnavailable"]


class SpeechUnavailable(Unavailable):
    """The chosen engines are unusable here: not installed, no support for this system, or unexpected model files."""

    code = "speech_unavailable"


class SpeechFailed(AgentFieldError):
    """A speech engine failed on one utterance; the engine stays usable."""

    code = "speech_failed"
    status = 500
