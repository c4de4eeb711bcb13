"""The capability matrix: tests prove every value of every pair, and a missing capability is refused by name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentfield import Agent
from agentfield.errors import AgentFieldError
from agentfield_local.chat.behaviour import CHAT_VARIANTS
from agentfield_local.faults.variants import HARMLESS_VARIANTS
from contract.test_capabilities_speech import repeat
from support.contract.installation import PAIRS, Pair, declared, name_of, selected, target
from support.contract.proofs import PROOFS, REFUSALS, UNDECLARED, claims, proofs_of
from support.contract.scenarios import Case, on_pairs, run_concurrently
from support.contract.variants import single

CLAIMS = tuple(claims())


@pytest.mark.parametrize(("pair", "capability", "value"), CLAIMS, ids=name_of)
def test_every_value_has_proofs_that_run_on_its_pair(pair: Pair, capability: str, value: str) -> None:
    """A declared value without a test fails here."""
    assert all(pair in proof.pairs for proof in proofs_of(pair, capability, value))
    if (value.startswith("not ") and capability not in UNDECLARED) or (capability == "max_duration" and value != "-"):
        assert (pair, capability) in {(refused, what) for refused, what, _ in REFUSALS}


def test_every_proof_has_a_declared_value() -> None:
    """The table of proofs has only values that a pair declares."""
    assert set(PROOFS) == {(capability, value) for _, capability, value in CLAIMS}


@pytest.mark.parametrize("pair", PAIRS, ids=name_of)
def test_every_harmless_variant_is_covered_by_a_proof(pair: Pair) -> None:
    """At least one proof of the pair runs with each harmless variant of its provider."""
    harmless = (
        HARMLESS_VARIANTS if pair[1] != "audio_turns" else {n for n, each in CHAT_VARIANTS.items() if each.harmless}
    )
    proofs = [proof for claim in CLAIMS if claim[0] == pair for proof in proofs_of(*claim)]
    matter = {name for proof in proofs if pair in proof.pairs for name in proof.matters}
    assert set(single(pair, harmless)) - matter == set()


async def refused(case: Case, capability: str, declaration: dict[str, Any]) -> None:
    """Declare a session that its pair cannot run, with the plugin installed and without."""
    pair = case.pair
    app = Agent("shop")
    with pytest.raises(AgentFieldError) as bound:
        app.session("voice", provider=pair[0], transport=pair[1], **declaration)(repeat)
    async with case.installation(declared(pair, repeat, **declaration)) as here:
        started = await here.refused(target(pair))
    able = {name_of(other) for other in PAIRS if other not in {p for p, what, _ in REFUSALS if what == capability}}
    for error in (bound.value, started):
        assert (error.code, error.data["missing"]) == ("capability_missing", [capability])
        assert name_of(pair) in str(error)
        assert able & set(error.data["alternatives"])
        assert error.hint


@on_pairs(*(pair for pair, _, _ in REFUSALS))
async def test_what_a_pair_cannot_do_is_refused(tmp_path: Path) -> None:
    """With the plugin installed the agent cannot be declared; without it the session is refused at its start, by name."""
    works = []
    for number, (pair, capability, declaration) in enumerate(REFUSALS):
        if selected(pair):
            case = Case(tmp_path / str(number), pair)
            works.append((f"{case} {declaration}", partial(refused, case, capability, declaration)))
    await run_concurrently(works)
