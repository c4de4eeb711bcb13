"""The store: executions, sessions, event logs, approvals, webhooks, tokens and idempotency keys, behind one protocol.

In come changes of the engine, the sessions and the API, each with the events that record it. A method that returns has
committed; events are numbered in the same transaction.

Read `protocol` (`Store`: the contract of every store, with `identities` for the identities of nodes), `records` (the values
that it takes and returns), `operations` (its writes as values, and which of them may share a group) and `json_text` (JSON
columns). `sqlite` is the embedded implementation; another one stands beside it.
"""
