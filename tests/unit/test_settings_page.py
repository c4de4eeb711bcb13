"""The page of settings: it lists every variable that the code reads, and the defaults of the control plane."""

from __future__ import annotations

import re

import pytest

from agentfield_server.settings import Settings
from support.paths import ROOT

PAGE = ROOT / "docs" / "settings.md"
NOT_VARIABLES = {"AGENTFIELD_API", "AGENTFIELD_"}
"""The attribute of a plugin's module, and the prefix of the settings."""


def rows() -> dict[str, list[str]]:
    """Return the cells of the table, by variable."""
    cells = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    return {row[0].strip("`"): row[1:] for row in cells if row[0].startswith("`AGENTFIELD_")}


def test_the_table_lists_every_variable() -> None:
    """Every AGENTFIELD_ variable in the sources and every setting of the control plane is a row, and no other is."""
    sources = [path for path in ROOT.glob("agentfield-*/src/**/*.py") if ".venv" not in path.parts]
    named = {name for path in sources for name in re.findall(r"\bAGENTFIELD_[A-Z_]*", path.read_text(encoding="utf-8"))}
    settings = {f"AGENTFIELD_{name.upper()}" for name in Settings.model_fields}
    assert set(rows()) == (named - NOT_VARIABLES) | settings


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_table_has_the_defaults(name: str) -> None:
    """A default that is a number, a text or a switch is in the table, and the control plane is named as its reader."""
    readers, shown, _ = rows()[f"AGENTFIELD_{name.upper()}"]
    assert "control plane" in readers
    default = Settings.model_fields[name].get_default()
    if isinstance(default, str | int | float):
        value = f"{default:g}" if isinstance(default, float) else str(default).lower()
        assert shown == f"`{value}`"
    else:
        assert shown.startswith("`") == (name == "home")


@pytest.mark.parametrize("name", [name for name, field in Settings.model_fields.items() if field.examples])
def test_examples_in_hints_are_on_the_page_and_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example that an error shows is accepted."""
    (example,) = Settings.model_fields[name].examples or ()
    monkeypatch.setenv(f"AGENTFIELD_{name.upper()}", example)
    assert getattr(Settings(), name)
    assert example in PAGE.read_text(encoding="utf-8")
