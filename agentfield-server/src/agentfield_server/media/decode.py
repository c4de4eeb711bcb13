"""Decoding of recorded turns, with the errors of the REST interface; `agentfield.recordings` decodes."""

from __future__ import annotations

from agentfield.errors import AgentFieldError, InvalidInput, LimitExceeded
from agentfield.recordings import (
    FORMATS,
    MAX_BYTES,
    MAX_SECONDS,
    RefusedRecording,
    audible,
    check_media_type,
    decode_recording,
)
from agentfield_server.media.convert import require_media

__all__ = ["check_content_type", "decode", "too_large"]


def check_content_type(media_type: str) -> None:
    """Check that a Content-Type names a recording.

    Raises:
        InvalidInput: It names something else (code `unsupported_audio`, status 415).
    """
    try:
        check_media_type(media_type)
    except RefusedRecording as refusal:
        raise _error(refusal) from None


def decode(data: bytes, media_type: str, rate: int, *, max_seconds: float = MAX_SECONDS) -> bytes:
    """Return a recorded turn as 16-bit little-endian mono samples; blocking and slow, so call it in a thread.

    Args:
        data: The recording.
        media_type: Its media type as the sender names it; raw samples are ``audio/pcm;rate=24000;channels=1``.
        rate: Sample rate of the result, Hz.
        max_seconds: Maximum duration of the recording, seconds.

    Raises:
        InvalidInput: The format is not decoded (code `unsupported_audio`, status 415), the data is damaged
            (`invalid_audio`), or there is no sound in it (`empty_turn`).
        LimitExceeded: It is longer than `max_seconds` (`turn_too_long`), has too many bytes (`body_too_large`), or
            decoding it takes too much processor time (`audio_too_costly`).
        Unavailable: PyAV is not installed (`media_extra_missing`).
    """
    if len(data) > MAX_BYTES:
        raise too_large()
    check_content_type(media_type)
    require_media()
    try:
        samples = decode_recording(data, rate, media_type=media_type, max_seconds=max_seconds)
    except RefusedRecording as refusal:
        raise _error(refusal) from None
    if not audible(samples):
        raise InvalidInput("The recording is silent.", code="empty_turn", hint="check whether the microphone is muted")
    return samples


def too_large() -> LimitExceeded:
    """Return the error for a recording with too many bytes."""
    return _limit(
        f"A recorded turn has at most {MAX_BYTES // 1024 // 1024} MB.",
        "body_too_large",
        "send it compressed (audio/webm), or in several turns",
    )


def _error(refusal: RefusedRecording) -> AgentFieldError:
    message = f"The recording cannot be used: {refusal.reason}."
    match refusal.kind:
        case "unsupported":
            error = InvalidInput(message, code="unsupported_audio", hint=f"send {FORMATS}")
            error.status = 415
            return error
        case "invalid":
            return InvalidInput(message, code="invalid_audio", hint=f"send {FORMATS}")
        case "empty":
            hint = "record while the caller speaks, then send the recording"
            return InvalidInput(message, code="empty_turn", hint=hint)
        case "too_long":
            return _limit(message, "turn_too_long", "send what was said in several turns")
        case "too_costly":
            return _limit(message, "audio_too_costly", "send it as WAV, WebM or MP3")


def _limit(message: str, code: str, hint: str) -> LimitExceeded:
    error = LimitExceeded(message, code=code, hint=hint)
    error.status = 413
    return error
