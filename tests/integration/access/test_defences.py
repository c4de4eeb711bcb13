"""Defences are tested: without one of them, a named test fails. Each patch in `tests/mutants` removes one."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from support.paths import ROOT

PATCHES = sorted((ROOT / "tests" / "mutants").glob("*.patch"))
COPIED = ("*.egg-info", "__pycache__", ".venv", ".uv", ".git", "node_modules", ".*_cache")


def header(patch: Path, name: str) -> str:
    """Return a line of the head of a patch."""
    found = re.search(rf"^{name}: (.+)$", patch.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, f"{patch.name} has no {name}"
    return found[1]


async def run(*command: str, cwd: Path, **env: str) -> tuple[int, str]:
    """Run a program to its end; return its exit code and its output."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**os.environ, **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")


def sources(root: Path) -> str:
    """Return the search path of the packages in a copy; it goes before the installed ones."""
    return os.pathsep.join(str(path) for path in sorted(root.glob("agentfield-*/src")))


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
async def test_a_patch_applies_and_names_a_test(patch: Path) -> None:
    """A patch says which defence it removes, applies to these sources, and names a test that exists."""
    assert header(patch, "Defence").endswith(".")
    file, _, name = header(patch, "Test").partition("::")
    assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")
    code, output = await run("git", "apply", "--check", "-C1", str(patch), cwd=ROOT)
    assert code == 0, output


@pytest.mark.long
@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
async def test_without_a_defence_its_test_fails(patch: Path, tmp_path: Path) -> None:
    """In a copy without the defence the named test fails."""
    copy = tmp_path / "copy"
    for folder in (*ROOT.glob("agentfield-*"), ROOT / "tests", ROOT / "examples", ROOT / "docs"):
        shutil.copytree(folder, copy / folder.name, ignore=shutil.ignore_patterns(*COPIED))
    shutil.copy(ROOT / "pyproject.toml", copy)
    code, output = await run("git", "apply", "-C1", str(patch), cwd=copy, GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert code == 0, output
    test = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", header(patch, "Test"))
    code, output = await run(*test, cwd=copy, PYTHONPATH=sources(copy))
    assert code == 1, output
    assert re.search(r"^FAILED ", output, re.MULTILINE), output
