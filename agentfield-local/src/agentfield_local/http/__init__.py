"""HTTP side of the server that all routes share: the aiohttp application, access control, bodies, TLS.

A request comes in; the application records it, checks its source, calls the route, and turns a refusal into the
provider's error body. Routes themselves are in `realtime.transport.routes`, `chat.routes` and `audio.routes`. Read
`application` first, then `access` and `bodies`; `activity` counts clients, and `tls` describes the second port.
"""
