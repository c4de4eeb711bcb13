"""Operations of the SQLite store: functions that run inside a write transaction, on the writer thread.

Each takes a `Transaction` first, changes rows and appends the events of that change (`events.record`), or does neither:
the writer rolls back an operation that raises. `executions` and `sessions` change the main tables; `approvals`, `webhooks`,
`keys` (idempotency keys and browser tokens) and `payloads` (large JSON) are used by them; `retention` deletes ended runs.
"""
