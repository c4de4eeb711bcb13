"""Run benchmarks and print each row when it is measured: ``python -m benchmarks [NAME ...] [--quick] [--json FILE]``."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from benchmarks.rows import Row, print_head, print_row

NAMES = (
    "imports",
    "plugins",
    "signatures",
    "exports",
    "credentials",
    "dispatch",
    "offer",
    "reply",
    "bridge",
    "media",
    "store",
    "engine",
    "access",
)


def main() -> int:
    """Run the named benchmarks, by default all of them."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"any of: {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    parser.add_argument(
        "--quick", action="store_true", help="fewer runs of the engine and the store, with a wider error"
    )
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    # ends the blocks in which programs run, as Ctrl-C does
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rows: list[Row] = []

    def emit(row: Row) -> None:
        rows.append(row)
        print_row(row)

    if options.quick:
        sys.stderr.write("quick: fewer runs, a wider error; a row within a third of its goal says nothing\n")
    print_head()
    for name in options.names or NAMES:
        sys.stderr.write(f"measuring {name} …\n")
        _measure(importlib.import_module(f"benchmarks.{name}"), emit, quick=options.quick)
    if options.json:
        options.json.write_text(json.dumps([row.as_dict() for row in rows], indent=1))
    return 0


def _measure(module: ModuleType, emit: Callable[[Row], None], *, quick: bool) -> None:
    if hasattr(module, "report"):
        module.report(emit, quick=quick)
    else:
        for row in module.measure():
            emit(row)


if __name__ == "__main__":
    sys.exit(main())
