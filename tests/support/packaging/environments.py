"""The wheels, built once, and clean environments to install them into."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.paths import ROOT

__all__ = ["DISTS", "ROOT", "Environment", "Ran", "build", "wheels"]

DISTS = [
    "agentfield-core",
    "agentfield-server",
    "agentfield-openai",
    "agentfield-openrouter",
    "agentfield-local",
    "agentfield-cli",
]
UV = os.environ.get("UV", "uv")


def run(*argv: str | Path, cwd: Path = ROOT) -> str:
    """Run a program that must succeed and return its output."""
    done = subprocess.run([str(arg) for arg in argv], cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build all wheels once, for all workers of a run."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    out = folder / "wheels"
    with (folder / "wheels.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists():
            run(UV, "build", "--all-packages", "--wheel", "--out-dir", folder / "built", "--quiet")
            (folder / "built").rename(out)
    return out


def build(project: Path, out: Path) -> None:
    """Build the wheel of a project outside the workspace."""
    run(UV, "build", "--no-sources", "--wheel", "--out-dir", out, "--quiet", project, cwd=project)


@dataclass(frozen=True)
class Ran:
    """The result of a program."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output, parsed as JSON."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Environment:
    """A clean environment.

    Args:
        folder: Its folder.
        wheels: The folder of our wheels.
    """

    folder: Path
    wheels: Path

    @classmethod
    def make(cls, folder: Path, wheels: Path) -> Environment:
        """Create one; other distributions have the versions of the workspace."""
        run(UV, "venv", "--quiet", "--python", sys.executable, folder / "env")
        pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"]
        (folder / "constraints.txt").write_text("\n".join(pins))
        return cls(folder, wheels)

    def install(self, *requirements: str | Path) -> None:
        """Install requirements."""
        links, pins = ("--find-links", self.wheels), ("--constraint", self.folder / "constraints.txt")
        self.pip("install", *links, *pins, *requirements)

    def pip(self, command: str, *args: str | Path) -> str:
        """Run `uv pip` for it and return the output."""
        return run(UV, "pip", command, "--quiet", "--python", self.program("python"), *args)

    def program(self, name: str) -> Path:
        """Return the path of one of its programs."""
        return self.folder / "env" / "bin" / name

    def run(self, program: str, *args: str) -> Ran:
        """Run one of its programs without AgentField's environment variables."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("AGENTFIELD_", "PYTHON", "VIRTUAL_ENV"))}
        env["AGENTFIELD_HOME"] = str(self.folder / "home")
        argv = [str(self.program(program)), *args]
        done = subprocess.run(argv, cwd=self.folder, env=env, capture_output=True, text=True, check=False, timeout=300)
        return Ran(done.returncode, done.stdout, done.stderr)

    def pairs(self) -> list[str]:
        """Return its installed pairs."""
        rows = self.run("af", "adapters", "--json").json["adapters"]
        return [f"{row['provider']}/{row['transport']}" for row in rows if row["installed"]]
