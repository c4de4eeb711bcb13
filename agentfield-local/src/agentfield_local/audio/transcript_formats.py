"""Forms of a transcript: JSON, plain text, and with the times of each utterance `verbose_json`, SRT and WebVTT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from agentfield_local.speech.protocols import SPEECH_RATE

__all__ = ["TIMED", "TRANSCRIPT_FORMATS", "Utterance", "transcript_response"]

TIMED = ("verbose_json", "srt", "vtt")
"""Values of `response_format` that say when each utterance was spoken."""
TRANSCRIPT_FORMATS = ("json", "text", *TIMED)
_BYTES_PER_SECOND = SPEECH_RATE * 2


@dataclass(frozen=True, slots=True)
class Utterance:
    """Words between two pauses.

    Attributes:
        text: The words, not empty.
        start_ms: Milliseconds from the start of the recording to the utterance.
        end_ms: Milliseconds from the start of the recording to its end.
    """

    text: str
    start_ms: int
    end_ms: int


def transcript_response(
    response_format: str, utterances: Sequence[Utterance], *, size: int, segments: bool
) -> web.Response:
    """Return the answer of a transcription.

    Args:
        response_format: One of `TRANSCRIPT_FORMATS`.
        utterances: Utterances in order.
        size: Bytes of the recording, 16 kHz s16le mono.
        segments: Whether `verbose_json` lists the utterances.
    """
    text = " ".join(utterance.text for utterance in utterances)
    seconds = round(size / _BYTES_PER_SECOND, 3)
    usage = {"type": "duration", "seconds": seconds}
    match response_format:
        case "text":
            return web.Response(text=text)
        case "srt":
            return web.Response(text="".join(_srt_cue(number, each) for number, each in enumerate(utterances, 1)))
        case "vtt":
            cues = "".join(f"{_span(each, '.')}\n{each.text}\n\n" for each in utterances)
            return web.Response(text=f"WEBVTT\n\n{cues}", content_type="text/vtt")
        case "verbose_json":
            verbose: dict[str, Any] = {"task": "transcribe", "language": "english", "duration": seconds, "text": text}
            if segments:
                verbose["segments"] = [_segment(number, each) for number, each in enumerate(utterances)]
            return web.json_response({**verbose, "usage": usage})
        case _:
            return web.json_response({"text": text, "usage": usage})


def _segment(number: int, utterance: Utterance) -> dict[str, Any]:
    """Return a segment of `verbose_json`; the engine has no tokens and probabilities, so these are neutral values."""
    return {
        "id": number,
        "seek": utterance.start_ms // 10,
        "start": utterance.start_ms / 1000,
        "end": utterance.end_ms / 1000,
        "text": utterance.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": 0.0,
        "compression_ratio": 1.0,
        "no_speech_prob": 0.0,
    }


def _srt_cue(number: int, utterance: Utterance) -> str:
    return f"{number}\n{_span(utterance, ',')}\n{utterance.text}\n\n"


def _span(utterance: Utterance, mark: str) -> str:
    return f"{_clock(utterance.start_ms, mark)} --> {_clock(utterance.end_ms, mark)}"


def _clock(milliseconds: int, mark: str) -> str:
    """Return a time as `hh:mm:ss`, a mark and milliseconds: a comma in SRT, a full stop in WebVTT (W3C, section 3.3)."""
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}{mark}{rest:03}"
