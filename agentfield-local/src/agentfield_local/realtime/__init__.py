"""The Realtime protocol (OpenAI): sessions over WebSocket and WebRTC, with speech engines instead of a model.

Client events and audio go in, server events and audio come out. Four packages, from the network inwards:

- `transport`: HTTP routes, WebSockets and WebRTC calls; each creates or joins a session.
- `session`: the asyncio runner of one session, which performs the effects of its conversation.
- `conversation`: the protocol itself as a sans-I/O state machine.
- `configuration`: models of the session object and of client events.

Read `conversation` first; the others follow from its effects.
"""
