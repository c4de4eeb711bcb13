"""Read access to the file of a store."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from agentfield_server.engine import FINAL
from support.server.log_entries import event_of, is_intact

__all__ = ["StoreReader"]


class StoreReader:
    """Reads a store's file beside the running control plane and checks what it reads.

    Args:
        path: The database.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as database:
            database.execute("PRAGMA busy_timeout = 10000")
            return database.execute(query, values).fetchall()

    def log(self, run_id: str) -> list[dict[str, Any]]:
        """Return the log of a run, checked: consecutive numbers, and each leaf the digest of its event."""
        rows = self._rows("SELECT seq, entry, body, salt, leaf FROM events WHERE run_id = ? ORDER BY seq", run_id)
        assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
        [(last,)] = self._rows("SELECT seq FROM runs WHERE id = ?", run_id)
        assert last == len(rows)
        events = []
        for seq, entry, body, salt, leaf in rows:
            assert is_intact(entry, body, salt, leaf)
            event = event_of(entry, body)
            assert (event["seq"], event["run_id"]) == (seq, run_id)
            events.append(event)
        return events

    def statuses(self, run_id: str) -> dict[str, str]:
        """Return the status of every execution of a run."""
        return dict(self._rows("SELECT id, status FROM executions WHERE run_id = ?", run_id))

    def open_executions(self) -> dict[str, str]:
        """Return the status of every execution that has not ended."""
        query = "SELECT id, status FROM executions WHERE status IN ('queued', 'running', 'waiting')"
        return dict(self._rows(query))

    def waiting_for_credentials(self) -> int:
        """Return the number of ended executions without a credential."""
        [(count,)] = self._rows("SELECT COUNT(*) FROM credential_queue")
        return int(count)

    def call_id(self, session_id: str) -> str | None:
        """Return the id of the session's call at the provider."""
        [(ref,)] = self._rows("SELECT call_ref FROM sessions WHERE id = ?", session_id)
        return None if ref is None else json.loads(ref).get("call_id")

    def check_over(self, run_id: str) -> list[dict[str, Any]]:
        """Return the log of a finished run, checked: every execution ended once, with the status that the log says."""
        log = self.log(run_id)
        ends = [(e["execution_id"], e["body"]["status"]) for e in log if e["type"] == "execution.ended"]
        assert dict(ends) == self.statuses(run_id)
        assert len(ends) == len(dict(ends))
        assert set(dict(ends).values()) <= FINAL
        return log
