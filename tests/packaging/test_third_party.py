"""Third-party plugins, built and installed as wheels and independent of each other: the skeletons of `af init` and the examples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.packaging.environments import ROOT, Environment, build

EXAMPLES = sorted(path.parent for path in (ROOT / "examples" / "plugins").glob("*/pyproject.toml"))
GENERATED = {"agentfield-acme": "provider", "agentfield-audit": "hooks", "agentfield-pager": "transport"}
"""The projects that `af init plugin` creates, with their kinds."""
TESTED = tuple(path.name.replace("-", "_") for path in EXAMPLES)
NAMES = [*GENERATED, *(path.name for path in EXAMPLES)]


@dataclass(frozen=True)
class Installation:
    """An environment with all plugins."""

    here: Environment
    generated: dict[str, Path]

    def source(self, dist: str) -> Path:
        """Return the project folder of a plugin."""
        return self.generated.get(dist) or next(path for path in EXAMPLES if path.name == dist)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the listed pairs by name."""
        rows = self.here.run("af", "adapters", "--json").json["adapters"]
        return {f"{row['provider']}/{row['transport']}": row for row in rows}


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Installation:
    """Build each project's wheel and install them all, with `af`, mypy and ruff."""
    folder = tmp_path_factory.mktemp("third_party")
    generated = {dist: folder / dist for dist in GENERATED}
    af = Path(sys.executable).with_name("af")
    for dist, kind in GENERATED.items():
        command = [af, "init", "plugin", dist.removeprefix("agentfield-"), "--kind", kind, "--into", generated[dist]]
        subprocess.run(command, check=True, capture_output=True)
    for project in (*generated.values(), *EXAMPLES):
        build(project, folder / "dist")
    here = Environment.make(folder, wheels)
    # the fakes of the examples may need more than the plugins
    built = [f"{path}[test]" if path.name.startswith(TESTED) else path for path in (folder / "dist").glob("*.whl")]
    here.install("agentfield-cli", "agentfield-core[testing]", "mypy", "ruff", *sorted(map(str, built)))
    return Installation(here, generated)


def test_each_is_listed_with_its_own_distribution(installation: Installation) -> None:
    """Every pair that a plugin's manifest declares is listed as installed, with its distribution."""
    plugins = {row["distribution"]: row for row in installation.here.run("af", "plugins", "--json").json["plugins"]}
    assert sorted(plugins) == sorted(NAMES)
    assert {row["state"] for row in plugins.values()} == {"ok"}
    rows = installation.rows()
    for dist, plugin in plugins.items():
        assert plugin["pairs"] or GENERATED.get(dist) == "hooks", f"{dist} has no part in any pair"
        for pair in plugin["pairs"]:
            assert rows[pair]["installed"], rows[pair]["reason"]
            assert dist in (rows[pair]["distribution"], rows[pair]["transport_distribution"])


def test_independent_plugins_combine(installation: Installation) -> None:
    """Every provider with a bridged pair works over every plugin's bridged transport, in a row that names both distributions."""
    plugins = installation.here.run("af", "plugins", "--json").json["plugins"]
    rows = installation.rows()
    providers = {row["provider"] for row in rows.values() if row["media"] == "bridged" and row["bridged_from"] is None}
    assert "acme" in providers
    assert rows["acme/pager"]["distribution"] == "agentfield-acme"
    for plugin in plugins:
        for transport in plugin["transports"]:
            for provider in providers:
                row = rows[f"{provider}/{transport}"]
                assert (row["installed"], row["transport_distribution"]) == (True, plugin["distribution"])
                assert row["bridged_from"] == f"{provider}/websocket"


@pytest.mark.parametrize("dist", NAMES)
def test_the_plugin_check_finds_no_problem(installation: Installation, dist: str) -> None:
    """`af plugins check` finds no problem: the manifest is light and everything that it names loads."""
    found = installation.here.run("af", "plugins", "check", dist, "--json")
    assert (found.code, found.json["problems"]) == (0, [])
    assert [warning for warning in found.json["warnings"] if "has no peer" not in warning] == []


