"""The protocol of a bidirectional media stream, without I/O.

https://www.twilio.com/docs/voice/media-streams/websocket-messages
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["MAX_MESSAGE", "BadMessage", "Dtmf", "Mark", "Media", "Started", "Stopped", "Stream", "StreamEvent"]

MAX_MESSAGE = 64 * 1024
"""Maximum characters of a message; a message of Twilio has 20 ms of audio, a few hundred characters."""
_MAX_AUDIO = 8000
_MAX_TEXT = 512
_MAX_PARAMETERS = 20
_MAX_MARKS = 256
_KEYS = frozenset("0123456789*#ABCD")
_FORMAT = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}


class BadMessage(ValueError):
    """An invalid message."""


@dataclass(frozen=True, slots=True)
class Started:
    """The start of the stream: its ids, and the parameters of the TwiML that opened it."""

    stream: str
    call: str
    account: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Media:
    """Audio of the caller, µ-law at 8 kHz."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """All audio before the mark was played."""

    name: str


@dataclass(frozen=True, slots=True)
class Dtmf:
    """A key of the telephone."""

    digit: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The caller hung up, or the stream was stopped."""


StreamEvent = Started | Media | Mark | Dtmf | Stopped


class Stream:
    """State of one stream, from `connected` to `stop`.

    After a `clear` Twilio returns all pending marks, although their audio was not played; such marks are suppressed.
    """

    def __init__(self) -> None:
        self.started: Started | None = None
        self._connected = False
        self._stopped = False
        self._pending_marks: OrderedDict[str, None] = OrderedDict()
        self._cleared_marks: OrderedDict[str, None] = OrderedDict()

    # --- from Twilio

    def receive(self, text: str) -> StreamEvent | None:
        """Return the event of a message, None for a message that is ignored, such as an unknown one.

        Raises:
            BadMessage: The message is invalid or out of order.
        """
        message = _object(text)
        event = _text(message, "event")
        if self._stopped:
            raise BadMessage(f"{event!r} after 'stop'")
        if event == "connected":
            if self._connected:
                raise BadMessage("'connected' twice")
            self._connected = True
            return None
        if event == "start":
            return self._start(message)
        if event not in ("media", "mark", "dtmf", "stop"):
            return None  # unknown: of a later version of the protocol
        if self.started is None:
            raise BadMessage(f"{event!r} before 'start'")
        if _text(message, "streamSid") != self.started.stream:
            raise BadMessage("a message of another stream")
        return self._event(event, message)

    def _start(self, message: Mapping[str, Any]) -> Started:
        if not self._connected or self.started is not None:
            raise BadMessage("'start' comes once, after 'connected'")
        start = _part(message, "start")
        given = _part(start, "mediaFormat")
        if any(given.get(name) != value for name, value in _FORMAT.items()):
            raise BadMessage("audio that is not µ-law at 8 kHz")
        stream = _text(message, "streamSid")
        if _text(start, "streamSid") != stream:
            raise BadMessage("a message of another stream")
        self.started = Started(stream, _text(start, "callSid"), _text(start, "accountSid"), _parameters(start))
        return self.started

    def _event(self, event: str, message: Mapping[str, Any]) -> StreamEvent | None:
        match event:
            case "media":
                return _media(_part(message, "media"))
            case "mark":
                return self._mark_played(_text(_part(message, "mark"), "name"))
            case "dtmf":
                digit = _text(_part(message, "dtmf"), "digit")
                if digit not in _KEYS:
                    raise BadMessage("no key of a telephone")
                return Dtmf(digit)
            case _:
                self._stopped = True
                return Stopped()

    def _mark_played(self, name: str) -> Mark | None:
        if name in self._cleared_marks:
            del self._cleared_marks[name]
            return None
        if self._pending_marks.pop(name, self) is self:
            return None  # unknown, or already reported
        return Mark(name)

    # --- to Twilio

    def media(self, data: bytes) -> str:
        """Return the message that plays audio."""
        return self._message("media", {"payload": base64.b64encode(data).decode("ascii")})

    def mark(self, name: str) -> str:
        """Return the message that requests a mark: Twilio returns it once all audio before it is played."""
        self._pending_marks[name] = None
        while len(self._pending_marks) > _MAX_MARKS:
            self._pending_marks.popitem(last=False)
        return self._message("mark", {"name": name})

    def clear(self) -> str:
        """Return the message that discards unplayed audio; the pending marks are suppressed when Twilio returns them."""
        self._cleared_marks.update(self._pending_marks)
        self._pending_marks.clear()
        while len(self._cleared_marks) > _MAX_MARKS:
            self._cleared_marks.popitem(last=False)
        return self._message("clear", None)

    def _message(self, event: str, part: Mapping[str, str] | None) -> str:
        if self.started is None:
            raise RuntimeError("a stream that has not started takes nothing")
        message: dict[str, Any] = {"event": event, "streamSid": self.started.stream}
        if part is not None:
            message[event] = part
        return json.dumps(message, separators=(",", ":"))


def _media(media: Mapping[str, Any]) -> Media | None:
    if media.get("track", "inbound") != "inbound":
        return None  # the outbound track: our own audio
    payload = media.get("payload")
    if not isinstance(payload, str) or len(payload) > 2 * _MAX_AUDIO:
        raise BadMessage("'payload' is no text, or too long")
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise BadMessage("'payload' is not base64") from None
    if len(data) > _MAX_AUDIO:
        raise BadMessage("more than a second of audio in one message")
    return Media(data) if data else None


def _object(text: str) -> Mapping[str, Any]:
    if len(text) > MAX_MESSAGE:
        raise BadMessage("a message that is too long")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise BadMessage("no JSON") from None
    if not isinstance(value, dict):
        raise BadMessage("no JSON object")
    return value


def _part(message: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = message.get(name)
    if not isinstance(value, dict):
        raise BadMessage(f"{name!r} is no object")
    return value


def _text(message: Mapping[str, Any], name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT:
        raise BadMessage(f"{name!r} is no text, empty or too long")
    return value


def _parameters(start: Mapping[str, Any]) -> Mapping[str, str]:
    given = start.get("customParameters")
    if given is None:
        return {}
    if not isinstance(given, dict) or len(given) > _MAX_PARAMETERS:
        raise BadMessage("'customParameters' is no object, or has too many")
    if any(not isinstance(value, str) or len(name) + len(value) > _MAX_TEXT for name, value in given.items()):
        raise BadMessage("a custom parameter is no text, or too long")
    return dict(given)
