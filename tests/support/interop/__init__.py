"""Credentials for verifiers of others: those of a real call, and changes that each verifier must refuse."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import base58

from agentfield.identity import NodeKey, canonical
from support.audio import tone_samples
from support.core.proof_runs import fixed_key
from support.processes.installation import CANARY, EXAMPLES, run_installation, speech_server

AF = str(Path(sys.executable).with_name("af"))
SECONDS = 90


@dataclass(frozen=True)
class RecordedCall:
    """The export of a real call, and what its readers know from elsewhere."""

    export: Path
    issuer: str
    node: str
    """DID of the node, from its own key."""
    head: Path
    """The last head that the node holds."""

    @property
    def credentials(self) -> list[dict[str, Any]]:
        """All credentials of the export."""
        lines = map(json.loads, self.export.read_bytes().splitlines())
        return [line["credential"] for line in lines if "credential" in line]


def record_call(folder: Path) -> RecordedCall:
    """Make one call of the unchanged example program, and export its session."""
    from agentfield_cli.call.recordings import write_recording

    question, export = folder / "question.wav", folder / "call.jsonl"
    write_recording(question, tone_samples())
    with speech_server(folder / "speech", "--engines", "synthetic") as speech:
        env = {"OPENAI_API_KEY": CANARY, "OPENAI_BASE_URL": f"{speech.url}/v1"}
        with run_installation(folder / "it", EXAMPLES / "voice_support" / "agent.py", env=env) as it:

            def af(*command: str) -> Any:
                home = {**os.environ, "AGENTFIELD_HOME": str(it.home)}
                done = subprocess.run(
                    [AF, *command, "--json"], env=home, capture_output=True, timeout=SECONDS, check=False
                )
                assert done.returncode == 0, done.stdout + done.stderr
                return json.loads(done.stdout)

            told = af("session", "call", "voice-support.voice", "--audio", str(question))
            af("session", "export", told["session_id"], "-o", str(export))
            issuer, node = (
                NodeKey.load(it.home / name).did for name in ("control_plane.pem", "nodes/voice-support.pem")
            )
            return RecordedCall(export, issuer, node, it.home / "heads" / f"{told['session_id']}.json")


def _another_hash(text: str) -> str:
    return ("B" if text[0] != "B" else "C") + text[1:]


def _signed_by_another(document: dict[str, Any]) -> None:
    """Sign a credential of ours with another key, correctly in itself; the issuer stays."""
    other = fixed_key("another control plane")
    proof = document.pop("proof")
    del proof["proofValue"]
    proof["verificationMethod"] = f"{other.did}#{other.did.removeprefix('did:key:')}"
    message = hashlib.sha256(canonical(proof)).digest() + hashlib.sha256(canonical(document)).digest()
    document["proof"] = {**proof, "proofValue": "z" + base58.b58encode(other.sign(message)).decode()}


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "body commitment": lambda document: document["credentialSubject"].update(
        input=_another_hash(document["credentialSubject"]["input"])
    ),
    "number": lambda document: document["credentialSubject"].update(number=99),
    "created": lambda document: document["proof"].update(created="2020-01-01T00:00:00Z"),
    "signature": lambda document: document["proof"].update(
        proofValue=document["proof"]["proofValue"][:-1] + ("2" if document["proof"]["proofValue"][-1] != "2" else "3")
    ),
    "issuer": lambda document: document.update(issuer=fixed_key("another control plane").did),
    "signed by another key": _signed_by_another,
}
"""Changes of a credential by name; the last two are found by who binds the issuer to the key."""


def changed(credential: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a credential with a change."""
    document = copy.deepcopy(credential)
    CHANGES[name](document)
    assert document != credential
    return document
