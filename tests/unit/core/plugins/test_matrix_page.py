"""`docs/matrix.md` is generated from the manifests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from agentfield.plugins import Capabilities, Manifest, PairSpec, ProviderSpec, Registry, hookimpl
from agentfield.plugins.install import FIRST_PARTY_PAIRS
from agentfield.plugins.registry.matrix_document import MEANINGS, REGENERATE, main, matrix_document
from support.paths import ROOT

PAGE = ROOT / "docs" / "matrix.md"


def test_the_page_is_up_to_date() -> None:
    """`docs/matrix.md` is what the first-party manifests generate; the failure has the command."""
    made = matrix_document(Registry.discover())
    assert PAGE.read_text(encoding="utf-8") == made, f"docs/matrix.md is out of date; write it with: {REGENERATE}"


def test_the_table_has_all_first_party_pairs() -> None:
    """The catalogue of installable pairs and the table have the same pairs."""
    header = matrix_document(Registry.discover()).split("| capability |", 1)[1].splitlines()[0]
    assert [name.strip() for name in header.strip(" |").split("|")] == sorted(
        "/".join(pair) for pair in FIRST_PARTY_PAIRS
    )


def test_each_capability_is_explained() -> None:
    """The meanings have the order of the table's rows."""
    explained = [name for name, _ in MEANINGS]
    assert explained == ["media", *(name for name in Capabilities.__dataclass_fields__)]


def test_third_party_plugins_are_left_out() -> None:
    """Pairs and providers of other distributions are not on the page."""
    pair = PairSpec(provider="acme", transport="websocket", factory="m:f", media="bridged", capabilities=Capabilities())

    @hookimpl
    def agentfield_manifest() -> Manifest:
        return Manifest(api=(2, 0), providers=(ProviderSpec(name="acme", title="Acme"),), pairs=(pair,))

    assert "acme" not in matrix_document(Registry.of([SimpleNamespace(agentfield_manifest=agentfield_manifest)]))


def test_the_page_is_written_to_the_named_file(tmp_path: Path) -> None:
    """The command writes the file in its argument."""
    main([str(tmp_path / "matrix.md")])
    assert (tmp_path / "matrix.md").read_text(encoding="utf-8") == matrix_document(Registry.discover())
