"""Third-party plugins for one process: their code and entry points are put on its path, as if they were installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from support.paths import ROOT

__all__ = ["GEMINI", "ROOT", "TELNYX", "TONES", "TWILIO", "conformance", "install", "install_project"]

GEMINI = ROOT / "examples" / "plugins" / "agentfield-gemini"
TELNYX = ROOT / "examples" / "plugins" / "agentfield-telnyx"
TONES = ROOT / "examples" / "plugins" / "agentfield-tones"
TWILIO = ROOT / "examples" / "plugins" / "agentfield-twilio"


def install(site: Path, name: str, entry_points: Mapping[str, Mapping[str, str]], version: str = "0.1.0") -> None:
    """Write the metadata of an installed distribution into a folder: its name and its entry points."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in of.items())
        for group, of in entry_points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


def install_project(site: Path, project: Path) -> str:
    """Write a project's metadata into a folder and return the path of its code."""
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    install(site, about["name"], about["entry-points"], about["version"])
    return str(project / "src")


def conformance(*arguments: str, cwd: Path, path: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    """Run pytest as a plugin's author does, in a folder without our configuration."""
    ours = {"PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--no-header", *arguments]
    environment = {**os.environ, **ours, **environ}
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=580)
