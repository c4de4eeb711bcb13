"""Transcription of recordings: decoding of an uploaded file, and its words."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from agentfield.recordings import FORMATS, MAX_BYTES, RefusedRecording, decode_recording
from agentfield_local.audio.transcript_formats import TIMED, TRANSCRIPT_FORMATS, Utterance, transcript_response
from agentfield_local.audio.transcript_stream import stream_transcript
from agentfield_local.http.bodies import read_form
from agentfield_local.speech.pool import EnginePool
from agentfield_local.speech.protocols import SPEECH_RATE, Vad
from agentfield_local.speech.segmenter import Segmenter, SpeechStopped
from agentfield_local.wire.refusals import Refusal

__all__ = ["decode_upload", "transcribe_pcm", "transcribe_upload"]

_UNSPLIT_SECONDS = 30
_GRANULARITIES = "timestamp_granularities[]"
_FIELDS = {
    "file": MAX_BYTES,
    **dict.fromkeys(("model", "language", "response_format", "temperature", _GRANULARITIES), 1024),
    **dict.fromkeys(("prompt", "stream"), 16 * 1024),
}


async def transcribe_upload(request: web.Request, pool: EnginePool) -> web.StreamResponse:
    """Answer `POST /v1/audio/transcriptions` with the words of the uploaded file, as events if `stream` is true.

    Raises:
        Refusal: The file is missing, or is not a recording; an option has a value that is not supported.
    """
    form = await read_form(request, _FIELDS)
    if "file" not in form:
        raise Refusal("Missing required parameter: 'file'.", code="missing_required_parameter", param="file")
    stream = _flag(form.get("stream", b"false"), "stream")
    formats = TRANSCRIPT_FORMATS if not stream else tuple(name for name in TRANSCRIPT_FORMATS if name not in TIMED)
    response_format = _choice(form.get("response_format", b"json"), "response_format", formats)
    # the engine gives no times of single words
    granularities = [_choice(each, _GRANULARITIES, ("segment",)) for each in form.get(_GRANULARITIES, b"").split(b",")]
    pcm = await pool.vad_worker.run(decode_upload, form["file"])
    utterances = transcribe_utterances(pool, pcm, split=response_format in TIMED)
    if stream:
        return await stream_transcript(request, utterances, samples=len(pcm) // 2)
    return transcript_response(
        response_format, [each async for each in utterances], size=len(pcm), segments="segment" in granularities
    )


def _choice(value: bytes, param: str, allowed: tuple[str, ...]) -> str:
    """Return one of the allowed values, the first one for an empty field."""
    text = value.decode("utf-8", "replace") or allowed[0]
    if text not in allowed:
        names = ", ".join(repr(name) for name in allowed)
        raise Refusal(
            f"Invalid value: {text!r:.200}. Supported values are: {names}.", code="invalid_value", param=param
        )
    return text


def _flag(value: bytes, param: str) -> bool:
    match value.decode("utf-8", "replace").lower():
        case "true" | "1":
            return True
        case "false" | "0" | "":
            return False
        case other:
            raise Refusal(
                f"Invalid value: {other!r:.200}. Supported values are: 'true', 'false'.",
                code="invalid_value",
                param=param,
            )


async def transcribe_pcm(pool: EnginePool, pcm: bytes) -> str:
    """Return the words of a recording (16 kHz s16le mono).

    Raises:
        EngineBusy: The queue of an engine is full.
    """
    return " ".join([utterance.text async for utterance in transcribe_utterances(pool, pcm)])


async def transcribe_utterances(pool: EnginePool, pcm: bytes, *, split: bool = False) -> AsyncIterator[Utterance]:
    """Yield each utterance that has words; a short recording is one utterance, or none without speech.

    A recogniser finds words in noise as well: voice activity detection decides whether it is asked at all, as it does
    for the audio of a call.

    Args:
        pool: The engines.
        pcm: 16 kHz s16le mono.
        split: Whether a short recording is split at its pauses as well.

    Raises:
        EngineBusy: The queue of an engine is full.
    """
    vad = pool.engines.vad()
    if split or len(pcm) > _UNSPLIT_SECONDS * SPEECH_RATE * 2:
        parts = await pool.vad_worker.run(_utterances, vad, pcm)
    elif await pool.vad_worker.run(_has_speech, vad, pcm):
        parts = [(0, pcm)]
    else:
        parts = []
    length = _milliseconds(pcm)
    for start, part in parts:
        words = await pool.transcribe(part)
        if words:
            yield Utterance(words, start, min(start + _milliseconds(part), length))


def decode_upload(data: bytes) -> bytes:
    """Return a recording as 16 kHz s16le mono; slow, so run it in a worker thread.

    Raises:
        Refusal: The recording is damaged, too long or empty, or its format is not decoded.
    """
    try:
        return decode_recording(data, SPEECH_RATE)
    except RefusedRecording as refused:
        why = refused.reason if refused.kind not in {"unsupported", "invalid"} else f"{refused.reason}; send {FORMATS}"
        raise Refusal(f"The audio file cannot be used: {why}.", code="invalid_value", param="file") from None


def _has_speech(vad: Vad, pcm: bytes) -> bool:
    segmenter, step = Segmenter(vad), SPEECH_RATE * 2
    return any(segmenter.feed(pcm[start : start + step]) for start in range(0, len(pcm), step))


def _utterances(vad: Vad, pcm: bytes) -> list[tuple[int, bytes]]:
    """Return start in milliseconds and audio of each utterance."""
    segmenter = Segmenter(vad)
    events = segmenter.feed(pcm + b"\0" * SPEECH_RATE * 2)
    return [(event.start_ms, event.pcm) for event in events if isinstance(event, SpeechStopped)]


def _milliseconds(pcm: bytes) -> int:
    return len(pcm) * 1000 // (SPEECH_RATE * 2)
