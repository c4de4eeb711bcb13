"""Run benchmarks and print their rows: ``python -m benchmarks [NAME ...] [--json FILE]``."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from benchmarks.rows import Row, print_rows

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
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    rows: list[Row] = []
    for name in options.names or NAMES:
        sys.stderr.write(f"measuring {name} …\n")
        rows += importlib.import_module(f"benchmarks.{name}").measure()
    print_rows(rows)
    if options.json:
        options.json.write_text(json.dumps([row.as_dict() for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
