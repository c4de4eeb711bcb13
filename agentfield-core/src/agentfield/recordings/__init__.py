"""Recordings of speech as people's software writes them, to 16-bit samples of one channel.

In: the bytes of a file, or an open file. Out: samples at a rate of choice, or `RefusedRecording` with the reason. The
control plane, the local server and the terminal caller all decode here, so that they take the same recordings. PyAV is
imported on use: core does not depend on it (extra `media`). Reading order: `formats` (limits and media types), `decoding`
(containers and codings), `mixing` (to one channel).
"""

from agentfield.recordings.decoding import decode_recording, recording_rate
from agentfield.recordings.formats import (
    FORMATS,
    MAX_BYTES,
    MAX_SECONDS,
    MEDIA_TYPES,
    RefusedRecording,
    check_media_type,
)
from agentfield.recordings.mixing import audible

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_SECONDS",
    "MEDIA_TYPES",
    "RefusedRecording",
    "audible",
    "check_media_type",
    "decode_recording",
    "recording_rate",
]
