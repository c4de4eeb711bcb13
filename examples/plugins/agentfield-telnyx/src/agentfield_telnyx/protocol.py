"""The messages of a media stream in the bidirectional RTP mode, without I/O.

https://developers.telnyx.com/docs/voice/programmable-voice/media-streaming and
https://developers.telnyx.com/api-reference/websockets/stream-call-media-over-websocket
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "FRAME",
    "MAX_MESSAGE",
    "BadMessage",
    "Dtmf",
    "Failure",
    "Mark",
    "Media",
    "Started",
    "Stopped",
    "Stream",
    "StreamEvent",
]

MAX_MESSAGE = 64 * 1024
"""Maximum characters of a message; one of Telnyx has 20 ms of audio, a few hundred characters."""
FRAME = 160
"""Bytes of 20 ms, the least audio that Telnyx takes in a message."""
_MOST = 30_000 // 20 * FRAME
"""Bytes of 30 s, the most audio that Telnyx takes in a message."""
_SILENCE = b"\xff"
_MAX_AUDIO = 8000
_MAX_TEXT = 512
_MAX_MARKS = 256
_MAX_HELD = 5
"""Messages with audio that wait for an earlier one, 100 ms; after that it is taken for lost."""
_KEYS = frozenset("0123456789*#ABCD")
_FORMAT = {"encoding": "PCMU", "sample_rate": 8000, "channels": 1}


class BadMessage(ValueError):
    """An invalid message."""


@dataclass(frozen=True, slots=True)
class Started:
    """The start of the stream."""

    stream: str
    call: str
    """The call control id."""
    session: str | None
    """The id that all legs of the call share."""
    caller: str | None
    """Number or SIP address of the caller; None if it is withheld."""


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
class Failure:
    """Telnyx did not accept a message, or failed otherwise; the stream continues."""

    code: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The call is over, or the stream was stopped."""


StreamEvent = Started | Media | Mark | Dtmf | Failure | Stopped


