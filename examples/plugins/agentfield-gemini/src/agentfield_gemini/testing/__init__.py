"""A fake of the Live API on this machine, for tests and for the conformance kit; it needs the extra `test`.

`peer` is the fake as the kit's peer. `live_server` listens, `conversation` is one session, `model` decides what is said, and
`validation` checks each message, in both directions, with the types of google-genai.
"""
