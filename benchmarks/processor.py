"""How much of a processor another process has used."""

from __future__ import annotations

from pathlib import Path

import psutil

__all__ = ["processor_seconds"]


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process, of all the threads that it has now.

    To the nanosecond where the kernel tells (``/proc/PID/task/TID/schedstat``, Linux); else in its ticks of 10 ms, which are a
    fortieth of what a short run measures.
    """
    told = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    if told:
        return sum(int(line.split()[0]) for line in told) / 1e9
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
