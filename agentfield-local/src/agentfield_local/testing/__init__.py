"""Peer of the conformance suites for `openai/*`, `openrouter/*` and `local/*`, and the WebRTC caller that it provides.

`peer` runs the local server with scripted engines as the provider's end (entry points `agentfield.peers`);
`webrtc_caller` is a caller that speaks given audio and measures what it hears.
"""
