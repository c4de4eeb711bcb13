"""Proofs for tests that have a store and no control plane."""

from __future__ import annotations

from typing import cast

from agentfield.identity import NodeKey
from agentfield_server.proof.issuing import Issuer
from agentfield_server.proof.own_log import OwnLog
from agentfield_server.store.proofs import ProofStore
from agentfield_server.store.protocol import Store
from support.waiting import until_async

KEY = NodeKey.generate()
"""The issuer's key of every store that has no control plane."""


async def settled(issuer: Issuer, run_id: str) -> None:
    """Wait until a run that has ended has its credentials, final head and anchor."""
    await until_async(lambda: issuer.settle(run_id))


async def issue_all(store: Store) -> None:
    """Issue all credentials and heads that a store waits for, and anchor them: its ended runs may be pruned then."""
    proofs = cast("ProofStore", store)

    def clock() -> float:
        return 1_800_000_000.0

    await Issuer(proofs, KEY, await OwnLog.open(proofs, KEY, clock=clock), clock=clock).catch_up()
