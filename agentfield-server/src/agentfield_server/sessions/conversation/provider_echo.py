"""What the provider repeats of the configuration when its session is ready, compared with what was asked for."""

from __future__ import annotations

from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import SessionReady, SessionUpdated
from agentfield_server.sessions.conversation.state import MachineState
from agentfield_server.sessions.conversation.text_compare import is_same_model

__all__ = ["mismatch", "record_attached"]


def mismatch(config: SessionConfig, event: SessionReady | SessionUpdated) -> str | None:
    """Return how the provider's model or voice differs from the requested one, None if it does not."""
    pairs = (("model", config.model, event.model), ("voice", config.voice, event.voice))
    for what, asked, echoed in pairs:
        if asked is not None and echoed is not None and not is_same_model(asked, echoed):
            return f"asked for {what} {asked!r}, the provider answered with {echoed!r}"
    return None


def record_attached(state: MachineState, event: SessionReady) -> None:
    """Record the ready session, and warn if the provider did not repeat what it otherwise repeats."""
    missing = {"model"} if event.model is None else set[str]()
    if state.config.voice is not None and event.voice is None:
        missing.add("voice")
    if missing & state.capabilities.echoes:
        state.warn("unverified", "the provider did not say which model and voice it uses")
    state.record("provider.attached", model=event.model, voice=event.voice, verified=not missing)
