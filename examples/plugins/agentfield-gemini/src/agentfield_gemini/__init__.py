"""AgentField sessions with Gemini Live.

In: neutral commands and the caller's audio. Out: neutral events. `adapter` opens a `session` for each call, which moves
messages between the connection and `protocol`, the sans-I/O translation; `replies` and `caller_turns` are its state. Read
`protocol` first. `testing` is a fake of the service.
"""
