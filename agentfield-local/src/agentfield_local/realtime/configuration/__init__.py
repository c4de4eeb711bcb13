"""Models of what a client may send: the session object and the client events, both strict.

`schema` holds the pydantic models of the session object, `session_config` merges partial updates into the effective
configuration of a session, and `client_events` parses events.
"""
