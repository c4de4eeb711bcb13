"""Shared parts of all routes: the route table's `Route`, request bodies and replies, idempotency keys, event streams."""
