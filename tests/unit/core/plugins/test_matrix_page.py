"""The page of the matrix is what the plugins declare."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from agentfield.plugins import Capabilities, Manifest, PairSpec, ProviderSpec, Registry, hookimpl
from agentfield.plugins.install import FIRST_PARTY_PAIRS
from agentfield.plugins.registry.matrix_document import MEANINGS, REGENERATE, main, matrix_document
from support.paths import ROOT

PAGE = ROOT / "docs" / "matrix.md"


def test_the_page_is_what_the_installed_manifests_declare() -> None:
    """`docs/matrix.md` is the page that our own plugins make; a difference says how to write it anew."""
    made = matrix_document(Registry.discover())
    assert PAGE.read_text(encoding="utf-8") == made, f"docs/matrix.md is out of date; write it with: {REGENERATE}"


def test_every_pair_that_we_ship_is_in_the_table() -> None:
    """The catalogue of our pairs, which tells people what to install, and the table name the same pairs."""
    header = matrix_document(Registry.discover()).split("| capability |", 1)[1].splitlines()[0]
    assert [name.strip() for name in header.strip(" |").split("|")] == sorted(
        "/".join(pair) for pair in FIRST_PARTY_PAIRS
    )


def test_every_capability_is_explained() -> None:
    """Each line of the table has its meaning below it, in the same order."""
    explained = [name for name, _ in MEANINGS]
    assert explained == ["media", *(name for name in Capabilities.__dataclass_fields__)]


def test_plugins_of_others_are_left_out() -> None:
    """A stranger's pair and provider are in nobody's page."""
    pair = PairSpec(provider="acme", transport="websocket", factory="m:f", media="bridged", capabilities=Capabilities())

    @hookimpl
    def agentfield_manifest() -> Manifest:
        return Manifest(api=(2, 0), providers=(ProviderSpec(name="acme", title="Acme"),), pairs=(pair,))

    assert "acme" not in matrix_document(Registry.of([SimpleNamespace(agentfield_manifest=agentfield_manifest)]))


def test_the_page_is_written_where_it_is_wanted(tmp_path: Path) -> None:
    """The generator writes the file that it is given."""
    main([str(tmp_path / "matrix.md")])
    assert (tmp_path / "matrix.md").read_text(encoding="utf-8") == matrix_document(Registry.discover())
