"""The Realtime protocol as a sans-I/O state machine: no clock, no socket, no thread.

Client events, engine results and timer events go in; each call of `ConversationMachine` returns a list of effects:
server events to send, and work to start. `effects` lists them all and `machine` dispatches, so read these two first.
`context` is the state that all parts share (items, behaviour, pending effects); `items` the conversation items;
`audio_input` the caller's turns; `responses` the replies; `playback` and `idle_timer` what follows from playing them.
"""
