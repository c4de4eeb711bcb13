"""Streamed transcription: the words of a recording as events while its utterances are recognised."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from agentfield_local.audio.transcript_formats import Utterance
from agentfield_local.brain.tokens import text_tokens
from agentfield_local.http.sse import open_event_stream, send_event
from agentfield_local.speech.protocols import SPEECH_RATE

__all__ = ["stream_transcript"]

_TOKENS_PER_SECOND = 10


async def stream_transcript(
    request: web.Request, utterances: AsyncIterator[Utterance], *, samples: int
) -> web.StreamResponse:
    """Answer with `transcript.text.delta` events and one `transcript.text.done`.

    The first utterance is recognised before the status line: an engine that fails at once still gets an HTTP error.

    Args:
        request: The request.
        utterances: Utterances in order.
        samples: Length of the recording.
    """
    first = await anext(utterances, None)
    response = await open_event_stream(request)
    text = ""
    if first is not None:
        text = await _send_words(response, text, first.text)
        async for utterance in utterances:
            text = await _send_words(response, text, utterance.text)
    heard, written = round(samples / SPEECH_RATE * _TOKENS_PER_SECOND), text_tokens(text)
    usage = {
        "type": "tokens",
        "input_tokens": heard,
        "input_token_details": {"audio_tokens": heard, "text_tokens": 0},
        "output_tokens": written,
        "total_tokens": heard + written,
    }
    await send_event(response, {"type": "transcript.text.done", "text": text, "usage": usage})
    await response.write_eof()
    return response


async def _send_words(response: web.StreamResponse, text: str, words: str) -> str:
    """Send an utterance word by word, and return the text with it."""
    for word in words.split():
        delta = f" {word}" if text else word
        text += delta
        await send_event(response, {"type": "transcript.text.delta", "delta": delta})
    return text
