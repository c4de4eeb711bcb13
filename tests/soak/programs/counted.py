"""Run a program and write counts of its objects to a file at each SIGUSR1: ``python counted.py FILE [-m MODULE | SCRIPT] ARGS``."""

from __future__ import annotations

import asyncio
import gc
import json
import runpy
import signal
import sys
from collections import Counter
from pathlib import Path


def _report(*_: object) -> None:
    gc.collect()
    objects = gc.get_objects()
    # `type`, not `isinstance`: the latter runs code of proxy objects
    tasks = [each for each in objects if issubclass(type(each), asyncio.Task) and not each.done()]
    kinds = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in objects)
    counts = {"tasks": len(tasks), "objects": len(objects), "kinds": dict(kinds.most_common(200))}
    partial = _file.with_suffix(".partial")
    partial.write_text(json.dumps(counts))
    partial.replace(_file)


_file = Path(sys.argv[1])
signal.signal(signal.SIGUSR1, _report)
sys.argv = sys.argv[2:]
if sys.argv[0] == "-m":
    del sys.argv[0]
    sys.path.insert(0, "")
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
