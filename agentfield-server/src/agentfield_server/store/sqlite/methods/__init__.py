"""The methods of the `Store` protocol in SQLite, as mixins over `SqliteDatabase`, one a group of tables.

A read is a SELECT on a read-only connection; a write submits an operation to the writer thread.
"""
