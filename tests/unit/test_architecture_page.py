"""The pictures of docs/architecture.md show the imports of the code, and its tables name files and tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
DISTRIBUTIONS = (
    "agentfield",
    "agentfield_server",
    "agentfield_openai",
    "agentfield_openrouter",
    "agentfield_local",
    "agentfield_cli",
)
SESSIONS = "agentfield_server.sessions"


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Build the graph of all imports, lazy and TYPE_CHECKING ones included."""
    return grimp.build_graph(*DISTRIBUTIONS, exclude_type_checking_imports=False, cache_dir=None)


def _section(title: str) -> str:
    """Return the text of a section of the page."""
    return PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def _arrows(title: str) -> set[tuple[str, str]]:
    """Return the arrows of the Mermaid picture of a section, with the names of packages for the labels."""
    text = _section(title).split("```mermaid", 1)[1].split("```", 1)[0]
    names = dict(re.findall(r"^\s*(\w+)\[\"?([\w.]+)", text, re.MULTILINE))
    return {(names[a], names[b]) for a, b in re.findall(r"^\s*(\w+) --> (\w+)$", text, re.MULTILINE)}


def _imports(graph: grimp.ImportGraph, importer: str, imported: str) -> bool:
    """Tell whether a package imports another one; the face of the sessions package is its service."""
    if graph.direct_import_exists(importer=importer, imported=imported, as_packages=True):
        return True
    if imported != f"{SESSIONS}.service" or importer.startswith(SESSIONS):
        return False
    return any(
        graph.direct_import_exists(importer=module, imported=SESSIONS)
        for module in {importer, *graph.find_descendants(importer)}
    )


def _reduced(edges: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Return the transitive reduction of a graph without cycles: the arrows that no longer path replaces."""

    def reachable(start: str, without: str) -> set[str]:
        seen: set[str] = set()
        todo = [name for name in edges[start] if name != without]
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo.extend(edges[name])
        return seen

    return {(a, b) for a, targets in edges.items() for b in targets if b not in reachable(a, b)}


def test_the_picture_of_the_distributions_is_their_imports(graph: grimp.ImportGraph) -> None:
    """Each arrow is an import between two distributions, and each such import is an arrow."""
    real = {
        (a, b)
        for a in DISTRIBUTIONS
        for b in DISTRIBUTIONS
        if a != b and graph.direct_import_exists(importer=a, imported=b, as_packages=True)
    }
    assert _arrows("Distributions") == real


def test_the_picture_of_a_call_is_the_imports_of_its_packages(graph: grimp.ImportGraph) -> None:
    """The arrows are the imports among the packages shown, less those that a longer path implies."""
    arrows = _arrows("The path of a call")
    shown = {name for arrow in arrows for name in arrow}
    edges = {a: {b for b in shown if a != b and _imports(graph, a, b)} for a in shown}
    assert arrows == _reduced(edges)


def test_the_tables_name_places_that_exist() -> None:
    """Each path in backticks of the tables is a file or folder, and each test is a function of its module."""
    for title in ("Where to change what", "Who owns what"):
        for line in _section(title).splitlines():
            if not line.startswith("|"):
                continue
            for place in re.findall(
                r"`((?:agentfield-|tests/|docs/|examples/|benchmarks/|changelog/|noxfile)[^`:]*)(?:::\w+)?`", line
            ):
                assert (ROOT / place).exists(), place
            for path, name in re.findall(r"`(tests/[^`:]+)::(\w+)`", line):
                tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
                functions = {
                    node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                }
                assert name in functions, f"{path} has no test {name}"