@pytest.mark.parametrize("dist", NAMES)
def test_the_types_are_strict(installation: Installation, dist: str) -> None:
    """The project's source passes strict mypy against the installed wheels."""
    done = installation.here.run(
        "mypy",
        "--strict",
        "--config-file",
        os.devnull,
        "--cache-dir",
        os.devnull,
        str(installation.source(dist) / "src"),
    )
    assert done.code == 0, done.out + done.err


@pytest.mark.parametrize("dist", GENERATED)
def test_generated_code_passes_our_linter(installation: Installation, dist: str) -> None:
    """The skeleton passes our linter and formatter; the examples are checked with the rest of the checkout."""
    config = ("--no-cache", "--config", str(ROOT / "pyproject.toml"), str(installation.generated[dist] / "src"))
    for command in (("check",), ("format", "--check")):
        done = installation.here.run("ruff", *command, *config)
        assert done.code == 0, done.out + done.err


@pytest.mark.parametrize("dist", [dist for dist, kind in GENERATED.items() if kind == "hooks"])
def test_the_tests_of_generated_hooks_pass(installation: Installation, dist: str) -> None:
    """The skeleton of a plugin with hooks has tests of its own, since the conformance kit is for providers and transports."""
    source = installation.source(dist)
    config = ("-c", str(source / "pyproject.toml"), "--rootdir", str(source), "-p", "no:cacheprovider")
    done = installation.here.run("python", "-m", "pytest", "-q", *config, str(source / "tests"))
    assert done.code == 0, done.out + done.err


@pytest.mark.parametrize("dist", NAMES)
def test_it_depends_on_released_interfaces_only(installation: Installation, dist: str) -> None:
    """A plugin needs neither server nor command line, and depends on core within its version."""
    project = tomllib.loads((installation.source(dist) / "pyproject.toml").read_text())["project"]
    ours = [line for line in project["dependencies"] if line.startswith("agentfield")]
    assert "agentfield-core>=0.1,<0.2" in ours
    assert not [line for line in ours if line.startswith(("agentfield-server", "agentfield-cli"))]
    code = "".join(path.read_text() for path in (installation.source(dist) / "src").rglob("*.py"))
    assert "agentfield_server" not in code
    assert "agentfield_cli" not in code


def test_existing_files_are_not_overwritten(installation: Installation) -> None:
    """A second `af init plugin` into the same folder and an invalid name are refused; nothing changes."""
    folder = installation.generated["agentfield-acme"]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = installation.here.run("af", "init", "plugin", "acme", "--into", str(folder), "--json")
    assert (again.code, json.loads(again.out)["code"]) == (2, "folder_not_empty")
    for name in ("Acme", "1acme", "acme-voice", "../acme"):
        refused = installation.here.run("af", "init", "plugin", name)
        assert (refused.code, refused.err.splitlines()[-1]) == (2, "code: invalid_name")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("dist", [path.name for path in EXAMPLES])
def test_each_passes_the_conformance_kit(installation: Installation, dist: str) -> None:
    """The documented command passes for every declared pair and transport and skips nothing.

    The skeletons of `af init` are checked in the same way in the tutorial.
    """
    plugins = {row["distribution"]: row for row in installation.here.run("af", "plugins", "--json").json["plugins"]}
    rows = installation.rows()
    declared = [pair for pair in plugins[dist]["pairs"] if rows[pair]["bridged_from"] is None]
    carried = [f"*/{name}" for name in plugins[dist]["transports"]]
    assert declared or carried
    for pair in (*declared, *carried):
        done = installation.here.run(
            "python",
            "-m",
            "pytest",
            "-q",
            "--pyargs",
            "agentfield.testing.conformance",
            "--adapter",
            pair,
        )
        last = done.out.strip().splitlines()[-1]
        assert done.code == 0, f"{pair}: {done.out[-4000:]}{done.err[-2000:]}"
        assert " passed" in last
        assert "skipped" not in last
