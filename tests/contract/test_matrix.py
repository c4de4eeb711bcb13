"""The matrix: each value of each pair has tests that prove it, and what a pair cannot do is refused by name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentfield import Agent
from agentfield.errors import AgentFieldError
from agentfield_local.chat.behaviour import CHAT_BEHAVIOURS
from agentfield_local.positions import HARMLESS
from contract.cells import Cell, everywhere
from contract.contract_kit import PAIRS, Pair, declared, name_of, target
from contract.positions import single
from contract.proofs import PROOFS, REFUSALS, claims, proofs_of
from contract.test_capabilities_speech import repeat

CLAIMS = tuple(claims())


@pytest.mark.parametrize(("pair", "capability", "value"), CLAIMS, ids=name_of)
def test_every_value_has_proofs_that_run_on_its_pair(pair: Pair, capability: str, value: str) -> None:
    """A declaration that changes without a test for what it says now fails here."""
    assert all(pair in proof.pairs for proof in proofs_of(pair, capability, value))
    if value.startswith("not ") or (capability == "max_duration" and value != "-"):
        assert (pair, capability) in {(refused, what) for refused, what, _ in REFUSALS}


def test_every_proof_is_of_something_that_is_declared() -> None:
    """The table holds nothing that no pair declares any more."""
    assert set(PROOFS) == {(capability, value) for _, capability, value in CLAIMS}


@pytest.mark.parametrize("pair", PAIRS, ids=name_of)
def test_every_harmless_position_matters_for_something(pair: Pair) -> None:
    """Each way in which a provider may differ is one in which a capability of the pair is proven."""
    harmless = HARMLESS if pair[1] != "audio_turns" else {n for n, each in CHAT_BEHAVIOURS.items() if each.harmless}
    proofs = [proof for claim in CLAIMS if claim[0] == pair for proof in proofs_of(*claim)]
    matter = {name for proof in proofs if pair in proof.pairs for name in proof.matters}
    assert set(single(pair, harmless)) - matter == set()


async def refused(cell: Cell, capability: str, declaration: dict[str, Any]) -> None:
    """Declare a session that its pair cannot run, where the plugin is installed and where it is not."""
    pair = cell.pair
    app = Agent("desk")
    with pytest.raises(AgentFieldError) as bound:
        app.session("voice", provider=pair[0], transport=pair[1], **declaration)(repeat)
    async with cell.installation(declared(pair, repeat, **declaration)) as here:
        started = await here.refused(target(pair))
    able = {name_of(other) for other in PAIRS if other not in {p for p, what, _ in REFUSALS if what == capability}}
    for error in (bound.value, started):
        assert (error.code, error.data["missing"]) == ("capability_missing", [capability])
        assert name_of(pair) in str(error)
        assert able & set(error.data["alternatives"])
        assert error.hint


async def test_what_a_pair_cannot_do_is_refused(tmp_path: Path) -> None:
    """Where the plugin is installed the agent cannot be written; elsewhere the session is refused at its start, by name."""
    works = []
    for number, (pair, capability, declaration) in enumerate(REFUSALS):
        cell = Cell(tmp_path / str(number), pair)
        works.append((f"{cell} {declaration}", partial(refused, cell, capability, declaration)))
    await everywhere(works)


test_what_a_pair_cannot_do_is_refused.pairs = frozenset(pair for pair, _, _ in REFUSALS)  # type: ignore[attr-defined]
test_what_a_pair_cannot_do_is_refused.matters = ()  # type: ignore[attr-defined]
