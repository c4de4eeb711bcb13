"""A minimal third-party transport: a WebSocket with audio in binary frames, for callers that know the secret."""
