"""The wire formats between nodes, the control plane and clients, as pydantic models.

`frames` are the messages of the node link and `framing` joins several into one WebSocket message; `rest` are the bodies of the
REST API, which `requests` constructs, `headers` the names of its headers, and `trace_context` maps runs and executions to W3C Trace Context.
"""
