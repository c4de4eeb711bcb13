"""Garbage collector tuning in a process that serves calls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import asyncio, gc, os, pathlib, signal, sys
from agentfield_server.app import run_server
from agentfield_server.settings import Settings

class Cycle:
    pass

def ready(plane):
    one = Cycle()
    one.itself = one
    del one
    print(gc.get_freeze_count() > 50_000, len(gc.get_objects()) < 20_000, gc.collect() >= 1, gc.isenabled())
    os.kill(os.getpid(), signal.SIGTERM)

asyncio.run(run_server(Settings(home=pathlib.Path(sys.argv[1]), port=0), ready=ready))
"""


def test_a_full_collection_of_a_control_plane_is_small(tmp_path: Path) -> None:
    """A full collection skips the imported modules and still collects later objects."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path)], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["True"] * 4, done.stdout + done.stderr
