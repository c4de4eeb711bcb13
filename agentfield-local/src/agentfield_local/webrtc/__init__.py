"""The server's end of WebRTC: offers, ports, addresses, and what a caller hears."""
