"""Telephone keys as pairs of tones (ITU-T Q.23), encoded and detected, and text as keys. Plain Python without I/O.

A telephone has sixteen keys, as many as half a byte has values: text is `**` and then two keys per UTF-8 byte.
"""

from __future__ import annotations

import array
import functools
import math
import sys

__all__ = ["RATE", "KeyDetector", "keys_of", "sound_of", "text_of"]

RATE = 8000
"""Samples per second: signed 16-bit little-endian mono."""
_ROWS = (697.0, 770.0, 852.0, 941.0)
_COLUMNS = (1209.0, 1336.0, 1477.0, 1633.0)
_KEYS = ("123A", "456B", "789C", "*0#D")
_PLACE = {key: (row, column) for row, line in enumerate(_KEYS) for column, key in enumerate(line)}
_HEX = "0123456789ABCD*#"
_TEXT = "**"
_BLOCK = 160
"""Samples of one analysis block: 20 ms, so that a tone of 60 ms fills at least two blocks."""
_AMPLITUDE = 8000
_SILENCE_RMS = 500.0
"""Root mean square below which a block is silence."""
_MIN_SHARE = 0.6
"""Minimum share of the two tones in a block's energy; speech and noise have less."""
_MAX_TWIST = 8.0
"""Maximum ratio of the powers of the two tones."""
_GAP_MS = 40


def keys_of(text: str) -> str:
    """Encode a text as keys; a text of keys only is not encoded."""
    if text and set(text) <= set(_HEX) and not text.startswith(_TEXT):
        return text
    return _TEXT + "".join(_HEX[half] for byte in text.encode() for half in divmod(byte, 16))


def text_of(keys: str) -> str:
    """Decode keys to text; keys without the text prefix are returned unchanged."""
    halves = [_HEX.index(key) for key in keys.removeprefix(_TEXT)]
    if not keys.startswith(_TEXT) or len(halves) % 2:
        return keys
    return bytes(high * 16 + low for high, low in zip(halves[::2], halves[1::2], strict=True)).decode(errors="replace")


@functools.cache
def sound_of(key: str, tone_ms: int = 60) -> bytes:
    """Return the audio of a key and the gap after it."""
    row, column = _PLACE[key]
    low, high = 2 * math.pi * _ROWS[row] / RATE, 2 * math.pi * _COLUMNS[column] / RATE
    count = RATE * tone_ms // 1000
    tone = array.array("h", (round(_AMPLITUDE * (math.sin(low * at) + math.sin(high * at)) / 2) for at in range(count)))
    return _little(tone).tobytes() + bytes(RATE * _GAP_MS // 1000 * 2)


class KeyDetector:
    """Detects keys in audio, and the silence since the last one.

    A key is detected in two consecutive blocks; it counts again only after a block without it.
    """

    def __init__(self) -> None:
        self.silent_ms = 0
        """Silence since the last key."""
        self._rest = b""
        self._last: str | None = None
        self._held: str | None = None

    def feed(self, data: bytes) -> str:
        """Take audio; return the keys detected in it."""
        data = self._rest + data
        pressed = ""
        whole = len(data) // (_BLOCK * 2) * (_BLOCK * 2)
        for at in range(0, whole, _BLOCK * 2):
            samples = array.array("h")
            samples.frombytes(data[at : at + _BLOCK * 2])
            pressed += self._block(_little(samples))
        self._rest = data[whole:]
        return pressed

    def _block(self, samples: array.array[int]) -> str:
        key = _key_in(samples)
        self.silent_ms = 0 if key else self.silent_ms + _BLOCK * 1000 // RATE
        twice, self._last = key == self._last, key
        if key is None:
            self._held = None
        elif twice and key != self._held:
            self._held = key
            return key
        return ""


def _key_in(samples: array.array[int]) -> str | None:
    """Return the key of a block, None if it has none."""
    energy = sum(sample * sample for sample in samples)
    if math.sqrt(energy / len(samples)) < _SILENCE_RMS:
        return None
    rows = [_power(samples, hertz) for hertz in _ROWS]
    columns = [_power(samples, hertz) for hertz in _COLUMNS]
    row, column = rows.index(max(rows)), columns.index(max(columns))
    if max(rows[row], columns[column]) > _MAX_TWIST * min(rows[row], columns[column]):
        return None
    # a tone of amplitude a has the Goertzel power (a n / 2)^2 and the energy a^2 n / 2
    if (rows[row] + columns[column]) * 2 / len(samples) < _MIN_SHARE * energy:
        return None
    return _KEYS[row][column]


def _power(samples: array.array[int], hertz: float) -> float:
    """Return the power of one frequency (Goertzel's algorithm)."""
    turn = 2 * math.cos(2 * math.pi * hertz / RATE)
    before = last = 0.0
    for sample in samples:
        before, last = last, sample + turn * last - before
    return before * before + last * last - turn * before * last


def _little(samples: array.array[int]) -> array.array[int]:
    if sys.byteorder == "big":
        samples.byteswap()
    return samples
