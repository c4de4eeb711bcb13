"""OpenRouter for AgentField: recorded turns, each answered by a streamed chat completion with audio.

Reading order: `plugin` (manifest), `audio_turns` (the adapter), `session` (commands in, events out), `reply` (one
completion from request to end), `request_builder` and `chunks` (the protocol without I/O), `history` (the conversation,
which the provider does not keep), `http_client`, `event_queue`, `error_classification`, `refusals`.
"""
