"""Transcription of recordings: decoding of an uploaded file, and its words."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import av
from aiohttp import web
from av.audio.stream import AudioStream

from agentfield_local.audio.resampler import Resampler
from agentfield_local.audio.transcript_stream import stream_transcript
from agentfield_local.http.bodies import read_form
from agentfield_local.speech.pool import EnginePool
from agentfield_local.speech.protocols import SPEECH_RATE, Vad
from agentfield_local.speech.segmenter import Segmenter, SpeechStopped
from agentfield_local.wire.refusals import Refusal

__all__ = ["MAX_RECORDING_BYTES", "decode_recording", "transcribe_pcm", "transcribe_upload"]

MAX_RECORDING_BYTES = 25 * 1024 * 1024
_MAX_SECONDS = 600
_UNSPLIT_SECONDS = 30
_FIELDS = {
    "file": MAX_RECORDING_BYTES,
    **dict.fromkeys(("model", "language", "response_format", "temperature"), 1024),
    **dict.fromkeys(("prompt", "stream"), 16 * 1024),
}
_CONTAINERS = (
    (0, b"RIFF", "wav"),
    (0, b"OggS", "ogg"),
    (0, b"fLaC", "flac"),
    (0, b"ID3", "mp3"),
    (0, b"\xff\xfb", "mp3"),
    (0, b"\xff\xf3", "mp3"),
    (4, b"ftyp", "mov"),
    (0, b"\x1aE\xdf\xa3", "matroska"),
)


async def transcribe_upload(request: web.Request, pool: EnginePool) -> web.StreamResponse:
    """Answer `POST /v1/audio/transcriptions` with the words of the uploaded file, as events if `stream` is true.

    Raises:
        Refusal: The file is missing, or is not a recording.
    """
    form = await read_form(request, _FIELDS)
    if "file" not in form:
        raise Refusal("Missing required parameter: 'file'.", code="missing_required_parameter", param="file")
    response_format = form.get("response_format", b"json").decode("utf-8", "replace")
    if response_format not in {"json", "text"}:
        raise Refusal(
            f"Invalid value: {response_format!r}. Supported values are: 'json', 'text'.",
            code="invalid_value",
            param="response_format",
        )
    stream = _flag(form.get("stream", b"false"), "stream")
    pcm = await pool.vad_worker.run(decode_recording, form["file"])
    if stream:
        return await stream_transcript(request, transcribe_utterances(pool, pcm), samples=len(pcm) // 2)
    text = await transcribe_pcm(pool, pcm)
    if response_format == "text":
        return web.Response(text=text)
    usage = {"type": "duration", "seconds": round(len(pcm) / (SPEECH_RATE * 2), 3)}
    return web.json_response({"text": text, "usage": usage})


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
    return " ".join([words async for words in transcribe_utterances(pool, pcm)])


async def transcribe_utterances(pool: EnginePool, pcm: bytes) -> AsyncIterator[str]:
    """Yield the words of each utterance that has any; a short recording is one utterance.

    Raises:
        EngineBusy: The queue of an engine is full.
    """
    parts = [pcm]
    if len(pcm) > _UNSPLIT_SECONDS * SPEECH_RATE * 2:
        parts = await pool.vad_worker.run(_utterances, pool.engines.vad(), pcm)
    for part in parts:
        words = await pool.transcribe(part)
        if words:
            yield words


def decode_recording(data: bytes) -> bytes:
    """Return a recording as 16 kHz s16le mono; slow, so run it in a worker thread.

    The container is detected from its first bytes and passed to FFmpeg by name: its own detection would also open
    playlist formats, which refer to other files and addresses.

    Raises:
        Refusal: The format is unknown, the recording is too long, or it cannot be decoded.
    """
    container = next((name for at, magic, name in _CONTAINERS if data[at : at + len(magic)] == magic), None)
    if container is None:
        raise _bad_file("its format is not known; send wav, mp3, ogg, flac, m4a or webm")
    out = bytearray()
    try:
        with av.open(io.BytesIO(data), mode="r", format=container) as recording:
            stream = next((s for s in recording.streams if isinstance(s, AudioStream)), None)
            if stream is None:
                raise _bad_file("it holds no audio")
            resampler = Resampler(stream.rate or SPEECH_RATE, SPEECH_RATE)
            for frame in recording.decode(stream):
                out += resampler.feed_frame(frame)
                if len(out) > _MAX_SECONDS * SPEECH_RATE * 2:
                    raise _bad_file(f"it is longer than {_MAX_SECONDS} s")
            out += resampler.drain()
    except (av.FFmpegError, ValueError):
        raise _bad_file("it cannot be decoded") from None
    return bytes(out)


def _utterances(vad: Vad, pcm: bytes) -> list[bytes]:
    segmenter = Segmenter(vad)
    events = segmenter.feed(pcm + b"\0" * SPEECH_RATE * 2)
    return [event.pcm for event in events if isinstance(event, SpeechStopped)]


def _bad_file(reason: str) -> Refusal:
    return Refusal(f"The audio file cannot be used: {reason}.", code="invalid_value", param="file")
