"""Disks: full and emptied again, under load; and a disk that lies, which shows that a loss would be seen."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentfield_server.store.sqlite import SqliteStore
from disk_kit import filled, mountable, power_cut, preloaded, small_disk
from faults_kit import House, opened
from invariants_kit import examine
from load_kit import KILLS, Load, checked, worker

_WRITES = """
import asyncio, sys, time
from agentfield.ids import new_id
from agentfield_server.store.records import NewExecution
from agentfield_server.store.sqlite import SqliteStore

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
def full_tmpfs(house: House):
    """A control plane whose home is a small disk; gives what fills it."""
    with small_disk(house.home, 12):
        yield lambda: filled(house.home)


@contextmanager
def full_shim(house: House):
    """A control plane that is told by a preloaded library that its disk is full."""
    switch = house.folder / "disk.full"
    disk = preloaded(house.folder, DISK_FULL=str(switch))
    house.plane = house.program("plane", "-m", "agentfield_server", env={**house.env, **disk})

    @contextmanager
    def full():
        switch.touch()
        yield
        switch.unlink()

    yield full


def disks() -> list[object]:
    """Return the ways to have a full disk here: a real one where one may be mounted, and in the full run both."""
    real = os.geteuid() == 0 and mountable(Path("/tmp/agentfield-mountable"))
    return [full_tmpfs, full_shim][not real : 2 if KILLS > 3 else 1 + (not real)]


@pytest.mark.parametrize("disk", disks())
async def test_a_full_disk_refuses_and_loses_nothing(tmp_path, disk):
    """While the disk is full work is refused with the reason, and what is stored can be read; then all goes on by itself."""
    house = House(tmp_path)
    house.folder.mkdir(exist_ok=True)
    with disk(house) as full:
        async with opened(house):
            await house.start_plane()
            await house.start_agent(worker(house))
            load = Load(house.url)
            async with load.going_on():
                for _ in range(2):
                    await load.more(20)
                    known = next(iter(load.acknowledged.values()))
                    before = load.refused["store_full"]
                    with full():
                        await load.until(lambda before=before: load.refused["store_full"] >= before + 20)
                        assert (await house.client.get_execution(known)).id == known
                    await load.more(20)
            await checked(house, load, f"{disk.__name__}, full twice")


@pytest.mark.parametrize("lies", [False, True])
async def test_a_disk_that_lies_is_seen(tmp_path, lies):
    """After a power cut the checker finds nothing lost, and finds what is lost where the disk only says that it synced."""
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
    """Close what was created and not yet cancelled when the program was killed."""
    store = SqliteStore(database, on_commit=lambda _: None, clock=time.time)
    await store.open()
    try:
        for row in await store.open_executions():
            await store.complete_execution(row.id, attempt=None, status="cancelled")
    finally:
        await store.close()
