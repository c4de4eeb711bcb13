"""Transport of Realtime sessions: routes under `/v1/realtime`, WebSocket legs, and WebRTC calls with their sidebands.

An HTTP request goes in, a WebSocket session or an answered WebRTC call comes out. Read `routes`, then `websockets` and
`calls`; `websocket_leg` writes the events of one socket.
"""
