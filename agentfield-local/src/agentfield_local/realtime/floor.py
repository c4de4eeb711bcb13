"""What of the replies the caller hears: what is playing, what is cut, and how much of it was heard. Sans-I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentfield_local.realtime.items import Item
from agentfield_local.realtime.responses import Response
from agentfield_local.realtime.stage import Stage
from agentfield_local.refusals import Refusal
from agentfield_local.webrtc.playout import Cleared, Played

__all__ = ["Floor"]


class Floor:
    """The playback of one caller's replies; on a WebSocket, where the client plays, there is nothing to clear.

    Args:
        stage: Items, switches, playout and the way out.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._playout = stage.playout
        self._aside: set[str] = set()
        self._last_played: str | None = None

    @property
    def busy(self) -> bool:
        """Whether anything is playing."""
        return self._playout is not None and self._playout.playing

    def put_aside(self, response_id: str) -> None:
        """Say that a response is beside the conversation, so that speech does not interrupt it."""
        self._aside.add(response_id)

    def forget(self, response_id: str) -> None:
        """A response is done; what it still plays goes on."""
        if self._playout is None or not self._playout.holds(response_id):
            self._aside.discard(response_id)

    def played(self, event: Played) -> None:
        """The first or last sound of a reply has left."""
        self._last_played = event.response_id
        self._stage.emit(f"output_audio_buffer.{event.what}", response_id=event.response_id)
        if event.what == "stopped":
            self._aside.discard(event.response_id)

    def interrupt(self, active: Response | None) -> None:
        """The caller speaks: stop what plays of the conversation and end the response in progress."""
        self._clear(lambda response_id: response_id not in self._aside, cancel=active)

    def clear(self) -> None:
        """Stop all that plays because a client says so.

        Raises:
            Refusal: There is no playback here.
        """
        if self._playout is None:
            text = "output_audio_buffer.clear is only available over WebRTC and SIP."
            raise Refusal(text, code="invalid_value", param="type")
        if not self._clear(lambda _: True) and self._last_played is not None:
            self._stage.emit("output_audio_buffer.cleared", response_id=self._last_played)

    def cut(self, item: Item, audio_end_ms: int, *, announce: bool = True) -> None:
        """Truncate an item at what was heard of it."""
        item.truncate(audio_end_ms)
        if announce:
            kind = "conversation.item.truncated"
            self._stage.emit(kind, item_id=item.id, content_index=0, audio_end_ms=audio_end_ms)

    def _clear(self, wanted: Callable[[str], bool], *, cancel: Response | None = None) -> bool:
        """Stop what is playing, end the response, truncate what was cut; say whether anything was heard of it."""
        cleared = self._playout.clear(wanted) if self._playout is not None else []
        behaviour = self._stage.behaviour
        if behaviour.order.cleared == "before_done":
            self._tell_cleared(cleared)
        if cancel is not None:
            cancel.finish("cancelled", reason="turn_detected")
        if behaviour.order.cleared == "after_done":
            self._tell_cleared(cleared)
        for reply in cleared:
            self._aside.discard(reply.response_id)
            for item_id, heard_ms in reply.heard.items():
                item = self._stage.items.get(item_id)
                if item is not None and heard_ms < item.audio_ms:
                    self.cut(item, heard_ms, announce=behaviour.announce_truncation)
        return any(reply.started for reply in cleared)

    def _tell_cleared(self, cleared: Sequence[Cleared]) -> None:
        for reply in cleared:
            if reply.started:
                self._stage.emit("output_audio_buffer.cleared", response_id=reply.response_id)
