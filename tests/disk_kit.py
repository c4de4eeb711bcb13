"""Disks that fail: full, slow, or without the power that would have kept what was not synced."""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["filled", "mountable", "power_cut", "preloaded", "small_disk"]

_SOURCE = Path(__file__).parent / "faults" / "disk.c"
_NOTE = struct.Struct("qqqq")
_SECTOR = 512


def preloaded(folder: Path, **switches: str) -> dict[str, str]:
    """Compile `disk.c` into a folder and return the environment of a program that is to have such a disk.

    Args:
        folder: Where the library goes; it outlives the program.
        switches: See there.
    """
    library = folder / "disk.so"
    if not library.exists():
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl", "-lpthread"], check=True)
    return {"LD_PRELOAD": str(library), **switches}


def power_cut(database: Path, chance: random.Random) -> tuple[int, int]:
    """Take from a store whose program was killed what a power cut would have: all unsynced writes but some, in pieces.

    Returns:
        How many writes were not synced, and how many of them were lost, in part or as a whole.
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
            return  # killed while it noted this; the write itself was not begun
        yield at, size, data[place : place + before], data[place + before : place + before + after]
        place += before + after


def mountable(folder: Path) -> bool:
    """Tell whether a disk of its own can be had here."""
    try:
        with small_disk(folder, 1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Have a small disk in memory as a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    size = f"size={megabytes}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True, capture_output=True)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Leave no byte on the disk of a folder for as long as the block runs."""
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
