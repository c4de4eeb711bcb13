"""The wire formats between nodes, the control plane and clients.

`frames` are the messages of the node link: pydantic models, and msgspec structs for those of executions (`execution_frames`).
`framing` joins several into one WebSocket message; `rest` are the bodies of the REST API, which `requests` constructs, `headers`
the names of its headers, and `trace_context` maps runs and executions to W3C Trace Context.
"""
