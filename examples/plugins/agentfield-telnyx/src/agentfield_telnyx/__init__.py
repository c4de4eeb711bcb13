"""AgentField sessions by telephone: Telnyx media streaming as a transport.

Read `plugin` (the manifest), `routes` (the webhook and the stream), `leg` (one caller), `protocol` (the messages of a stream without
I/O), `webhook` (signature and events), `token` (the token of a stream) and `call_control` (commands to Telnyx); `peer` is for the
conformance kit.
"""
