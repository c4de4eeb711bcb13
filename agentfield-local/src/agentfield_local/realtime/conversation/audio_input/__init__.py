"""The caller's side of a conversation: the input audio buffer, and turns with their transcripts.

Audio and speech events go in; items, `input_audio_buffer.*` events and transcription effects come out.
"""
