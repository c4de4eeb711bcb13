"""The skeletons of `af init plugin`: names that are refused, and files that agree with each other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentfield.errors import InvalidInput
from agentfield.plugins import PLUGIN_API
from agentfield.plugins.manifest.core_transports import CORE_TRANSPORTS
from agentfield_cli.skeleton import KINDS, write_plugin
from support.paths import ROOT


@pytest.mark.parametrize("name", [spec.name for spec in CORE_TRANSPORTS])
def test_a_transport_of_core_is_no_name_for_a_plugin(tmp_path: Path, name: str) -> None:
    """A plugin cannot declare a transport of agentfield-core, so no skeleton of that name is written."""
    with pytest.raises(
        InvalidInput, match=f"'{name}' is a transport of agentfield-core, which a plugin cannot replace"
    ) as error:
        write_plugin(name, "transport", tmp_path / "new")
    assert (error.value.code, error.value.hint) == ("invalid_name", f"af init plugin my_{name} --kind transport")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_the_readme_lists_every_module(tmp_path: Path, kind: str) -> None:
    """The table of files has each module of the project with something to change."""
    written = write_plugin("acme", kind, tmp_path)
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([^`]+)` \|", readme, re.MULTILINE))
    modules = {
        str(path.relative_to(tmp_path)) for path in written if path.suffix == ".py" and path.name != "__init__.py"
    }
    assert listed == modules


@pytest.mark.parametrize("kind", KINDS)
def test_a_skeleton_is_made_for_the_current_plugin_api(tmp_path: Path, kind: str) -> None:
    """Each skeleton has the number of this plugin API."""
    write_plugin("acme", kind, tmp_path)
    text = (tmp_path / "src" / "agentfield_acme" / "plugin.py").read_text(encoding="utf-8")
    assert re.findall(r"api=(\(\d+, \d+\))", text) == [str(PLUGIN_API)]


def test_docs_and_examples_have_one_number_of_the_plugin_api() -> None:
    """Pages, example plugins and first-party plugins write the number of this plugin API, all in the same way."""
    files = [
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "examples" / "plugins").glob("*/src/*/plugin.py"),
        *ROOT.glob("agentfield-*/src/*/plugin.py"),
    ]
    found = {
        (path.name, number)
        for path in files
        for number in re.findall(r"(?:api=|API = )(\(\d+, \d+\))", path.read_text())
    }
    assert {number for _, number in found} == {str(PLUGIN_API)}
    assert {"hooks.md", "plugin.py"} <= {name for name, _ in found}
