"""Recovery after a sideband gap: retrieves the items whose events may be lost, and gives up on silent replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentfield.adapterkit.json_fields import id_at, object_at
from agentfield.realtime.events import Event, ProviderFault, ReplyEnded, Warned
from agentfield_openai.codec.caller_turns import CallerTurnTracker
from agentfield_openai.codec.state import CodecState

__all__ = ["SidebandGapRecovery"]

_RECOVERY_TIMEOUT = 10.0
"""Seconds after a re-attachment within which an open reply must produce an event."""
_MAX_RETRIEVED = 16
"""Most items that are retrieved after one re-attachment."""


class SidebandGapRecovery:
    """Tracks what began before a gap and finds what began during it.

    Args:
        state: The state of the codec.
        turns: The turns of the caller.
    """

    def __init__(self, state: CodecState, turns: CallerTurnTracker) -> None:
        self._state = state
        self._turns = turns
        self._waiting: dict[str, float] = {}
        self._budget = 0

    @property
    def open(self) -> bool:
        """Whether a reply or command from before the gap has produced no event since."""
        return bool(self._waiting)

    def get_timer(self) -> float | None:
        """Return the time at which `handle_timer` must be called, None if no gap is open."""
        return min(self._waiting.values(), default=None)

    def begin(self, now: float) -> list[Event]:
        """Start the recovery at `now`: set a deadline for open replies and commands, and retrieve their items."""
        state = self._state
        state.updates.clear()
        replies = [reply for reply in state.replies.values() if not reply.ended]
        self._waiting = {reply.id: now + _RECOVERY_TIMEOUT for reply in replies}
        for pending in state.awaiting_reply.values():
            if pending.command is not None:
                self._waiting[pending.command] = now + _RECOVERY_TIMEOUT
        items = [*self._turns.unfinished(), *(item for reply in replies for item in (*reply.items, *reply.pieces))]
        self._budget = _MAX_RETRIEVED
        for item in dict.fromkeys(items):
            state.retrieved.pop(item)  # the answer to an earlier retrieve may be lost too
            self._retrieve(item)
        return [
            Warned(code="reattached", message="The sideband was lost and is attached again; events may be missing.")
        ]

    def observe(self, data: Mapping[str, Any]) -> None:
        """Record the items and replies that an event names; retrieve a previous item that was never seen."""
        item = object_at(data, "item")
        previous = id_at(data, "previous_item_id")
        if previous is not None and previous not in self._state.items:
            self._retrieve(previous)
        for found in (id_at(data, "item_id"), id_at(item, "id"), previous):
            if found is not None:
                self._state.items.set(found, None)
        if self._waiting:
            response = object_at(data, "response")
            names = (id_at(data, "response_id"), id_at(response, "id"), id_at(object_at(response, "metadata"), "af_id"))
            for name in names:
                if name is not None:
                    self._waiting.pop(name, None)

    def handle_timer(self, now: float) -> list[Event]:
        """End the replies and commands whose deadline has passed."""
        events: list[Event] = []
        for key in [key for key, due in self._waiting.items() if due <= now]:
            del self._waiting[key]
            events += self._lost(key)
        return events

    def _retrieve(self, item: str) -> None:
        if self._budget > 0:
            self._budget -= 1
            self._state.retrieve(item)

    def _lost(self, key: str) -> list[Event]:
        reply = self._state.replies.get(key)
        if reply is None:
            if self._state.awaiting_reply.pop(key) is None:
                return []
            message = "The command was sent before the sideband was lost, and no reply to it was seen since."
            return [ProviderFault(code="command_lost", message=message, retry=True, command=key)]
        if reply.ended:
            return []
        reply.ended = True
        return [
            ReplyEnded(
                reply=reply.id,
                command=reply.command,
                status="incomplete",
                why="sideband_gap",
                text=reply.text(),
                tools=len(reply.calls),
            )
        ]
