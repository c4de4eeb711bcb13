"""Offline speech engines: voice activity detection, segmentation, speech-to-text and text-to-speech.

Audio of a caller (16 kHz s16le mono) goes in, utterances and their words come out; text goes in, audio comes out.
Engines are synchronous and CPU-bound; `pool` runs them in worker threads for asyncio code. Read `protocols` first, then
`engines` (loads a set by name), `pool`, and `segmenter` (cuts a stream into utterances). `vad`, `stt` and `tts` wrap
the default engines, `energy` holds the synthetic ones, `models` locates and verifies model files.
"""
