"""Programs of a benchmark end with it, whatever ends it."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import psutil
import pytest

from support.waiting import until

SECONDS = 60.0
ROOT = Path(__file__).parents[2]
BENCHMARK = """
import asyncio, signal, sys
from pathlib import Path
from benchmarks.programs import program

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
# a program that was started in the background ignores it
signal.signal(signal.SIGINT, signal.default_int_handler)
WAITS = "import os, time\\nprint(os.getpid(), flush=True)\\ntime.sleep(600)"

async def main():
    async with program(["-c", WAITS], Path(sys.argv[1])) as running:
        print(running.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
async def test_no_program_is_left_when_a_benchmark_is_stopped(tmp_path: Path, how: signal.Signals) -> None:
    """A benchmark that is interrupted, terminated or killed leaves no process behind."""
    benchmark = await asyncio.create_subprocess_exec(
        sys.executable, "-c", BENCHMARK, str(tmp_path), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert benchmark.stdout is not None
    program = psutil.Process(int(await benchmark.stdout.readline()))
    benchmark.send_signal(how)
    async with asyncio.timeout(SECONDS):
        await benchmark.wait()
    await until(lambda: _is_gone(program))


def _is_gone(program: psutil.Process) -> bool:
    try:
        return program.status() == psutil.STATUS_ZOMBIE  # nobody waits for it once its parent is gone
    except psutil.NoSuchProcess:
        return True
