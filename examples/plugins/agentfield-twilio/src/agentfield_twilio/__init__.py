"""AgentField sessions by telephone: Twilio Media Streams as a transport.

Read `plugin` (the manifest), `routes` (the voice webhook and the stream), `leg` (one caller), `protocol` (the messages without I/O)
and `signature`; `peer` is for the conformance kit.
"""
