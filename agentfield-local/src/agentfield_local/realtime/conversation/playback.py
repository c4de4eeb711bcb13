"""Playback of replies to a WebRTC caller: what is playing, interruption, and truncation to what was heard. Sans-I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentfield_local.realtime.conversation.context import ConversationContext
from agentfield_local.realtime.conversation.items import Item
from agentfield_local.realtime.conversation.responses.response import Response
from agentfield_local.webrtc.output_buffer import ClearedResponse, PlaybackEvent
from agentfield_local.wire.refusals import Refusal

__all__ = ["Playback"]


class Playback:
    """Playback of one caller's replies; on a WebSocket, where the client plays, there is nothing to clear.

    Args:
        context: Items, behaviour and output buffer.
    """

    def __init__(self, context: ConversationContext) -> None:
        self._context = context
        self._output_buffer = context.output_buffer
        self._out_of_band: set[str] = set()
        self._last_played: str | None = None

    @property
    def playing(self) -> bool:
        """Whether anything is playing."""
        return self._output_buffer is not None and self._output_buffer.playing

    def mark_out_of_band(self, response_id: str) -> None:
        """Exclude a response outside the default conversation from interruption by speech."""
        self._out_of_band.add(response_id)

    def response_done(self, response_id: str) -> None:
        """Forget a response unless its audio still plays."""
        if self._output_buffer is None or not self._output_buffer.holds(response_id):
            self._out_of_band.discard(response_id)

    def played(self, event: PlaybackEvent) -> None:
        """Report the first or last sound of a reply."""
        self._last_played = event.response_id
        self._context.emit(f"output_audio_buffer.{event.kind}", response_id=event.response_id)
        if event.kind == "stopped":
            self._out_of_band.discard(event.response_id)

    def interrupt(self, active: Response | None) -> None:
        """Stop the playback of the conversation and cancel the active response: the caller speaks."""
        self._clear(lambda response_id: response_id not in self._out_of_band, cancel=active)

    def clear(self) -> None:
        """Stop all playback at the request of a client.

        Raises:
            Refusal: The session has no output audio buffer.
        """
        if self._output_buffer is None:
            text = "output_audio_buffer.clear is only available over WebRTC and SIP."
            raise Refusal(text, code="invalid_value", param="type")
        if not self._clear(lambda _: True) and self._last_played is not None:
            self._context.emit("output_audio_buffer.cleared", response_id=self._last_played)

    def truncate(self, item: Item, audio_end_ms: int, *, announce: bool = True) -> None:
        """Truncate an item to the audio that was heard."""
        item.truncate(audio_end_ms)
        if announce:
            kind = "conversation.item.truncated"
            self._context.emit(kind, item_id=item.id, content_index=0, audio_end_ms=audio_end_ms)

    def _clear(self, matches: Callable[[str], bool], *, cancel: Response | None = None) -> bool:
        """Stop playback, cancel the response, truncate its items; return whether any of the audio was heard."""
        cleared = self._output_buffer.clear(matches) if self._output_buffer is not None else []
        behaviour = self._context.behaviour
        if behaviour.order.cleared == "before_done":
            self._emit_cleared(cleared)
        if cancel is not None:
            cancel.finish("cancelled", reason="turn_detected")
        if behaviour.order.cleared == "after_done":
            self._emit_cleared(cleared)
        # After `finish`, which closes the item that is being spoken: truncation needs its whole text and length.
        for reply in cleared:
            self._out_of_band.discard(reply.response_id)
            for item_id, heard_ms in reply.heard.items():
                item = self._context.items.get(item_id)
                if item is not None and heard_ms < item.audio_ms:
                    self.truncate(item, heard_ms, announce=behaviour.announce_truncation)
        return any(reply.started for reply in cleared)

    def _emit_cleared(self, cleared: Sequence[ClearedResponse]) -> None:
        for reply in cleared:
            if reply.started:
                self._context.emit("output_audio_buffer.cleared", response_id=reply.response_id)
