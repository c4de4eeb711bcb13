"""The credentials of a real call, verified in Node by @digitalbazaar/vc in full mode; needs Node, npm and a network."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.core.proof_runs import call_of_a_session, call_without_session
from support.interop import CHANGES, SECONDS, RecordedCall, changed, record_call

PROGRAM = Path(__file__).parent / "node"

Verify = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> RecordedCall:
    """Return the export of a call that was really made."""
    return record_call(tmp_path_factory.mktemp("call"))


@pytest.fixture(scope="module")
def verify(tmp_path_factory: pytest.TempPathFactory) -> Verify:
    """Install the verifier, and return a function that gives the verdict on each credential."""
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "verify.js"):
        shutil.copy(PROGRAM / name, folder / name)
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    def verdicts(credentials: list[dict[str, Any]]) -> list[dict[str, Any]]:
        done = subprocess.run(
            ["node", "verify.js"],
            cwd=folder,
            input=json.dumps(credentials),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        assert len(found) == len(credentials)
        return found

    return verdicts


def test_each_credential_of_a_call_is_accepted(call: RecordedCall, verify: Verify) -> None:
    """The credentials of session, turns and calls are valid for the other verifier."""
    assert len(call.credentials) >= 3
    assert verify(call.credentials) == [{"verified": True, "errors": []}] * len(call.credentials)


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_refused(call: RecordedCall, verify: Verify, change: str) -> None:
    """Each named change of each credential is refused by the other verifier."""
    for verdict in verify([changed(credential, change) for credential in call.credentials]):
        assert verdict["verified"] is False
        assert verdict["errors"]


def test_credentials_of_all_kinds_are_accepted(verify: Verify) -> None:
    """Also those with speeches, and those that hold a head, are valid for the other verifier."""
    runs = (call_of_a_session(), call_without_session())
    credentials = [json.loads(credential) for run in runs for credential in run.credentials]
    assert verify(credentials) == [{"verified": True, "errors": []}] * len(credentials)
