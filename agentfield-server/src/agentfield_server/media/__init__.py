"""Audio formats, with FFmpeg's libraries (PyAV, an extra): conversion of streams and decoding of recorded turns.

`convert` returns a converter between the formats of caller and provider (resampling, G.711), a piece of a stream at a time.
`decode` turns a whole recording of any common format into 16-bit samples. Without PyAV, equal formats still work.
"""
