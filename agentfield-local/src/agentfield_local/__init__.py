"""A Realtime-compatible server with offline speech, and the `local` provider that uses it."""
