"""The pytest plugin of the conformance kit: the option `--adapter`. It imports nothing else until the kit is collected."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from agentfield.testing.conformance import ADAPTER_OPTION

__all__ = ["pytest_addoption", "pytest_collect_file", "pytest_collection_modifyitems", "pytest_runtest_makereport"]

_KIT = "agentfield.testing.conformance"
_CAUSES = pytest.StashKey[dict[str, str]]()
"""The first test that failed for each reason, by suite and reason."""
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report a failure for the same reason as an earlier one of the suite in one line; ``--full-trace`` shows all of them."""
    report = yield
    suite = item.getparent(pytest.Class)
    if suite is None or not report.failed or call.excinfo is None or item.config.option.fulltrace:
        return report
    test = getattr(suite.obj, item.name.partition("[")[0], None)
    if not getattr(test, "__module__", "").startswith(_KIT):
        return report
    cause = f"{suite.nodeid} {_first_line(call.excinfo.value)}"
    seen = item.config.stash.setdefault(_CAUSES, {})
    if (first := seen.setdefault(cause, item.name)) != item.name:
        report.longrepr = f"because of the same as in {first}: {_first_line(call.excinfo.value)}"
    return report


def _first_line(error: BaseException) -> str:
    """Return the reason of a failure without what differs between two tests: the events, and the repetition by pytest."""
    line = next(iter(str(error).splitlines()), "").partition("; received so far")[0].removeprefix("AssertionError: ")
    return f"{type(error).__name__}: {line}" if not isinstance(error, AssertionError) else line


def _suite(item: pytest.Item) -> str:
    suite = item.getparent(pytest.Class)
    return "" if suite is None else suite.name


def _of_kit(item: pytest.Item) -> bool:
    return item.path == _TESTS
