"""What all routes share: the route table's `Route`, request bodies and replies, idempotency keys, event streams."""
