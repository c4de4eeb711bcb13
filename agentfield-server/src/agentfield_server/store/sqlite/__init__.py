"""The embedded store: one SQLite file, WAL mode, synchronous=FULL, one writer thread, group commit.

A write is a function of a `Transaction`; the writer thread runs all queued ones in one commit and answers after it. Reads
run on a few read-only connections.

Read `store` (`SqliteStore`, put together from the tables), `tables` (the methods of the `Store` protocol), `operations`
(what they run inside a transaction), `database` (`SqliteDatabase`: opening, connections), `writer` (`Writer`,
`Transaction`), `schema` (migrations), `rows` (rows to records) and `lock` (one process a file).
"""
