"""Runner of one Realtime session: connects the sans-I/O conversation with engines, legs, timers and media.

`runner` performs the effects of the conversation. `vad_feed` turns a caller's audio into speech events, and
`interim_transcript` transcribes a turn while its final silence still lasts.
"""
