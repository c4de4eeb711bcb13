"""A disk that is full for a while under load, and a disk that loses synced writes, which the checker must report."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentfield_server.store.sqlite.store import SqliteStore
from support.faults.disk import filled, mountable, power_cut, preloaded, small_disk
from support.faults.installation import Installation, opened
from support.faults.invariants import examine
from support.faults.load import KILLS, Load, checked, worker

_WRITES = """
import asyncio, sys, time
from agentfield.ids import new_id
from agentfield_server.store.records import NewExecution
from agentfield_server.store.sqlite.store import SqliteStore

async def main(path):
    store = SqliteStore(path, on_commit=lambda _: None, clock=time.time)
    await store.open()
    for number in range(100_000):
        new = NewExecution(id=new_id("exe"), run_id=new_id("run"), kind="call", target="a.b", input={"number": number})
        done, _ = await store.create_execution(new)
        await store.complete_execution(done.id, attempt=None, status="cancelled")
        print(done.id, flush=True)

asyncio.run(main(sys.argv[1]))
"""


@contextmanager
def full_tmpfs(installation: Installation):
    """Give the control plane a small disk as home; yield a context manager that fills it."""
    with small_disk(installation.home, 12):
        yield lambda: filled(installation.home)


@contextmanager
def full_shim(installation: Installation):
    """Preload a library that reports a full disk; yield a context manager that turns it on."""
    switch = installation.folder / "disk.full"
    disk = preloaded(installation.folder, DISK_FULL=str(switch))
    installation.plane = installation.program("plane", "-m", "agentfield_server", env={**installation.env, **disk})

    @contextmanager
    def full():
        switch.touch()
        yield
        switch.unlink()

    yield full


def disks() -> list[object]:
    """Return the kinds of full disk to test: a real one where mounting is allowed, and both in the full run."""
    # a folder of its own: several processes collect these tests at once, and all must find the same ones
    with tempfile.TemporaryDirectory() as folder:
        real = os.geteuid() == 0 and mountable(Path(folder) / "disk")
    return [full_tmpfs, full_shim][not real : 2 if KILLS > 3 else 1 + (not real)]


@pytest.mark.parametrize("disk", disks())
async def test_a_full_disk_refuses_and_loses_nothing(tmp_path, disk):
    """A full disk refuses work with a reason and allows reads; once there is space, work continues without intervention."""
    installation = Installation(tmp_path)
    installation.folder.mkdir(exist_ok=True)
    with disk(installation) as full:
        async with opened(installation):
            await installation.start_plane()
            await installation.start_agent(worker(installation))
            load = Load(installation.url)
            async with load.submitting():
                for _ in range(2):
                    await load.more(20)
                    known = next(iter(load.acknowledged.values()))
                    before = load.refused["store_full"]
                    with full():
                        await load.until(lambda before=before: load.refused["store_full"] >= before + 20)
                        assert (await installation.client.get_execution(known)).id == known
                    await load.more(20)
            await checked(installation, load, f"{disk.__name__}, full twice")


@pytest.mark.parametrize("lies", [False, True])
async def test_the_checker_reports_lost_synced_writes(tmp_path, lies):
    """A power cut loses no acknowledged work; on a disk that confirms a sync without writing, the checker reports the loss."""
    database = tmp_path / "a.db"
    disk = preloaded(tmp_path, **({"DISK_LIES": "1"} if lies else {}))
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WRITES, str(database), env={**os.environ, **disk}, stdout=asyncio.subprocess.PIPE
    )
    assert program.stdout is not None
    names = [(await program.stdout.readline()).decode().strip() for _ in range(300)]
    program.send_signal(signal.SIGKILL)
    names += (await program.stdout.read()).decode().split()
    await program.wait()
    power_cut(database, random.Random(7))
    if lies:
        with pytest.raises(
            (AssertionError, sqlite3.DatabaseError), match=r"lost: exe_|no such table|malformed|not a database"
        ):
            examine(database, "power cut of a store alone", acknowledged=names)
    else:
        await _settled(database)
        assert examine(database, "power cut of a store alone", acknowledged=names).lost == 0


async def _settled(database: Path) -> None:
    """Cancel the executions that were open when the program was killed."""
    store = SqliteStore(database, on_commit=lambda _: None, clock=time.time)
    await store.open()
    try:
        for row in await store.open_executions():
            await store.complete_execution(row.id, attempt=None, status="cancelled")
    finally:
        await store.close()
