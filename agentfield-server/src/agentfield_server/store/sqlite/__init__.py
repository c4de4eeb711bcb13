"""The embedded store: one SQLite file, WAL mode, synchronous=FULL, one writer thread, group commit.

There are two layers. `agentfield_server.store.operations` says what a write means, as a frozen value. `operations` (here) says how a
group of them becomes SQL. The writer thread takes all submitted operations, executes them group by group in one commit, and
answers after it. Reads run on a few read-only connections.

Read `store` (`SqliteStore`, put together from the tables), `methods` (the methods of the `Store` protocol), `operations`
(`groups`, then the tables), `database` (`SqliteDatabase`: opening, connections), `writer` (`Writer`, `Transaction`), `schema`
(migrations), `rows` (rows to records) and `lock` (one process a file).
"""
