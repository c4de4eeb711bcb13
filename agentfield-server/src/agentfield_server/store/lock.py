"""One process per store: a lock on a file beside the database, which names its holder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from agentfield.errors import Unavailable

__all__ = ["StoreLock"]


class StoreLock:
    """Held from `acquire` to `release`; the system lets go of it when the process dies, however it dies.

    Args:
        path: The database; the lock is the file of the same name with ``.lock`` appended.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.with_name(path.name + ".lock")
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            Unavailable: Somebody else has it (code `store_locked`); `pid` says which process.
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
        """Let go; idempotent. The file stays, so that nobody can lock one that is about to go away."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
