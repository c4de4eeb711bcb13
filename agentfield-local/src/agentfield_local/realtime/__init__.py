"""The Realtime protocol: conversations over a WebSocket, and the calls whose media is WebRTC."""
