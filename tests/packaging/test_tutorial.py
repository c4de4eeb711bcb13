"""The tutorial, executed literally: its commands, its changes and the output that it shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.packaging.environments import ROOT, Environment

TUTORIAL = ROOT / "docs" / "write-a-plugin.md"
BLOCK = re.compile(r"^```(console|diff)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Reader:
    """A reader who follows a page in a terminal, with a clean environment.

    Args:
        here: The environment.
        folder: The current folder.
    """

    here: Environment
    folder: Path

    def follow(self, kind: str, block: str) -> None:
        """Execute a block."""
        if kind == "diff":
            subprocess.run(["git", "apply", "-"], input=block, cwd=self.folder, text=True, check=True)
            return
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            self.type(shlex.split(command), expected.splitlines())

    def type(self, argv: list[str], expected: list[str]) -> None:
        """Run a command and compare its output."""
        match argv:
            case ["cd", folder]:
                self.folder /= folder
            case ["pip", "install", "-e", project]:
                path, _, extra = project.partition("[")
                self.here.install("-e", f"{(self.folder / path).resolve()}[{extra}")
            case _:
                done = self.run(argv)
                fails = any(" failed" in line for line in expected)
                assert (done.returncode != 0) == fails, f"{argv}\n{done.stdout}\n{done.stderr}"
                for line in expected:
                    assert line in done.stdout, f"{argv} does not print {line!r}:\n{done.stdout[-3000:]}"

    def run(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTFIELD_", "PYTHON"))}
        env = {**own, "AGENTFIELD_HOME": str(self.here.folder / "home")}
        command = [str(self.here.program(argv[0])), *argv[1:]]
        return subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, check=False, timeout=300
        )


@pytest.mark.timeout(600)  # it installs two projects and runs the conformance suite five times
def test_the_tutorial_leads_from_an_empty_folder_to_a_green_run(tmp_path: Path, wheels: Path) -> None:
    """Each command works as written, the run that is to fail fails, and the last ones pass."""
    here = Environment.make(tmp_path, wheels)
    here.install("agentfield-cli")
    empty = tmp_path / "empty"
    empty.mkdir()
    reader = Reader(here, empty)
    blocks = [found.groups() for found in BLOCK.finditer(TUTORIAL.read_text())]
    assert [kind for kind, _ in blocks].count("diff") == 3
    for kind, block in blocks:
        reader.follow(kind, block)
    assert reader.folder == empty / "agentfield-echo"


def test_linked_pages_and_examples_exist() -> None:
    """Every page and example that the tutorial links to exists."""
    text = TUTORIAL.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (TUTORIAL.parent / target).exists(), target
