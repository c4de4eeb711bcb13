"""The distributions, installed one after the other into a clean environment: what each adds and how a foreign package is detected."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.packaging.environments import Environment, Ran, build

PAIRS = {
    "agentfield-openai": ["openai/webrtc", "openai/websocket"],
    "agentfield-openrouter": ["openrouter/audio_turns"],
    "agentfield-local": ["local/audio_turns", "local/webrtc", "local/websocket"],
}
"""The pairs of each plugin, in the order of installation."""

RESOLVE = """
from agentfield import Agent
from agentfield.errors import AgentFieldError
from agentfield.plugins import Registry
Agent(node_id="kiosk")
try:
    Registry.discover().resolve("openai", "webrtc")
except AgentFieldError as error:
    print(f"[{error.code}] {error}")
"""


@dataclass
class Observed:
    """Observations after each step."""

    packages: set[str] = field(default_factory=set)
    resolved: str = ""
    had_af: bool = True
    empty: list[dict[str, Any]] = field(default_factory=list)
    empty_table: str = ""
    pairs: dict[str, list[str]] = field(default_factory=dict)
    checked: dict[str, dict[str, Any]] = field(default_factory=dict)
    doctor: dict[str, Ran] = field(default_factory=dict)
    help_after_ruin: Ran = field(default_factory=lambda: Ran(0, "", ""))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Observed:
    """Install step by step and record the state after each."""
    here, seen = Environment.make(tmp_path_factory.mktemp("installed"), wheels), Observed()
    here.install("agentfield-core")
    seen.packages = {row["name"] for row in json.loads(here.pip("list", "--format", "json"))}
    seen.resolved = here.run("python", "-c", RESOLVE).out
    seen.had_af = here.program("af").exists()
    here.install("agentfield-cli")
    seen.empty = here.run("af", "adapters", "--json").json["adapters"]
    seen.empty_table = here.run("af", "adapters").out
    for dist in PAIRS:
        here.install(dist)
        seen.pairs[dist] = here.pairs()
        seen.checked[dist] = here.run("af", "plugins", "check", dist, "--json").json
    seen.doctor["before"] = here.run("af", "doctor", "--json")
    for version, source in (("0.1.144", "__version__ = '0.1.144'"), ("0.1.145", "raise ImportError('no fastapi')")):
        foreign = _foreign_package(here.folder / version, version, source)
        here.pip("install", "--reinstall", "--no-deps", foreign)
        seen.doctor[version] = here.run("af", "doctor", "--json")
    seen.help_after_ruin = here.run("af", "nodes")
    here.pip("uninstall", "agentfield")
    here.install("--reinstall-package", "agentfield-core", "agentfield-core")
    seen.doctor["after"] = here.run("af", "doctor", "--json")
    return seen


def _foreign_package(folder: Path, version: str, source: str) -> Path:
    """Build the wheel of an unrelated distribution that ships a package `agentfield`."""
    (folder / "agentfield").mkdir(parents=True)
    (folder / "agentfield" / "__init__.py").write_text(f"{source}\n")
    (folder / "pyproject.toml").write_text(
        f'[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        f'[project]\nname = "agentfield"\nversion = "{version}"\n'
    )
    build(folder, folder / "dist")
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def test_core_alone_imports_and_says_what_to_install(seen: Observed) -> None:
    """Core alone declares an agent without heavy dependencies and without `af`; an absent pair names its plugin."""
    assert not seen.packages & {"aiortc", "av", "numpy", "apsw", "structlog", "websockets", "typer"}
    assert not seen.had_af
    assert seen.resolved == (
        "[adapter_not_installed] openai/webrtc needs a plugin that is not installed: agentfield-openai."
        " Installed pairs: none.\n  hint: uv pip install agentfield-openai\n"
    )


def test_the_command_alone_lists_no_pair_that_works(seen: Observed) -> None:
    """Without plugins no pair works; each of ours names the command that installs it."""
    assert {(row["installed"], row["state"]) for row in seen.empty} == {(False, "adapter_not_installed")}
    hints = {f"{row['provider']}/{row['transport']}": row["hint"] for row in seen.empty}
    assert hints == {pair: f"uv pip install {dist}" for dist, pairs in PAIRS.items() for pair in pairs}
    assert "(uv pip install agentfield-local)" in " ".join(seen.empty_table.split())


def test_each_plugin_adds_exactly_its_pairs(seen: Observed) -> None:
    """Exactly the pairs of the installed plugins are available."""
    expected: list[str] = []
    for dist, pairs in PAIRS.items():
        expected = sorted([*expected, *pairs])
        assert seen.pairs[dist] == expected


@pytest.mark.parametrize("dist", PAIRS)
def test_a_plugins_declarations_load_and_its_manifest_is_light(seen: Observed, dist: str) -> None:
    """Every factory and options model that the manifest names loads from the wheel, and the manifest imports nothing heavy."""
    found = seen.checked[dist]
    assert (found["ok"], found["problems"], found["pairs"]) == (True, [], PAIRS[dist])
    assert [warning for warning in found["warnings"] if "no peer" not in warning] == []


def test_doctor_finds_a_foreign_package(seen: Observed) -> None:
    """A correct installation has no problem; a foreign `agentfield` is named with its files and the remedy, even if it cannot be imported."""
    assert (seen.doctor["before"].code, _package(seen.doctor["before"])) == (
        0,
        [("ok", "`import agentfield` is agentfield-core's", "")],
    )
    cure = "pip uninstall agentfield && pip install --force-reinstall agentfield-core"
    assert seen.doctor["0.1.144"].code == 1
    assert _package(seen.doctor["0.1.144"]) == [
        (
            "problem",
            "agentfield 0.1.144 is an unrelated project that ships a package `agentfield` too and replaces ours",
            cure,
        ),
        ("problem", "files of agentfield-core were changed after installation: agentfield/__init__.py", cure),
    ]
    for ruined in (seen.doctor["0.1.145"], seen.help_after_ruin):
        assert (ruined.code, ruined.out) == (1, "")
        assert ruined.err.endswith(
            "error: the package agentfield is not agentfield-core's: agentfield 0.1.145 has overwritten it.\n"
            f"hint: {cure}\ncode: foreign_package\n"
        )
    assert _package(seen.doctor["after"]) == _package(seen.doctor["before"]), "the cure cures"


def _package(ran: Ran) -> list[tuple[str, str, str]]:
    checks = ran.json["checks"]
    return [(check["state"], check["text"], check["hint"]) for check in checks if check["name"] == "package"]
