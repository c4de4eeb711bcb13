"""WebSocket connection with an immediate path for audio: frames are inspected on arrival and written without waiting.

`websockets` passes every frame through its parser and its receive queue to the reader task. For audio, which arrives
about 50 times a second per call, that path costs a tenth of a carried call; this subclass bypasses it where it is safe.
"""

from __future__ import annotations

from collections.abc import Callable

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.protocol import Event

__all__ = ["ImmediateConnection"]

_CONTROL_OPCODES = frozenset({Opcode.PING, Opcode.PONG})
"""Control frames that may arrive between the fragments of a message (RFC 6455, section 5.4)."""


class ImmediateConnection(ClientConnection):
    """A connection that can be written without waiting, and whose text frames can be consumed on arrival.

    Received data that is exactly one text frame is offered to `look` before the library parses it; audio arrives in this
    form while it is spoken. All other data, and a frame that `look` leaves, goes to the library's parser.
    """

    look: Callable[[bytes], bool] | None = None
    """Consumes a complete text frame and returns True, or returns False to leave it to `recv`."""
    drained = False
    """Whether the reader waits in `recv` with an empty queue; otherwise `look` would overtake queued frames."""
    _handshake = b""
    """Bytes of the handshake response received so far."""
    _unparsed: int | None = None
    """Bytes of an incomplete frame that the parser holds, None until the handshake is complete."""
    _at_message_start = True
    """Whether a text frame would be a whole message: no fragmented message is open, and no close frame was received."""

    def data_received(self, data: bytes) -> None:
        """Offer data that is exactly one text frame to `look`; pass everything else to the parser."""
        if self._unparsed is None:
            self._handshake += data
        elif (
            self._unparsed == 0
            and self._at_message_start
            and self.drained
            and self.look is not None
            and _is_text_frame(data)
        ):
            if self.look(data[4:]):
                return
            self._unparsed = len(data)
        else:
            self._unparsed += len(data)
        super().data_received(data)

    def process_event(self, event: Event) -> None:
        """Offer a parsed text frame to `look` if no earlier frame waits to be read."""
        if not isinstance(event, Frame):  # the handshake response; the first frames may share its packet
            _, _, after = self._handshake.partition(b"\r\n\r\n")
            self._unparsed, self._handshake = len(after), b""
        else:
            self._unparsed = (self._unparsed or 0) - _frame_size(event)
            if event.opcode not in _CONTROL_OPCODES:
                self._at_message_start = event.fin and event.opcode is not Opcode.CLOSE
                if self._offer(event):
                    return
                self.drained = False
        super().process_event(event)

    def _offer(self, frame: Frame) -> bool:
        is_message = frame.fin and frame.opcode is Opcode.TEXT
        return is_message and self.drained and self.look is not None and self.look(bytes(frame.data))

    def post(self, data: bytes) -> bool:
        """Write a text frame if the transport accepts more data; return whether it was written."""
        if self.paused:
            return False
        try:
            self.protocol.send_text(data)
        except InvalidState:
            return False
        for piece in self.protocol.data_to_send():
            self.transport.write(piece)
        return True


def _is_text_frame(data: bytes) -> bool:
    """Return whether `data` is one complete, unmasked text frame of 126 to 65535 bytes (RFC 6455, section 5.2)."""
    return data[:2] == b"\x81\x7e" and int.from_bytes(data[2:4], "big") == len(data) - 4


def _frame_size(frame: Frame) -> int:
    """Return the minimum length of an unmasked frame.

    A frame with a needlessly long length field then counts as if the parser held more bytes, which only disables `look`.
    """
    size = len(frame.data)
    return size + (2 if size < 126 else 4 if size < 65536 else 10)
