"""The tables of mutants and of manifest fields in ``docs/conformance.md``, generated from the mutants.

Run ``python -m support.mutants.page`` in ``tests`` of a checkout to write them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from agentfield.plugins import Capabilities, Manifest, PairSpec, ProviderSpec, RouteSpec, TransportSpec
from support.mutants.fields import FIELDS, TOO_LITTLE
from support.mutants.mutant import Mutant
from support.mutants.run import MUTANTS
from support.paths import ROOT

__all__ = ["PAGE", "REGENERATE", "SPECS", "page"]

PAGE = ROOT / "docs" / "conformance.md"
REGENERATE = "cd tests && python -m support.mutants.page"
SPECS = (Manifest, ProviderSpec, PairSpec, Capabilities, TransportSpec, RouteSpec)
"""The records of a manifest whose fields are proven."""
_PARTS = re.compile(r"(?s)(<!-- (mutants|fields): generated -->\n).*?(<!-- end -->\n)")


def page(text: str) -> str:
    """Return the page with both tables up to date."""
    tables = {"mutants": _mutants(), "fields": _fields()}
    return _PARTS.sub(lambda found: f"{found[1]}\n{tables[found[2]]}\n{found[3]}", text)


def _mutants() -> str:
    rows = [f"| `{each.name}` | {each.fault} | `{each.test}` | {_cell(each.says)} |" for each in MUTANTS]
    return "\n".join(("| mutant | fault | test | message, in part |", "|---|---|---|---|", *rows, ""))


def _fields() -> str:
    named = {mutant.name: mutant for mutant in MUTANTS}
    rows = [
        f"| `{spec.__name__}.{field.name}` | {_proof(named, FIELDS, spec, field.name)} | {_proof(named, TOO_LITTLE, spec, field.name)} |"
        for spec in SPECS
        for field in dataclasses.fields(spec)
    ]
    return "\n".join(
        ("| field | a value that is wrong, or too much | a value that is too little |", "|---|---|---|", *rows, "")
    )


def _proof(named: Mapping[str, Mutant], proofs: Mapping[tuple[str, str], str], spec: type, field: str) -> str:
    mutant = named.get(proofs.get((spec.__name__, field), ""))
    return "" if mutant is None else f"`{mutant.test}` (mutant `{mutant.name}`)"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
