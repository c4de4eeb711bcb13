"""Mutants of defences: without the defence that a patch removes, the test that it names fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT

PATCHES = sorted((ROOT / "tests" / "mutants").glob("*.patch"))
SOURCES = sorted(path.parent for path in ROOT.glob("agentfield-*/src"))


def header(patch: Path) -> tuple[str, str]:
    """Return what a patch removes, and the test that proves it."""
    text = patch.read_text(encoding="utf-8")
    found = re.match(r"Mutant: (.+)\nTest: (\S+)\n", text)
    assert found is not None, f"{patch.name} has no header"
    return found[1], found[2]


def mutated(patch: Path, folder: Path) -> dict[str, str]:
    """Apply a patch to a copy of the sources; return the environment that imports the copy."""
    for source in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source / "src", folder / source.name / "src", ignore=ignored)
    subprocess.run(["git", "apply", "-C1", "--recount", str(patch)], cwd=folder, check=True, capture_output=True)
    paths = [str(folder / source.name / "src") for source in SOURCES]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_mutant_fits_the_sources(patch: Path) -> None:
    """Each patch applies to the sources of today, and its test exists."""
    _, test = header(patch)
    file, _, name = test.partition("::")
    assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8")
    command = ["git", "apply", "-C1", "--recount", "--check", str(patch)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{patch.name}: {done.stderr}"


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_mutant_fails_its_test(patch: Path, tmp_path: Path) -> None:
    """Without the defence the named test fails: it proves the defence."""
    what, test = header(patch)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout", "100", test]
    done = subprocess.run(
        command, cwd=ROOT, env=mutated(patch, tmp_path), capture_output=True, text=True, timeout=300, check=False
    )
    # 1: a test failed; other codes are errors of the run itself
    assert done.returncode == 1, f"{test} holds although {what}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
