"""One process per store: a lock on a file beside the database, which contains the pid of its holder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from agentfield.errors import Unavailable

__all__ = ["StoreLock"]


class StoreLock:
    """An advisory file lock (flock); the system releases it when the process ends in any way.

    Args:
        path: The database file; the lock file has the same name with ``.lock`` appended.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.with_name(path.name + ".lock")
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            Unavailable: Another process holds it (code `store_locked`); `pid` is that process.
        """
        fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            raise Unavailable(
                f"The store {self._path} is in use by process {pid or 'unknown'}.",
                code="store_locked",
                hint=f"stop that control plane (kill {pid or 'PID'}), or use another AGENTFIELD_HOME",
                pid=int(pid) if pid.isdigit() else None,
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Release the lock; idempotent.

        The file stays: if it were deleted, a process could lock a file that no other process can open any more.
        """
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
