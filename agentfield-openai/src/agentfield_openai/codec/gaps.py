"""Gaps: a sideband was lost and is attached again, so what may have been missed is asked for, and given up in the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentfield.adapterkit.fields import ident, mapping
from agentfield.realtime.events import Event, ProviderFault, ReplyEnded, Warned
from agentfield_openai.codec.ledger import Ledger
from agentfield_openai.codec.turns import Turns

__all__ = ["Gaps"]

_AFTER_GAP = 10.0
"""Seconds after a re-attachment in which an open reply must show a sign of life."""
_MOST_RETRIEVED = 16
"""Items that are asked for after one re-attachment."""


class Gaps:
    """Follows what began before a gap, and finds what began within it.

    Args:
        ledger: The memory of the call.
        turns: The caller's side.
    """

    def __init__(self, ledger: Ledger, turns: Turns) -> None:
        self._ledger = ledger
        self._turns = turns
        self._waiting: dict[str, float] = {}
        self._budget = 0

    @property
    def open(self) -> bool:
        """Whether something from before a gap has not been heard of since."""
        return bool(self._waiting)

    def due(self) -> float | None:
        """Return when `give_up` has something to do."""
        return min(self._waiting.values(), default=None)

    def begin(self, now: float) -> list[Event]:
        """Take note that events may have been missed until now, and ask for the items that this concerns."""
        ledger = self._ledger
        ledger.updates.clear()
        replies = [reply for reply in ledger.replies.values() if not reply.ended]
        self._waiting = {reply.id: now + _AFTER_GAP for reply in replies}
        for asked in ledger.awaited.values():
            if asked.command is not None:
                self._waiting[asked.command] = now + _AFTER_GAP
        items = [*self._turns.unfinished(), *(item for reply in replies for item in (*reply.items, *reply.pieces))]
        self._budget = _MOST_RETRIEVED
        for item in dict.fromkeys(items):
            ledger.retrieved.pop(item)  # an answer to an earlier question may be lost too
            self._ask(item)
        return [
            Warned(code="reattached", message="The sideband was lost and is attached again; events may be missing.")
        ]

    def see(self, data: Mapping[str, Any]) -> None:
        """Notice which items and replies an event speaks of."""
        item = mapping(data, "item")
        previous = ident(data, "previous_item_id")
        if previous is not None and previous not in self._ledger.items:
            self._ask(previous)
        for found in (ident(data, "item_id"), ident(item, "id"), previous):
            if found is not None:
                self._ledger.items.set(found, None)
        if self._waiting:
            response = mapping(data, "response")
            names = (ident(data, "response_id"), ident(response, "id"), ident(mapping(response, "metadata"), "af_id"))
            for name in names:
                if name is not None:
                    self._waiting.pop(name, None)

    def give_up(self, now: float) -> list[Event]:
        """End what began before a gap and was not heard of since."""
        events: list[Event] = []
        for key in [key for key, due in self._waiting.items() if due <= now]:
            del self._waiting[key]
            events += self._lost(key)
        return events

    def _ask(self, item: str) -> None:
        if self._budget > 0:
            self._budget -= 1
            self._ledger.retrieve(item)

    def _lost(self, key: str) -> list[Event]:
        reply = self._ledger.replies.get(key)
        if reply is None:
            if self._ledger.awaited.pop(key) is None:
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
