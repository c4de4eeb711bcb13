"""Runs of the conformance kit on mutants, many in one process, as their authors would run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from support.mutants.commands import COMMANDS
from support.mutants.failures import FAILURES
from support.mutants.manifests import MANIFESTS
from support.mutants.mutant import Mutant
from support.mutants.sessions import SESSIONS
from support.mutants.transports import TRANSPORTS
from support.mutants.undeclared import UNDECLARED
from support.packaging.third_party import install_project

__all__ = ["MUTANTS", "Outcome", "run_kit"]

MUTANTS: tuple[Mutant, ...] = (*SESSIONS, *COMMANDS, *FAILURES, *MANIFESTS, *UNDECLARED, *TRANSPORTS)
_PATIENCE = "4"
_CONFTEST = """
import json
import os

WANTED = json.loads(os.environ["MUTANTS_WANTED"])


def pytest_collection_modifyitems(items):
    if WANTED:
        items[:] = [item for item in items if "::".join(item.nodeid.split("::")[1:]) in WANTED]
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one standard test of one mutant."""

    test: str
    failed: bool
    message: str


def run_kit(
    mutants: Sequence[Mutant], folder: Path, *, whole: bool = False, seconds: float = 280
) -> dict[str, list[Outcome]]:
    """Run the kit on mutants in one process; return the outcomes by mutant.

    Args:
        mutants: The mutants.
        folder: An empty folder.
        whole: Whether to run every standard test, not only the one that finds each mutant.
        seconds: The deadline of the run.
    """
    site = folder / "site"
    site.mkdir(parents=True)
    path = [str(site), *(install_project(site, mutant.write(folder)) for mutant in mutants)]
    lines = ["from agentfield.testing import AdapterSuite, TransportSuite\n"]
    for mutant in mutants:
        suite = "AdapterSuite" if mutant.kind == "provider" else "TransportSuite"
        lines.append(f'\n\nclass Test_{mutant.name}({suite}):\n    pair = "{mutant.pair}"\n')
    (folder / "test_mutants.py").write_text("".join(lines))
    (folder / "conftest.py").write_text(_CONFTEST)
    report = folder / "report.xml"
    wanted = [] if whole else [f"Test_{mutant.name}::{mutant.test}" for mutant in mutants]
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "AGENTFIELD_TESTING_PATIENCE": _PATIENCE,
        "MUTANTS_WANTED": json.dumps(wanted),
    }
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "test_mutants.py"]
    done = subprocess.run(argv, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=seconds)
    assert report.exists(), f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    assert done.returncode in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), (
        done.stdout[-4000:] + done.stderr[-4000:]
    )
    return _outcomes(report, mutants)


def _outcomes(report: Path, mutants: Sequence[Mutant]) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {mutant.name: [] for mutant in mutants}
    for case in ET.parse(report).getroot().iter("testcase"):
        problems = [each for kind in ("failure", "error") for each in case.findall(kind)]
        message = "\n".join(f"{each.get('message', '')}\n{each.text or ''}" for each in problems)
        name = case.get("classname", "").rpartition("Test_")[2]
        found[name].append(Outcome(case.get("name", ""), bool(problems), message))
    return found
