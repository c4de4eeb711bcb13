"""Data channel of a WebRTC caller as a leg of its session."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from aiortc import RTCDataChannel
from aiortc.exceptions import InvalidStateError

__all__ = ["DataChannelLeg"]

_log = logging.getLogger(__name__)
_MAX_BUFFERED_BYTES = 16 * 1024 * 1024


class DataChannelLeg:
    """Sends server events on the data channel of a WebRTC call.

    Args:
        name: Name of the leg in the conversation.
        channel: The channel that the caller opened.
        vanish_after: Number of events after which the connection is reported as lost; None never.
        vanish: Reports the connection as lost.
    """

    def __init__(
        self, name: str, channel: RTCDataChannel, *, vanish_after: int | None, vanish: Callable[[], None]
    ) -> None:
        self.name = name
        self._channel = channel
        self._vanish_after = vanish_after
        self._vanish = vanish
        self._sent = 0

    def send(self, event: dict[str, Any]) -> None:
        """Send an event; close the channel of a caller that does not read."""
        if self._channel.bufferedAmount > _MAX_BUFFERED_BYTES:
            self.end()
            return
        self._sent += 1
        if self._sent == self._vanish_after:
            self._vanish()
            return
        try:
            self._channel.send(json.dumps(event, separators=(",", ":")))
        except (InvalidStateError, ConnectionError):
            _log.debug("leg %s is closed", self.name)

    def end(self, code: int = 1000, reason: str = "") -> None:
        """Close the channel; a data channel has neither close code nor reason."""
        del code, reason
        if self._channel.readyState == "open":
            self._channel.close()
