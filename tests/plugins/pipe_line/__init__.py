"""A transport of a stranger, as small as one can be: a WebSocket with sound in binary frames, and who knows the secret may call."""
