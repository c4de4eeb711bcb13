"""The built wheels: their content and versions."""

from __future__ import annotations

import tomllib
import zipfile
from pathlib import Path

import pytest

from support.packaging.environments import DISTS, ROOT


@pytest.mark.parametrize("dist", DISTS)
def test_a_wheel_holds_its_package_alone(wheels: Path, dist: str) -> None:
    """Each wheel has one typed package and its licence, at the common version."""
    (wheel,) = wheels.glob(f"{dist.replace('-', '_')}-*.whl")
    package = {"agentfield-core": "agentfield"}.get(dist, dist.replace("-", "_"))
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {package, f"{dist.replace('-', '_')}-0.1.0.dist-info"}
    assert f"{package}/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_versions_move_in_lockstep() -> None:
    """All distributions have one version and one minimum Python, and depend on each other at that version."""
    found = set()
    for dist in DISTS:
        project = tomllib.loads((ROOT / dist / "pyproject.toml").read_text())["project"]
        found.add((project["version"], project["requires-python"]))
        for requirement in project["dependencies"]:
            if requirement.startswith("agentfield-"):
                assert requirement.endswith(">=0.1,<0.2"), requirement
    assert found == {("0.1.0", ">=3.11")}
