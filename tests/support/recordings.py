"""Recordings in any format, made with PyAV."""

from __future__ import annotations

import io
from typing import Any

import av

from support.audio import tone

__all__ = ["recording"]

_RATES = {"pcm_mulaw": 8000, "libopencore_amrnb": 8000, "g722": 16_000, "wmav2": 44_100}


def recording(
    container: str,
    codec: str,
    *,
    layout: str = "mono",
    seconds: float = 0.5,
    tags: dict[str, str] | None = None,
    encoding: str = "utf-8",
) -> bytes:
    """Return a tone of 440 Hz in a format.

    Args:
        container: FFmpeg's name of the container format.
        codec: FFmpeg's name of the encoder.
        layout: FFmpeg's name of the channel layout.
        seconds: Length of the tone.
        tags: Tags of the file.
        encoding: Encoding of the tags.
    """
    samples = tone(round(seconds * 1000), 24_000, 440)
    out = io.BytesIO()
    with av.open(out, "w", format=container, metadata_encoding=encoding) as file:
        file.metadata.update(tags or {})
        rate = _RATES.get(codec, 48_000)
        stream: Any = file.add_stream(codec, rate=rate)
        stream.layout = layout
        if codec == "wmav2":
            stream.bit_rate = 64_000
        resampler = av.AudioResampler(format=stream.codec_context.format.name, layout=layout, rate=rate)
        frame = av.AudioFrame(format="s16", layout="mono", samples=len(samples) // 2)
        frame.sample_rate = 24_000
        frame.planes[0].update(samples)
        fifo = av.AudioFifo()
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            fifo.write(piece)
        while (part := fifo.read(stream.codec_context.frame_size or 1024, partial=True)) is not None:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return out.getvalue()
