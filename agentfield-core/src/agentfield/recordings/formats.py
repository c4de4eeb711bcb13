"""Which recordings are taken: limits, media types, and the refusal of a recording."""

from __future__ import annotations

from email.message import Message
from typing import Literal

__all__ = ["FORMATS", "MAX_BYTES", "MAX_SECONDS", "MEDIA_TYPES", "RefusedRecording", "check_media_type"]

MAX_BYTES = 25 * 1024 * 1024
"""Maximum bytes of a recording that comes over a network."""

MAX_SECONDS = 600.0
"""Maximum seconds of a recording."""

FORMATS = (
    "WAV, WebM, Ogg, MP3, MP4/M4A/3GP, FLAC, AAC, AMR, CAF, AIFF, AU, WMA, GSM or raw samples (audio/pcm;rate=24000)"
)
"""The most common formats, for messages."""

MEDIA_TYPES = (
    "audio/wav",
    "audio/webm",
    "audio/ogg",
    "audio/mpeg",
    "audio/mp4",
    "audio/aac",
    "audio/3gpp",
    "audio/amr",
    "audio/x-caf",
    "audio/flac",
    "audio/*",
    "video/*",
    "application/octet-stream",
    "audio/pcm;rate=24000",
)
"""Accepted media types, for documents."""

_OTHER_TYPES = frozenset({"application/ogg", "application/octet-stream", "application/mp4", "binary/octet-stream"})
_PLAYLISTS = frozenset({"audio/mpegurl", "audio/x-mpegurl", "audio/x-scpls"})


class RefusedRecording(Exception):
    """A recording that cannot be used.

    Args:
        kind: ``unsupported``: a format that is not decoded; ``invalid``: damaged, or no recording; ``empty``: no samples;
            ``too_long`` and ``too_costly``: beyond a limit.
        reason: Completes "it cannot be used: ...".
    """

    def __init__(self, kind: Literal["unsupported", "invalid", "empty", "too_long", "too_costly"], reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


def check_media_type(media_type: str) -> tuple[str, dict[str, str]]:
    """Return a media type of recordings in lower case and its parameters (RFC 9110 §8.3.1).

    Any `audio/` or `video/` type is one, because the content decides, and so is a missing type.

    Raises:
        RefusedRecording: It names something else, such as a playlist.
    """
    header = Message()
    header["content-type"] = media_type or "application/octet-stream"
    kind = header.get_content_type()
    media = kind.startswith(("audio/", "video/")) or kind in _OTHER_TYPES
    if not media or kind in _PLAYLISTS:
        name = media_type.split(";", maxsplit=1)[0].strip()[:100]
        raise RefusedRecording("unsupported", f"{name} is no media type of a recording")
    return kind, {name.lower(): value for name, value in (header.get_params() or [])[1:]}
