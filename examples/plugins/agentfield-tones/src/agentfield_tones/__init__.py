"""A provider for AgentField that detects telephone keys in audio and answers in tones.

Read `plugin` (the manifest), `adapter`, `session`, `history`; `keys` (encoding of text as tones) and `service` (the service itself);
`peer` is for the conformance kit.
"""
