"""docs/proof-formats.md: its examples are real documents, made with the keys of the paper control plane."""

from __future__ import annotations

import json
import re

from agentfield.identity import canonical
from agentfield.proof import verify_credential, verify_head
from support.core.proof_runs import PaperControlPlane, call_of_a_session
from support.paths import ROOT


def test_the_examples_are_real_documents() -> None:
    """Each JSON example of the page is a document of one call, and credential and head verify by themselves."""
    page = (ROOT / "docs" / "proof-formats.md").read_text()
    credential, head, anchors, rotation, header, bodies, end = re.findall(r"```json\n(.*?)\n```", page, re.DOTALL)
    run = call_of_a_session(tools=1)
    lines = [json.loads(line) for line in run.export()]
    plane = PaperControlPlane(entries=[])
    plane.append(run.plane.entries[0])
    plane.rotate("second")
    assert json.loads(credential) == json.loads(run.credentials[0])
    assert json.loads(head) == run.heads[0]
    assert [json.loads(anchors), json.loads(rotation)] == plane.entries
    assert json.loads(header) == lines[0]
    assert all(json.loads(line) in lines for line in bodies.splitlines())
    assert json.loads(end) == lines[-1]
    assert verify_credential(canonical(json.loads(credential)), issuer=run.plane.head()["issuer"]).verdict == "valid"
    assert verify_head(canonical(json.loads(head)), issuer=run.plane.head()["issuer"]).verdict == "valid"
