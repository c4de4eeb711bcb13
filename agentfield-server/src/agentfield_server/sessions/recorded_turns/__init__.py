"""Callers who send recorded turns over HTTP: one request carries a recording, its response streams the answer.

In: decoded recordings and their Idempotency-Keys. Out: messages of server-sent events, replayed from the beginning to a
repeated request. Reading order: `replay_buffer` (the messages of one turn), `leg` (the session's caller leg, which hands
the turns to the bridge and fills the buffers), `service` (the legs of all sessions and the buffers by key).
"""
