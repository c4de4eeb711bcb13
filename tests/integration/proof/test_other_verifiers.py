"""The credentials of a real call, verified by openvc-core, a verifier that shares no code with this project, and by `af verify`."""

from __future__ import annotations

import subprocess

import pytest
from openvc import OpenvcError
from openvc.verify import default_resolver, verify_credential

from support.core.proof_runs import call_of_a_session, call_without_session
from support.interop import AF, CHANGES, SECONDS, RecordedCall, changed, record_call


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> RecordedCall:
    """Return the export of a call that was really made."""
    return record_call(tmp_path_factory.mktemp("call"))


def test_each_credential_of_a_call_is_accepted(call: RecordedCall) -> None:
    """The credentials of session, turns and calls are valid for the other verifier."""
    types = set()
    for credential in call.credentials:
        verify_credential(credential, resolver=default_resolver())
        types.add(credential["type"][1])
    assert types == {
        "AgentFieldExecutionCredential",
        "AgentFieldTurnCredential",
        "AgentFieldSessionCredential",
    }


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_refused(call: RecordedCall, change: str) -> None:
    """Each named change of each credential is refused by the other verifier."""
    for credential in call.credentials:
        with pytest.raises(OpenvcError):
            verify_credential(changed(credential, change), resolver=default_resolver())


def test_credentials_of_all_kinds_are_accepted() -> None:
    """Also those with speeches, and those that hold a head, are valid for the other verifier."""
    import json

    for run in (call_of_a_session(), call_without_session()):
        for credential in run.credentials:
            verify_credential(json.loads(credential), resolver=default_resolver())


def test_the_export_is_complete_for_its_issuer(call: RecordedCall) -> None:
    """`af verify` in a process of its own calls the export complete."""
    done = subprocess.run(
        [AF, "verify", str(call.export), "--issuer", call.issuer], capture_output=True, timeout=SECONDS, check=False
    )
    assert (done.returncode, done.stdout[:9]) == (0, b"complete:"), done
