"""The way of audio through the codec that is walked fifty times a second: the same meaning, without the detours."""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from agentfield.adapterkit.fields import ident, parse, words
from agentfield.realtime.audio import AudioFormat
from agentfield_openai.codec.ledger import Ledger

__all__ = ["append", "more_sound", "read"]


def read(raw: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object that `raw` holds; the fast parser refuses some that a lenient one takes (half characters)."""
    try:
        data = from_json(raw)
    except ValueError:
        return parse(raw)
    return data if isinstance(data, dict) else None


def append(data: bytes) -> bytes:
    """Return the text of the client event of audio: what the encoder makes of `AppendAudio`."""
    return b'{"type":"input_audio_buffer.append","audio":"%b"}' % binascii.b2a_base64(data, newline=False)


def more_sound(event: Mapping[str, Any], ledger: Ledger, audio: AudioFormat) -> tuple[str, bytes] | None:
    """Return the reply and the audio of a delta, and count it as received.

    Only whole samples of an item that has audio already, in a reply that goes on; None, and nothing happened, otherwise.
    """
    reply_id, item, delta = ident(event, "response_id"), ident(event, "item_id"), words(event, "delta")
    if reply_id is None or item is None or not delta:
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
