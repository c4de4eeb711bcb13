"""The pytest plugin of the conformance kit: the option `--adapter`. It imports nothing else until the kit is collected."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentfield.testing.conformance import ADAPTER_OPTION

__all__ = ["pytest_addoption", "pytest_collect_file", "pytest_collection_modifyitems"]

_KIT = "agentfield.testing.conformance"
_TESTS = Path(__file__).parent / "conformance" / "test_conformance.py"

pytest.register_assert_rewrite(
    f"{_KIT}.adapter_suite",
    f"{_KIT}.answer_tests",
    f"{_KIT}.capability_tests",
    f"{_KIT}.fault_tests",
    f"{_KIT}.manifest_tests",
    f"{_KIT}.naming_tests",
    f"{_KIT}.promptness_tests",
    f"{_KIT}.reply_checks",
    f"{_KIT}.speech_tests",
    f"{_KIT}.transport_suite",
    f"{_KIT}.turn_tests",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("agentfield").addoption(
        ADAPTER_OPTION,
        metavar="PROVIDER/TRANSPORT",
        help=f"the pair that {_KIT} tests; */TRANSPORT tests a transport of a plugin alone",
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Collect the kit's tests also in a project whose `python_files` does not match their file."""
    if file_path != _TESTS or any(file_path.match(pattern) for pattern in parent.config.getini("python_files")):
        return None  # pytest's own hook collects it
    return pytest.Module.from_parent(parent, path=file_path)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep only the suites of the kit that apply to the pair."""
    if not any(_of_kit(item) for item in items):
        return
    from agentfield.testing.conformance.harness.subject import suites_of

    keep = suites_of(config.getoption(ADAPTER_OPTION))
    items[:] = [item for item in items if not _of_kit(item) or _suite(item) in keep]


def _suite(item: pytest.Item) -> str:
    suite = item.getparent(pytest.Class)
    return "" if suite is None else suite.name


def _of_kit(item: pytest.Item) -> bool:
    return item.path == _TESTS
