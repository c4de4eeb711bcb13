"""The way of audio through the codec that is walked fifty times a second: the same meaning, without the detours."""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from agentfield.adapterkit.fields import parse
from agentfield.realtime.audio import AudioFormat
from agentfield_openai.codec.ledger import Ledger

__all__ = ["append", "more_sound", "read", "read_plain"]


def read(raw: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object that `raw` holds; the fast parser refuses some that a lenient one takes (half characters)."""
    data = read_plain(raw)
    return parse(raw) if data is None else data


def read_plain(raw: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object that `raw` holds if the fast parser takes it; its texts then are whole characters."""
    try:
        data = from_json(raw)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def append(data: bytes) -> bytes:
    """Return the text of the client event of audio: what the encoder makes of `AppendAudio`."""
    return b'{"type":"input_audio_buffer.append","audio":"%b"}' % binascii.b2a_base64(data, newline=False)


def more_sound(event: Mapping[str, Any], ledger: Ledger, audio: AudioFormat) -> tuple[str, bytes] | None:
    """Return the reply and the audio of a delta that `read_plain` read, and count it as received.

    Only whole samples of an item that has audio already, in a reply that goes on; None, and nothing happened, otherwise.
    """
    reply_id, item, delta = event.get("response_id"), event.get("item_id"), event.get("delta")
    # what is known by an id had one that is fit to be one
    if not (isinstance(reply_id, str) and isinstance(item, str) and isinstance(delta, str) and delta):
        return None
    reply = ledger.replies.get(reply_id)
    if reply is None or reply.ended or reply.asked_to_stop:
        return None
    part = reply.parts.get(item)
    if part is None or part.odd:
        return None
    try:
        data = binascii.a2b_base64(delta, strict_mode=True)
    except ValueError:
        return None
    if not data or len(data) % audio.frame:
        return None
    part.size += len(data)
    return reply_id, data
