"""The implementations of the store, for one suite over all of them, and rows to put into it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from agentfield.ids import new_id
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import EventRow, IdempotencyKey, NewExecution, NewSession
from agentfield_server.store.sqlite.store import SqliteStore

Factory = Callable[[Path, Callable[[], float], Callable[[list[EventRow]], None]], Store]
"""Returns a store that is not open yet; the same folder gives the same store."""


def sqlite(folder: Path, clock: Callable[[], float], on_commit: Callable[[list[EventRow]], None]) -> Store:
    """Return the embedded store."""
    return SqliteStore(folder / "a.db", on_commit=on_commit, clock=clock)


FACTORIES: dict[str, Factory] = {"sqlite": sqlite}
"""Every implementation; each has to pass the whole suite unchanged."""


class Clock:
    """A clock that the test moves."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Opened:
    """Opens stores of one implementation in one folder.

    Args:
        make: Returns the store.
        folder: Its data folder.
    """

    def __init__(self, make: Factory, folder: Path) -> None:
        self.make = make
        self.folder = folder
        self.clock = Clock()
        self.seen: list[EventRow] = []
        """Every event that a store published after its commit."""

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Store]:
        """Open the store until the block ends; opening it again is a restart."""
        store = self.make(self.folder, self.clock, self.seen.extend)
        await store.open()
        try:
            yield store
        finally:
            await store.close()


def call(**values: Any) -> NewExecution:
    """Return a call that starts a run."""
    given: dict[str, Any] = {
        "id": new_id("exe"),
        "run_id": new_id("run"),
        "kind": "call",
        "target": "node.fn",
        "input": {"n": 1},
    }
    return NewExecution(**{**given, **values})


def session_pair(**values: Any) -> tuple[NewSession, NewExecution]:
    """Return a session and its root execution."""
    session_id, run_id = new_id("ses"), new_id("run")
    given: dict[str, Any] = {
        "id": session_id,
        "run_id": run_id,
        "target": "node.voice",
        "node_id": "node",
        "caller": None,
        "metadata": {},
        "config": {"model": "m"},
        "declaration_hash": "u0",
        "principal": "operator",
    }
    root = call(run_id=run_id, session_id=session_id, kind="session", target="node.voice", status="running")
    return NewSession(**{**given, **values}), root


def key(name: str = "k", body: bytes = b"1", **values: str) -> IdempotencyKey:
    """Return an idempotency key."""
    given = {"principal": "operator", "route": "execute", "target": "node.fn", "key": name}
    return IdempotencyKey(**{**given, **values}, body_digest=body)


def open_in_ended_sessions(file: Path) -> list[str]:
    """Return the open executions of kind session or turn whose session has ended, in the store of a stopped control plane."""
    with closing(sqlite3.connect(file)) as store:
        rows = store.execute(
            "SELECT e.id FROM executions e JOIN sessions s ON s.id = e.session_id WHERE s.state = 'ended' "
            "AND e.kind IN ('session', 'turn') AND e.status IN ('queued', 'running', 'waiting')"
        )
        return [row[0] for row in rows]
