"""Every pair that we ship, and every example of a stranger's, passes the conformance kit, run as a stranger runs it: pytest, one line, no file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from contract.contract_kit import PAIRS, name_of
from strangers import TONES, TWILIO, conformance, install_project

pytestmark = pytest.mark.timeout(300)  # a whole suite each, several at once
AT_ONCE = 3
"""WebRTC speaks in real time, so several runs take little more than one."""
STRANGERS = ("tones/twilio",)
"""A provider and a transport that know nothing of each other, together; packaging runs each by itself, from its wheel."""
Runs = dict[str, "Future[subprocess.CompletedProcess[str]]"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Begin all runs, those that take longest first."""
    folder = tmp_path_factory.mktemp("author")
    first = sorted(PAIRS, key=lambda pair: pair[1] != "webrtc")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = {name_of(pair): pool.submit(_run, name_of(pair), folder, []) for pair in first}
        site = tmp_path_factory.mktemp("site")
        path = [str(site), *(install_project(site, project) for project in (TONES, TWILIO))]
        found |= {pair: pool.submit(_run, pair, folder, path) for pair in STRANGERS}
        yield found


def _run(pair: str, folder: Path, path: list[str]) -> subprocess.CompletedProcess[str]:
    return conformance("--pyargs", "agentfield.testing.conformance", "--adapter", pair, cwd=folder, path=path)


@pytest.mark.parametrize("pair", [*map(name_of, PAIRS), *STRANGERS])
def test_a_pair_passes_the_kit(runs: Runs, pair: str) -> None:
    """All standard tests pass, and none of them is skipped or expected to fail."""
    done = runs[pair].result()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    summary = done.stdout.splitlines()[-1]
    assert "passed" in summary
    assert not any(word in summary for word in ("skipped", "xfailed", "xpassed", "warning")), done.stdout
