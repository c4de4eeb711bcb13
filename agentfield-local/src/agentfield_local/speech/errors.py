"""What can go wrong with speech engines, as typed errors."""

from __future__ import annotations

from agentfield.errors import AgentFieldError, Unavailable

__all__ = ["SpeechFailed", "SpeechUnavailable"]


class SpeechUnavailable(Unavailable):
    """The chosen speech engines cannot be used here: not installed, not for this system, or not what they claim."""

    code = "speech_unavailable"


class SpeechFailed(AgentFieldError):
    """A speech engine refused or broke on one utterance; the engine itself stays usable."""

    code = "speech_failed"
    status = 500
