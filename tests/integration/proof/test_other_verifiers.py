"""The credentials of a real call, verified by openvc-core, a verifier that shares no code with this project, and by `af verify`."""

from __future__ import annotations

import json
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
    for run in (call_of_a_session(), call_without_session()):
        for credential in run.credentials:
            verify_credential(json.loads(credential), resolver=default_resolver())


def test_the_export_is_complete_for_its_issuer(call: RecordedCall) -> None:
    """`af verify` in a process of its own calls the export complete, with the node's own DID and the head that the node holds."""
    pins = ("--issuer", call.issuer, "--node", call.node, "--head", str(call.head))
    done = subprocess.run(
        [AF, "verify", str(call.export), *pins, "--json"], capture_output=True, timeout=SECONDS, check=False
    )
    report = json.loads(done.stdout)
    assert (done.returncode, report["verdict"], report["problem"]) == (0, "complete", None)
    assert report["node_proofs"] == {call.node: sum("node" in each["credentialSubject"] for each in call.credentials)}
    assert [held["state"] for held in report["held"]] == ["consistent"]
    assert report["anchored"] is not None
    assert report["not_checked"] == []
