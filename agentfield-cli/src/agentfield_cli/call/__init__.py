"""The terminal caller: a complete call from recordings, over any transport.

Input are a started session and recordings (48 kHz mono); output is a `CallReport` with turns, timings and the audio
that the caller heard. `call` runs the conversation; `place_call` selects the transport and follows the session;
`webrtc`, `websocket` and `recorded_turns` each place a call over one transport; `audio_io` holds what all three share
(source, sink, playout buffer); `audio` reads, writes and resamples recordings.
"""
