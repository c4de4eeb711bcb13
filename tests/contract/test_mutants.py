"""No broken adapter or transport passes the conformance kit: each mutant fails in words that say what to do, and no run hangs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from agentfield.testing import AdapterSuite, TransportSuite
from agentfield.testing.conformance.suite import standard_tests
from support.mutants.fields import FIELDS, TOO_LITTLE
from support.mutants.mutant import Mutant
from support.mutants.page import PAGE, REGENERATE, SPECS, page
from support.mutants.run import MUTANTS, Outcome, run_kit
from support.packaging.third_party import install_project

pytestmark = pytest.mark.timeout(600)
PARTS = 6
AT_ONCE = 3
Runs = dict[str, "Future[dict[str, list[Outcome]]]"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Run the test that finds each mutant, many mutants in one process; yield the runs by mutant."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found: Runs = {}
        for number in range(PARTS):
            part = MUTANTS[number::PARTS]
            run = pool.submit(run_kit, part, tmp_path_factory.mktemp(f"mutants{number}"))
            found |= dict.fromkeys((mutant.name for mutant in part), run)
        yield found


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_found(runs: Runs, mutant: Mutant) -> None:
    """The standard test that covers the fault fails, with words for the author of the plugin."""
    outcomes = runs[mutant.name].result()[mutant.name]
    assert [outcome.test for outcome in outcomes] == [mutant.test], "the named standard test was run, and no other"
    assert outcomes[0].failed, f"{mutant.name} survived: {mutant.fault}"
    assert mutant.says in outcomes[0].message, outcomes[0].message[-6000:]


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(len(MUTANTS) // 4 + 1))
def test_the_whole_kit_ends_on_every_mutant(tmp_path: Path, number: int) -> None:
    """A run of the whole kit on mutants, also those that hang or refuse their cancellation, ends and finds each."""
    part = MUTANTS[4 * number : 4 * number + 4]
    outcomes = run_kit(part, tmp_path, whole=True, seconds=3500)
    for mutant in part:
        assert any(outcome.failed and mutant.says in outcome.message for outcome in outcomes[mutant.name]), mutant.name


CHECKED = {
    "factory_bare": "is an async generator: decorate it with contextlib.asynccontextmanager",
    "lies_factory": "could not be imported: AttributeError",
    "lies_title": "title is empty",
    "lies_cost_limit": "limits has 'cost', and usage is 'none'",
    "lies_media": "media is 'turns', and the transport websocket is 'bridged'",
    "lies_own": "leave out default_transcription",
    "t_routes": "it has no routes, so no caller could connect",
    "t_requires": "it requires the module no_such_module, which is not installed",
}
"""Mutants that need no call to be found, with what ``af plugins check`` says."""


def test_af_plugins_check_refuses_what_the_kit_refuses(tmp_path: Path) -> None:
    """Every gap of a manifest that the kit refuses is a problem of ``af plugins check``; the skeletons have none."""
    site = tmp_path / "site"
    site.mkdir()
    whole = (Mutant("whole", "", "", "", ()), Mutant("line", "", "", "", (), "transport"))
    checked = [*(mutant for mutant in MUTANTS if mutant.name in CHECKED), *whole]
    assert len(checked) == len(CHECKED) + 2
    path = [str(site), *(install_project(site, mutant.write(tmp_path)) for mutant in checked)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    af = str(Path(sys.executable).with_name("af"))
    for mutant in checked:
        argv = [af, "plugins", "check", f"agentfield-{mutant.name.replace('_', '-')}", "--json"]
        done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False, timeout=60)
        problems = "\n".join(json.loads(done.stdout)["problems"])
        assert CHECKED.get(mutant.name, "") in problems, (mutant.name, problems)
        assert bool(problems) == (mutant.name in CHECKED) == bool(done.returncode), (mutant.name, problems)


def test_mutants_name_a_standard_test() -> None:
    """Each mutant has a name of its own and names a standard test of its suite."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 60
    suites = {"provider": standard_tests(AdapterSuite), "transport": standard_tests(TransportSuite)}
    for mutant in MUTANTS:
        assert mutant.test.partition("[")[0] in suites[mutant.kind], mutant.name


def test_every_field_of_a_manifest_has_a_mutant() -> None:
    """Each field of each record of a manifest is proven by a mutant, which exists; many are in both directions."""
    fields = {(spec.__name__, field.name) for spec in SPECS for field in dataclasses.fields(spec)}
    assert set(FIELDS) == fields
    assert set(TOO_LITTLE) <= fields
    assert {*FIELDS.values(), *TOO_LITTLE.values()} <= {mutant.name for mutant in MUTANTS}


def test_the_page_is_up_to_date() -> None:
    """The tables of `docs/conformance.md` are those of the mutants; a failure names the command that writes them."""
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text), f"docs/conformance.md is out of date; write it with: {REGENERATE}"
