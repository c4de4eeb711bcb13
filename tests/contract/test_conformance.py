"""Every pair of ours and of the example plugins passes the conformance kit, run as its documentation says: one command, no file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from support.contract.installation import PAIRS, name_of
from support.packaging.third_party import GEMINI, TELNYX, TONES, TWILIO, conformance, install_project

pytestmark = pytest.mark.timeout(600)  # a whole suite each, several at once
AT_ONCE = 3
"""Runs at the same time; over WebRTC they mostly wait for sound to pass."""
EXAMPLES = ("*/telnyx", "tones/telnyx", "tones/twilio", "gemini/twilio")
"""Providers and transports of independent plugins; tests/packaging runs each by itself, from its wheel."""
Runs = dict[str, "Future[subprocess.CompletedProcess[str]]"]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Start the runs of all collected pairs, those over WebRTC first: they take longest."""
    collected = [item.callspec.params["pair"] for item in request.session.items if item.path == request.path]  # type: ignore[attr-defined]
    folder, site = tmp_path_factory.mktemp("author"), tmp_path_factory.mktemp("site")
    path = [str(site), *(install_project(site, project) for project in (GEMINI, TELNYX, TONES, TWILIO))]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            pair: pool.submit(_run, pair, folder, path if pair in EXAMPLES else [])
            for pair in sorted(collected, key=lambda pair: not pair.endswith("/webrtc"))
        }


def _run(pair: str, folder: Path, path: list[str]) -> subprocess.CompletedProcess[str]:
    return conformance("--pyargs", "agentfield.testing.conformance", "--adapter", pair, cwd=folder, path=path)


@pytest.mark.parametrize("pair", [*map(name_of, PAIRS), *EXAMPLES])
def test_a_pair_passes_the_kit(runs: Runs, pair: str) -> None:
    """All standard tests pass, and none of them is skipped or expected to fail."""
    done = runs[pair].result()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    summary = done.stdout.splitlines()[-1]
    assert "passed" in summary
    assert not any(word in summary for word in ("skipped", "xfailed", "xpassed", "warning")), done.stdout
