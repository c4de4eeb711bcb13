"""OpenAI Realtime for AgentField: the provider `openai` over `webrtc` and `websocket`.

Reading order: `plugin` (manifest), `codec` (the protocol without I/O), `connection` and `socket` (the WebSocket, reopened
after a drop), `session` (codec and socket as a `ProviderSession`), `calls` (creates and hangs up WebRTC calls),
`webrtc` and `websocket` (the two adapters), `speech_endpoint` and `exact_say_session` (``say="exact"``).
"""
