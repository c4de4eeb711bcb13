"""Import time of the package and size of its dependencies."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.rows import Row, percentile

ROOT = Path(__file__).parents[1]
RUNS = 9


def measure() -> list[Row]:
    """Time imports in fresh interpreters, and sum up the size of core and its dependencies."""
    floor = _import_seconds("pass")
    return [
        Row(name="import agentfield", value=_import_seconds("import agentfield"), unit="s", floor=floor, goal=0.25),
        Row(
            name="from agentfield import Agent",
            value=_import_seconds("from agentfield import Agent"),
            unit="s",
            floor=floor,
        ),
        Row(name="agentfield-core with dependencies, without .pyc", value=_core_megabytes(), unit="MB", goal=40),
    ]


def _import_seconds(statement: str) -> float:
    times = []
    for _ in range(RUNS + 1):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        times.append(time.perf_counter() - begin)
    return percentile(times[1:], 50)


def _core_megabytes() -> float:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "site"
        subprocess.run(
            [os.environ.get("UV", "uv"), "pip", "install", "--quiet", "--target", target, ROOT / "agentfield-core"],
            check=True,
        )
        return sum(path.stat().st_size for path in target.rglob("*") if path.is_file() and path.suffix != ".pyc") / 1e6
