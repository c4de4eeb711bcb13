"""The distributions as users get them: built wheels in clean environments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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
    """Run a program and return what it printed."""
    done = subprocess.run([str(arg) for arg in argv], cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build all wheels once."""
    out = tmp_path_factory.mktemp("wheels")
    run(UV, "build", "--all-packages", "--wheel", "--out-dir", out, "--quiet")
    return out


def constraints(tmp_path: Path) -> Path:
    """Write the workspace's pins as a constraints file."""
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"]
    path = tmp_path / "constraints.txt"
    path.write_text("\n".join(pins))
    return path


def environment(tmp_path: Path, wheels: Path, *requirements: str) -> Path:
    """Make a clean environment with these distributions and return its folder of programs."""
    run(UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "env")
    programs = tmp_path / "env" / "bin"
    run(
        UV,
        "pip",
        "install",
        "--quiet",
        "--python",
        programs / "python",
        "--find-links",
        wheels,
        "--constraint",
        constraints(tmp_path),
        *requirements,
    )
    return programs


@pytest.mark.parametrize("dist", DISTS)
def test_a_wheel_holds_its_package_and_nothing_else(wheels: Path, dist: str) -> None:
    """Each wheel has one typed package and its licence, at the common version."""
    (wheel,) = wheels.glob(f"{dist.replace('-', '_')}-*.whl")
    package = {"agentfield-core": "agentfield"}.get(dist, dist.replace("-", "_"))
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {package, f"{dist.replace('-', '_')}-0.1.0.dist-info"}
    assert f"{package}/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_versions_move_in_lockstep() -> None:
    """All distributions have one version and one Python floor, and ask for each other at it."""
    found = set()
    for dist in DISTS:
        project = tomllib.loads((ROOT / dist / "pyproject.toml").read_text())["project"]
        found.add((project["version"], project["requires-python"]))
        for requirement in project["dependencies"]:
            if requirement.startswith("agentfield-"):
                assert requirement.endswith(">=0.1,<0.2"), requirement
    assert found == {("0.1.0", ">=3.11")}


def test_core_alone_imports_and_brings_no_heavy_package(tmp_path: Path, wheels: Path) -> None:
    """Core installs alone, an agent can be declared with it, and no media or database library comes along."""
    programs = environment(tmp_path, wheels, "agentfield-core")
    run(programs / "python", "-c", "from agentfield import Agent; Agent(node_id='kiosk')", cwd=tmp_path)
    installed = {
        row["name"] for row in json.loads(run(UV, "pip", "list", "--python", programs / "python", "--format", "json"))
    }
    assert not installed & {"aiortc", "av", "numpy", "apsw", "structlog", "websockets", "typer"}


def test_the_command_alone_lists_no_pair_and_each_plugin_adds_its_own(tmp_path: Path, wheels: Path) -> None:
    """Without plugins there is nothing to call over; the openai plugin adds exactly openai's pairs."""
    programs = environment(tmp_path, wheels, "agentfield-cli")
    assert pairs(programs, tmp_path) == []
    run(UV, "pip", "install", "--quiet", "--python", programs / "python", "--find-links", wheels, "agentfield-openai")
    assert pairs(programs, tmp_path) == ["openai/webrtc", "openai/websocket"]


def test_two_strangers_pass_the_kit_from_wheels(tmp_path: Path, wheels: Path) -> None:
    """A provider and a transport that know nothing of each other appear in the matrix, and pass the conformance kit in one line."""
    for name in ("agentfield-tones", "agentfield-twilio"):
        run(UV, "build", "--wheel", "--out-dir", wheels, "--quiet", ROOT / "examples" / "plugins" / name)
    programs = environment(tmp_path, wheels, "agentfield-cli", "agentfield-tones[test]", "agentfield-twilio[test]")
    assert pairs(programs, tmp_path) == ["tones/twilio", "tones/websocket"]
    kit = ("--pyargs", "agentfield.testing.conformance", "--adapter", "tones/twilio")
    told = run(programs / "pytest", "-q", "-W", "ignore", *kit, cwd=tmp_path)
    assert " passed in " in told.splitlines()[-1]


def pairs(programs: Path, cwd: Path) -> list[str]:
    """Return the pairs that an installation can do."""
    found = json.loads(run(programs / "af", "adapters", "--json", cwd=cwd))["adapters"]
    return [f"{row['provider']}/{row['transport']}" for row in found if row["installed"]]
