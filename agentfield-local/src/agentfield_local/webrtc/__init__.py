"""Server side of WebRTC calls, on aiortc: the SDP gate, ICE ports and addresses, the peer connection, and playback.

An SDP offer goes in, an answer comes out; afterwards audio and the event channel of one caller flow through
`CallerConnection`, which knows its session only as a `CallerSession`. Read `sdp`, `caller_connection`, `media` and
`output_buffer`; `ice` and `jitter_buffer` contain the changes of library internals that aiortc has no setting for.
"""
