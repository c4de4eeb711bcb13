"""Fast path for audio, which passes the codec 50 times a second per call; same results as `Codec` without validation."""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from agentfield.adapterkit.json_fields import parse_object
from agentfield.realtime.audio import AudioFormat
from agentfield_openai.codec.state import CodecState

__all__ = ["audio_delta", "encode_append", "read", "read_plain"]


def read(raw: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object in `raw`, None if it is none.

    Falls back to the lenient parser, since the fast one rejects lone surrogates (half characters).
    """
    data = read_plain(raw)
    return parse_object(raw) if data is None else data


def read_plain(raw: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object in `raw` if the fast parser accepts it; its strings then contain no lone surrogates."""
    try:
        data = from_json(raw)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def encode_append(data: bytes) -> bytes:
    """Return the serialised client event for audio, equal to the encoder's output for `AppendAudioCommand`."""
    return b'{"type":"input_audio_buffer.append","audio":"%b"}' % binascii.b2a_base64(data, newline=False)


def audio_delta(event: Mapping[str, Any], state: CodecState, audio: AudioFormat) -> tuple[str, bytes] | None:
    """Return the reply id and the audio of a delta event, and count the audio as received.

    Handles only whole samples of an item that already has audio, in a reply that is neither ended nor cancelled. Return
    None without any effect otherwise; the normal path then decodes the event.

    Args:
        event: An event that `read_plain` parsed.
        state: The state of the codec.
        audio: Format of the audio on this connection.
    """
    reply_id, item, delta = event.get("response_id"), event.get("item_id"), event.get("delta")
    # ids need no validation here: an unknown one fails the lookups below
    if not (isinstance(reply_id, str) and isinstance(item, str) and isinstance(delta, str) and delta):
        return None
    reply = state.replies.get(reply_id)
    if reply is None or reply.ended or reply.cancel_requested:
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
