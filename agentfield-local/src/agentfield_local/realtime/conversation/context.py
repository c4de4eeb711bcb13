"""Shared state of the parts of a conversation: items, behaviour, output buffer, and the effects collected so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentfield_local.faults.behaviour import Behaviour
from agentfield_local.faults.beta_shape import BETA_NAMES
from agentfield_local.realtime.conversation.effects import Effect, SendEvent
from agentfield_local.realtime.conversation.items import ItemStore
from agentfield_local.webrtc.output_buffer import OutputAudioBuffer
from agentfield_local.wire.refusals import Refusal

__all__ = ["ConversationContext"]

_PHASE = "final_answer"


class ConversationContext:
    """Collects effects in order; `drain` returns them.

    Args:
        new_id: Makes ids from a prefix.
        behaviour: Behaviour of the session.
        output_buffer: Audio that the caller plays; None on a WebSocket.
    """

    def __init__(
        self, new_id: Callable[[str], str], behaviour: Behaviour, output_buffer: OutputAudioBuffer | None
    ) -> None:
        self.new_id = new_id
        self.behaviour = behaviour
        self.output_buffer = output_buffer
        self.items = ItemStore(new_id)
        self._effects: list[Effect] = []
        self._requests = 0

    def emit(self, kind: str, **fields: Any) -> None:
        """Send a server event to all legs."""
        event = self._vary({"type": kind, "event_id": self.new_id("event"), **fields})
        self.add_effect(SendEvent(event))
        if kind in self.behaviour.duplicate_events:
            self.add_effect(SendEvent(event))

    def emit_to(self, leg: str, kind: str, **fields: Any) -> None:
        """Send a server event to one leg."""
        self.add_effect(SendEvent(self._vary({"type": kind, "event_id": self.new_id("event"), **fields}), to=leg))

    def emit_refusal(self, leg: str, refusal: Refusal, event_id: str | None) -> None:
        """Send the refusal of a client event to its leg."""
        self.emit_to(leg, "error", error=refusal.body(event_id))

    def emit_rate_limits(self) -> None:
        """Send `rate_limits.updated`."""
        self._requests += 1
        limits = [
            {"name": "requests", "limit": 1000, "remaining": max(0, 1000 - self._requests), "reset_seconds": 60.0},
            {"name": "tokens", "limit": 40_000, "remaining": 40_000, "reset_seconds": 60.0},
        ]
        self.emit("rate_limits.updated", rate_limits=limits)

    def add_effect(self, effect: Effect) -> None:
        """Append an effect."""
        self._effects.append(effect)

    def drain(self) -> list[Effect]:
        """Return the collected effects and start an empty list."""
        effects, self._effects = self._effects, []
        return effects

    def _vary(self, event: dict[str, Any]) -> dict[str, Any]:
        """Add the unknown fields and the `phase` that the behaviour asks for."""
        behaviour = self.behaviour
        if behaviour.event_names == "beta":
            event["type"] = BETA_NAMES.get(event["type"], event["type"])
        if not behaviour.echo_metadata and isinstance(event.get("response"), dict):
            event["response"] = {**event["response"], "metadata": None}
        if behaviour.unknown_fields:
            event["x_novelty"] = {"since": "tomorrow"}
            if isinstance(event.get("item"), dict):
                event["item"] = {**event["item"], "x_mood": "curious"}
        match behaviour.phase:
            case "items":
                _add_phase_to_items(event)
            case "parts" if isinstance(event.get("part"), dict):
                event["part"] = {**event["part"], "phase": _PHASE}
            case "events" if str(event["type"]).startswith("response.o"):
                event["phase"] = _PHASE
        return event


def _add_phase_to_items(event: dict[str, Any]) -> None:
    """Add `phase` to every assistant message in an event."""
    if isinstance(event.get("item"), dict):
        event["item"] = _with_phase(event["item"])
    response = event.get("response")
    if isinstance(response, dict):
        event["response"] = {**response, "output": [_with_phase(item) for item in response["output"]]}


def _with_phase(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "phase": _PHASE} if item.get("role") == "assistant" else item
