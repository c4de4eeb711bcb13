"""The pytest plugin: the option `--adapter`, and nothing that costs anything while it is not used."""

from __future__ import annotations

import pytest

__all__ = ["OPTION"]

OPTION = "--adapter"

pytest.register_assert_rewrite(
    "agentfield.testing.adapter_suite",
    "agentfield.testing.fault_tests",
    "agentfield.testing.manifest_tests",
    "agentfield.testing.speech_tests",
    "agentfield.testing.transport_suite",
    "agentfield.testing.turn_tests",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("agentfield").addoption(
        OPTION,
        metavar="PROVIDER/TRANSPORT",
        help="the pair that agentfield.testing.conformance tests; */TRANSPORT tests a transport of a plugin alone",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of the conformance module keep the suites that the pair has; the others have nothing to test in it."""
    if not any(_of_kit(item) for item in items):
        return
    from agentfield.testing.finding import suites_of

    keep = suites_of(config.getoption(OPTION))
    items[:] = [item for item in items if not _of_kit(item) or _suite(item) in keep]


def _suite(item: pytest.Item) -> str:
    suite = item.getparent(pytest.Class)
    return "" if suite is None else suite.name


def _of_kit(item: pytest.Item) -> bool:
    module = item.getparent(pytest.Module)
    return module is not None and module.obj.__name__ == "agentfield.testing.conformance"
