"""Failing disks: full, slow, or losing unsynced writes in a power cut."""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["filled", "mountable", "power_cut", "preloaded", "small_disk"]

_SOURCE = Path(__file__).parent / "disk.c"
_NOTE = struct.Struct("qqqq")
_SECTOR = 512


def preloaded(folder: Path, **switches: str) -> dict[str, str]:
    """Compile `disk.c` into a folder and return the environment that makes a program use it.

    Args:
        folder: The folder of the library; it must outlive the program.
        switches: Environment variables that `disk.c` reads.
    """
    library = folder / "disk.so"
    if not library.exists():
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl", "-lpthread"], check=True)
    return {"LD_PRELOAD": str(library), **switches}


def power_cut(database: Path, chance: random.Random) -> tuple[int, int]:
    """Undo unsynced writes to the store of a killed program, as a power cut does; some of them are kept, whole or in part.

    Returns:
        The number of unsynced writes, and of those that were lost in whole or in part.
    """
    written = lost = 0
    for file in (database, database.with_name(database.name + "-wal")):
        book = file.with_name(file.name + ".unsynced")
        if not book.exists():
            continue
        notes = list(_notes(book.read_bytes()))
        with file.open("r+b") as disk:
            for at, size, before, _ in reversed(notes):
                disk.seek(at)
                disk.write(before)
                disk.truncate(size)
            for at, _, _, after in notes:
                kept = chance.choice((0, len(after), chance.randrange(0, len(after) + 1, _SECTOR)))
                disk.seek(at)
                disk.write(after[:kept])
                lost += kept < len(after)
        written += len(notes)
        book.unlink()
    database.with_name(database.name + "-shm").unlink(missing_ok=True)
    return written, lost


def _notes(data: bytes) -> Iterator[tuple[int, int, bytes, bytes]]:
    place = 0
    while place + _NOTE.size <= len(data):
        at, size, before, after = _NOTE.unpack_from(data, place)
        place += _NOTE.size
        if place + before + after > len(data):
            return  # killed while it noted this write, before the write itself
        yield at, size, data[place : place + before], data[place + before : place + before + after]
        place += before + after


def mountable(folder: Path) -> bool:
    """Tell whether a tmpfs can be mounted here."""
    try:
        with small_disk(folder, 1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a small disk in memory at a folder until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    size = f"size={megabytes}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True, capture_output=True)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Fill the disk of a folder to the last byte until the block ends."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 4096, 1):
            while _fits(file, b"\0" * size):
                pass
    try:
        yield
    finally:
        filler.unlink()


def _fits(file: object, piece: bytes) -> bool:
    try:
        return file.write(piece) == len(piece)  # type: ignore[attr-defined]
    except OSError:
        return False
