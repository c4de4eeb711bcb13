"""Keys of a telephone as pairs of tones (ITU-T Q.23), both ways, and text as keys; plain Python, no clock, no socket.

A telephone has sixteen keys, and half a byte has sixteen values: text is its UTF-8 bytes, two keys each, after `**`.
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
"""Samples that are looked at together: 20 ms, so that a tone of 60 ms fills at least two blocks."""
_LOUDEST = 8000
_QUIET = 500.0
"""Root mean square below which a block is silence."""
_SHARE = 0.6
"""How much of a block's energy the two tones must have between them; speech and noise have less."""
_TWIST = 8.0
"""How much more power one of the two tones may have than the other."""
_GAP_MS = 40


def keys_of(text: str) -> str:
    """Return the keys that stand for a text; what consists of keys stands for itself."""
    if text and set(text) <= set(_HEX) and not text.startswith(_TEXT):
        return text
    return _TEXT + "".join(_HEX[half] for byte in text.encode() for half in divmod(byte, 16))


def text_of(keys: str) -> str:
    """Return what keys stand for; keys that are no text stand for themselves."""
    halves = [_HEX.index(key) for key in keys.removeprefix(_TEXT)]
    if not keys.startswith(_TEXT) or len(halves) % 2:
        return keys
    return bytes(high * 16 + low for high, low in zip(halves[::2], halves[1::2], strict=True)).decode(errors="replace")


@functools.cache
def sound_of(key: str, tone_ms: int = 60) -> bytes:
    """Return the sound of a key and a gap after it."""
    row, column = _PLACE[key]
    low, high = 2 * math.pi * _ROWS[row] / RATE, 2 * math.pi * _COLUMNS[column] / RATE
    count = RATE * tone_ms // 1000
    tone = array.array("h", (round(_LOUDEST * (math.sin(low * at) + math.sin(high * at)) / 2) for at in range(count)))
    return _little(tone).tobytes() + bytes(RATE * _GAP_MS // 1000 * 2)


class KeyDetector:
    """Finds keys in audio, and how long it has been silent.

    A key counts when two blocks running have it; it is pressed again only after a block without it.
    """

    def __init__(self) -> None:
        self.silent_ms = 0
        """Silence since the last key."""
        self._rest = b""
        self._last: str | None = None
        self._held: str | None = None

    def hear(self, data: bytes) -> str:
        """Take audio, return the keys that were pressed in it."""
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
    """Return the one key that a block holds."""
    energy = sum(sample * sample for sample in samples)
    if math.sqrt(energy / len(samples)) < _QUIET:
        return None
    rows = [_power(samples, hertz) for hertz in _ROWS]
    columns = [_power(samples, hertz) for hertz in _COLUMNS]
    row, column = rows.index(max(rows)), columns.index(max(columns))
    if max(rows[row], columns[column]) > _TWIST * min(rows[row], columns[column]):
        return None
    # a tone of amplitude a has the power (a n / 2)^2 here and the energy a^2 n / 2
    if (rows[row] + columns[column]) * 2 / len(samples) < _SHARE * energy:
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
