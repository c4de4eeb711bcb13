"""Results of nodes: checked before they are recorded, and verifiable afterwards.

A result and the attempt as it was invoked go in; the outcome that is recorded comes out. Read `verification`
(`ResultVerifier`: signature or proof, bodies and size), then `proofs` (`ProofVerifier` and `check_record`).
"""

from __future__ import annotations

from agentfield_server.engine.results.proofs import check_record, commit_input
from agentfield_server.engine.results.verification import MAX_OUTPUT, Outcome, ResultVerifier, encode_output

__all__ = ["MAX_OUTPUT", "Outcome", "ResultVerifier", "check_record", "commit_input", "encode_output"]
