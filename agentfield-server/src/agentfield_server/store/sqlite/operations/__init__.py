"""Operations of the SQLite store as SQL: functions that run inside a write transaction, on the writer thread.

`groups` executes a group. Functions of operations that share their statements take all of a kind and return a `Change` each;
`creations.settle` then inserts rows and records events for the whole group. The others take one operation, change rows and append
the events of that change (`events.record`). A function that raises leaves the rollback to the writer.

`creations`, `executions`, `sessions` and `events` change the main tables; `approvals`, `webhooks`, `keys` (idempotency keys and browser tokens)
and `payloads` (large JSON) are used by them; `retention` deletes ended runs.
"""