class Stream:
    """State of one stream, from `connected` to `stop`.

    Telnyx does not promise the order of audio: it is put in order by its chunk numbers. After a `clear` Telnyx returns all pending
    marks, although their audio was not played; such marks are suppressed.
    """

    def __init__(self) -> None:
        self.started: Started | None = None
        self._connected = False
        self._stopped = False
        self._next: int | None = None
        """Number of the next audio, None before the first."""
        self._held: dict[int, bytes] = {}
        """Audio that came before an earlier one."""
        self._unsent = b""
        """Less than 20 ms of audio to play."""
        self._pending_marks: OrderedDict[str, None] = OrderedDict()
        self._cleared_marks: OrderedDict[str, None] = OrderedDict()

    # --- from Telnyx

    def receive(self, text: str | bytes) -> list[StreamEvent]:
        """Return the events of a message: none for one that is ignored, such as an unknown one.

        Args:
            text: The message; a binary one is invalid.

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
            return []
        if event == "start":
            return [self._start(message)]
        if event not in ("media", "mark", "dtmf", "error", "stop"):
            return []  # unknown: of a later version of the protocol
        if self.started is None:
            raise BadMessage(f"{event!r} before 'start'")
        if message.get("stream_id", self.started.stream) != self.started.stream:
            raise BadMessage("a message of another stream")
        return list(self._events(event, message))

    def _start(self, message: Mapping[str, Any]) -> Started:
        if not self._connected or self.started is not None:
            raise BadMessage("'start' comes once, after 'connected'")
        start = _part(message, "start")
        given = _part(start, "media_format")
        if any(given.get(name) != value for name, value in _FORMAT.items()):
            raise BadMessage("audio that is not PCMU at 8 kHz")
        self.started = Started(
            stream=_text(message, "stream_id"),
            call=_text(start, "call_control_id"),
            session=_optional_text(start, "call_session_id"),
            caller=_optional_text(start, "from"),
        )
        return self.started

    def _events(self, event: str, message: Mapping[str, Any]) -> Iterator[StreamEvent]:
        match event:
            case "media":
                yield from self._media(_part(message, "media"))
            case "mark":
                name = _text(_part(message, "mark"), "name")
                if self._is_played(name):
                    yield Mark(name)
            case "dtmf":
                digit = _text(_part(message, "dtmf"), "digit")
                if digit not in _KEYS:
                    raise BadMessage("no key of a telephone")
                yield Dtmf(digit)
            case "error":
                yield Failure(_error_code(message))
            case _:
                self._stopped = True
                yield Stopped()

    def _media(self, media: Mapping[str, Any]) -> Iterator[Media]:
        if media.get("track", "inbound") != "inbound":
            return  # the other direction: our own audio
        data, number = _audio(media), _chunk(media)
        if not data:
            return
        if number is None:
            yield Media(data)
            return
        if self._next is None:
            self._next = number
        if number < self._next:
            return  # repeated, or later than it can be waited for
        self._held[number] = data
        if len(self._held) > _MAX_HELD:
            self._next = min(self._held)
        while (found := self._held.pop(self._next, None)) is not None:
            self._next += 1
            yield Media(found)

    def _is_played(self, name: str) -> bool:
        if name in self._cleared_marks:
            del self._cleared_marks[name]
            return False
        return self._pending_marks.pop(name, self) is not self  # else unknown, or already reported

    # --- to Telnyx

    def media(self, data: bytes) -> list[str]:
        """Return the messages that play audio; less than 20 ms wait for more, or for a mark."""
        data = self._unsent + data
        if len(data) < FRAME:
            self._unsent = data
            return []
        self._unsent = b""
        pieces = [data[at : at + _MOST] for at in range(0, len(data), _MOST)]
        if len(pieces[-1]) < FRAME:
            self._unsent = pieces.pop()
        return [self._play(each) for each in pieces]

    def mark(self, name: str) -> list[str]:
        """Return the messages that request a mark: Telnyx returns it once all audio before it is played."""
        rest, self._unsent = self._unsent, b""
        played = [self._play(rest.ljust(FRAME, _SILENCE))] if rest else []
        self._pending_marks[name] = None
        while len(self._pending_marks) > _MAX_MARKS:
            self._pending_marks.popitem(last=False)
        return [*played, self._message("mark", {"name": name})]

    def clear(self) -> str:
        """Return the message that discards unplayed audio; the pending marks are suppressed when Telnyx returns them."""
        self._unsent = b""
        self._cleared_marks.update(self._pending_marks)
        self._pending_marks.clear()
        while len(self._cleared_marks) > _MAX_MARKS:
            self._cleared_marks.popitem(last=False)
        return self._message("clear", None)

    def _play(self, data: bytes) -> str:
        return self._message("media", {"payload": base64.b64encode(data).decode("ascii")})

    def _message(self, event: str, part: Mapping[str, str] | None) -> str:
        if self.started is None:
            raise RuntimeError("a stream that has not started takes nothing")
        return json.dumps({"event": event} if part is None else {"event": event, event: part}, separators=(",", ":"))


def _audio(media: Mapping[str, Any]) -> bytes:
    payload = media.get("payload")
    if not isinstance(payload, str) or len(payload) > 2 * _MAX_AUDIO:
        raise BadMessage("'payload' is no text, or too long")
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise BadMessage("'payload' is not base64") from None
    if len(data) > _MAX_AUDIO:
        raise BadMessage("more than a second of audio in one message")
    return data


def _chunk(media: Mapping[str, Any]) -> int | None:
    number = media.get("chunk")
    if number is None:
        return None
    text = str(number)
    if isinstance(number, bool) or not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise BadMessage("'chunk' is no number")
    return int(text)


def _error_code(message: Mapping[str, Any]) -> str:
    payload = message.get("payload")
    code = payload.get("code") if isinstance(payload, dict) else None
    return str(code) if isinstance(code, int) or (isinstance(code, str) and code.isalnum() and len(code) < 40) else "?"


def _object(text: str | bytes) -> Mapping[str, Any]:
    if isinstance(text, bytes):
        raise BadMessage("a binary message")
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


def _optional_text(message: Mapping[str, Any], name: str) -> str | None:
    return None if message.get(name) in (None, "") else _text(message, name)
