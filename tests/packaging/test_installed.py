"""The distributions installed one after the other into one clean environment: what each adds, and what goes wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from packaging_kit import Environment, Ran, build

PAIRS = {
    "agentfield-openai": ["openai/webrtc", "openai/websocket"],
    "agentfield-openrouter": ["openrouter/audio_turns"],
    "agentfield-local": ["local/audio_turns", "local/webrtc", "local/websocket"],
}
"""What each plugin adds, in the order in which they are installed."""

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
class Seen:
    """What was seen after each step."""

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
def seen(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Seen:
    """Install step by step, and look after each step."""
    here, seen = Environment.make(tmp_path_factory.mktemp("installed"), wheels), Seen()
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
        intruder = _intruder(here.folder / version, version, source)
        here.pip("install", "--reinstall", "--no-deps", intruder)
        seen.doctor[version] = here.run("af", "doctor", "--json")
    seen.help_after_ruin = here.run("af", "nodes")
    here.pip("uninstall", "agentfield")
    here.install("--reinstall-package", "agentfield-core", "agentfield-core")
    seen.doctor["after"] = here.run("af", "doctor", "--json")
    return seen


def _intruder(folder: Path, version: str, source: str) -> Path:
    """Build the wheel of a distribution that is called like our package and ships one of that name."""
    (folder / "agentfield").mkdir(parents=True)
    (folder / "agentfield" / "__init__.py").write_text(f"{source}\n")
    (folder / "pyproject.toml").write_text(
        f'[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        f'[project]\nname = "agentfield"\nversion = "{version}"\n'
    )
    build(folder, folder / "dist")
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def test_core_alone_imports_and_says_what_to_install(seen: Seen) -> None:
    """An agent can be declared with core alone; no heavy library came along, there is no `af`, and a pair names its plugin."""
    assert not seen.packages & {"aiortc", "av", "numpy", "apsw", "structlog", "websockets", "typer"}
    assert not seen.had_af
    assert seen.resolved == (
        "[adapter_not_installed] openai/webrtc needs a plugin that is not installed: agentfield-openai."
        " Installed pairs: none.\n  hint: uv pip install agentfield-openai\n"
    )


def test_the_command_alone_lists_no_pair_that_works(seen: Seen) -> None:
    """Without plugins there is nothing to call over; each pair of ours names the line that installs it."""
    assert {(row["installed"], row["state"]) for row in seen.empty} == {(False, "adapter_not_installed")}
    hints = {f"{row['provider']}/{row['transport']}": row["hint"] for row in seen.empty}
    assert hints == {pair: f"uv pip install {dist}" for dist, pairs in PAIRS.items() for pair in pairs}
    assert "(uv pip install agentfield-local)" in " ".join(seen.empty_table.split())


def test_each_plugin_adds_exactly_its_pairs(seen: Seen) -> None:
    """What can be called is what is installed, no more and no less."""
    expected: list[str] = []
    for dist, pairs in PAIRS.items():
        expected = sorted([*expected, *pairs])
        assert seen.pairs[dist] == expected


@pytest.mark.parametrize("dist", PAIRS)
def test_what_a_plugin_declares_is_there_and_its_manifest_is_light(seen: Seen, dist: str) -> None:
    """Every factory and options model that the manifest names loads from the wheel, and the manifest imports nothing heavy."""
    found = seen.checked[dist]
    assert (found["ok"], found["problems"], found["pairs"]) == (True, [], PAIRS[dist])
    assert [warning for warning in found["warnings"] if "no peer" not in warning] == []


def test_doctor_finds_the_package_that_overwrites_ours(seen: Seen) -> None:
    """An installation in order has no problem; with the other `agentfield` the doctor names it, the files and the cure.

    Also where that package does not even import, so that nothing of ours does.
    """
    assert (seen.doctor["before"].code, _package(seen.doctor["before"])) == (
        0,
        [("ok", "`import agentfield` is agentfield-core's", "")],
    )
    cure = "pip uninstall agentfield && pip install --force-reinstall agentfield-core"
    assert seen.doctor["0.1.144"].code == 1
    assert _package(seen.doctor["0.1.144"]) == [
        (
            "problem",
            "agentfield 0.1.144 is somebody else's project and ships a package `agentfield` too, in the place of ours",
            cure,
        ),
        ("problem", "files of agentfield-core are not as they were installed: agentfield/__init__.py", cure),
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
