"""Sans-I/O core of a session: the rules of a conversation as a state machine without clock, socket or randomness.

In: events of the provider, inputs of the session actor (`inputs`) and the current time. Out: effects (`effects`), which
the actor carries out in order.

Reading order: `machine` (theory of operation and numbered rules), `inputs`, `effects`, `timers`, `transitions` (every
change of state), `state` (what the parts share), `lifecycle`; then the parts: `turns`, `speech/`, `tools/`,
`handler_loop`, `dispatch/`, `rotation` with `history`, and `usage_meter` with `usage/`.
"""
