"""What all parts of a conversation share: its items, its switches and the way out for events and effects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentfield_local.behaviour import Behaviour
from agentfield_local.realtime.effects import Effect, Send
from agentfield_local.realtime.items import ItemStore
from agentfield_local.refusals import Refusal
from agentfield_local.webrtc.playout import Playout

__all__ = ["Stage"]

_PHASE = "final_answer"


class Stage:
    """Collects what is to be sent and done, in order.

    Args:
        new_id: Makes ids from a prefix.
        behaviour: The switches.
        playout: What is played to the caller; None on a WebSocket.
    """

    def __init__(self, new_id: Callable[[str], str], behaviour: Behaviour, playout: Playout | None) -> None:
        self.new_id = new_id
        self.behaviour = behaviour
        self.playout = playout
        self.items = ItemStore(new_id)
        self._out: list[Effect] = []
        self._requests = 0

    def emit(self, kind: str, **fields: Any) -> None:
        """Send a server event to all legs."""
        event = self._dress({"type": kind, "event_id": self.new_id("event"), **fields})
        self.do(Send(event))
        if kind in self.behaviour.duplicate_events:
            self.do(Send(event))

    def tell(self, leg: str, kind: str, **fields: Any) -> None:
        """Send a server event to one leg."""
        self.do(Send(self._dress({"type": kind, "event_id": self.new_id("event"), **fields}), to=leg))

    def refuse(self, leg: str, refusal: Refusal, event_id: str | None) -> None:
        """Tell a leg that its event was refused."""
        self.tell(leg, "error", error=refusal.body(event_id))

    def rate_limits(self) -> None:
        """Send `rate_limits.updated`."""
        self._requests += 1
        limits = [
            {"name": "requests", "limit": 1000, "remaining": max(0, 1000 - self._requests), "reset_seconds": 60.0},
            {"name": "tokens", "limit": 40_000, "remaining": 40_000, "reset_seconds": 60.0},
        ]
        self.emit("rate_limits.updated", rate_limits=limits)

    def do(self, effect: Effect) -> None:
        """Ask the surroundings for something."""
        self._out.append(effect)

    def drain(self) -> list[Effect]:
        """Return what was collected and begin anew."""
        out, self._out = self._out, []
        return out

    def _dress(self, event: dict[str, Any]) -> dict[str, Any]:
        behaviour = self.behaviour
        if behaviour.unknown_fields:
            event["x_novelty"] = {"since": "tomorrow"}
            if isinstance(event.get("item"), dict):
                event["item"] = {**event["item"], "x_mood": "curious"}
        match behaviour.phase:
            case "items":
                _phase_items(event)
            case "parts" if isinstance(event.get("part"), dict):
                event["part"] = {**event["part"], "phase": _PHASE}
            case "events" if str(event["type"]).startswith("response.o"):
                event["phase"] = _PHASE
        return event


def _phase_items(event: dict[str, Any]) -> None:
    """Say of every message of the assistant in an event what it is for."""
    if isinstance(event.get("item"), dict):
        event["item"] = _phased(event["item"])
    response = event.get("response")
    if isinstance(response, dict):
        event["response"] = {**response, "output": [_phased(item) for item in response["output"]]}


def _phased(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "phase": _PHASE} if item.get("role") == "assistant" else item
