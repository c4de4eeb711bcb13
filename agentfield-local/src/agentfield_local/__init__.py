"""A Realtime-compatible server with offline speech, and the `local` provider that uses it.

The server: `server` assembles `realtime` (WebSocket and WebRTC sessions), `chat` (chat completions with audio) and
`audio` (the `/v1/audio` routes) on `http`; all of them use `speech` engines and a `brain`. `faults` makes it behave as
providers do at their worst. `__main__` runs it as a process. The provider: `plugin` is the manifest, `adapters` the
adapters, `process` the supervisor of the server process, `testing` the peer of the conformance suites.
"""
