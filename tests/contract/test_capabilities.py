"""The matrix: each value of each pair has a test that proves it, and what a pair cannot do is refused by name."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from agentfield import Agent
from agentfield.errors import AgentFieldError
from agentfield.plugins import Capabilities, PairSpec, Registry
from agentfield.plugins.matrix import cell
from agentfield.realtime.config import Limits
from agentfield.wire.rest import StartRequest
from contract.contract_kit import PAIRS, Pair, declared, installation, name_of, target
from contract.test_capabilities_speech import model, repeat

SPEECH = "contract.test_capabilities_speech"
LIFE = "contract.test_capabilities_life"
HERE = "contract.test_capabilities"
REFUSED = f"{HERE}:test_what_a_pair_cannot_do_is_refused"
NO_LINE = f"{LIFE}:test_frames_have_no_way_where_audio_goes_another_one"
WEB, TURNS = frozenset({"webrtc"}), frozenset({"audio_turns"})
LIMIT = f"{LIFE}:test_a_limit_ends_the_session_with_a_goodbye"

PROOFS: dict[tuple[str, str], str] = {
    ("say", "exact"): f"{SPEECH}:test_exact_words_are_heard_exactly",
    ("say", "best_effort"): f"{SPEECH}:test_other_words_than_asked_are_told",
    ("say", "not exact"): REFUSED,
    ("floors", "handler"): f"{SPEECH}:test_the_handler_has_the_floor",
    ("floors", "model"): f"{SPEECH}:test_the_model_has_the_floor",
    ("turn_detection", "server_vad"): f"{SPEECH}:test_the_end_of_a_turn_is_found",
    ("turn_detection", "semantic_vad"): f"{SPEECH}:test_the_end_of_a_turn_is_found",
    ("turn_detection", "manual"): f"{SPEECH}:test_push_to_talk",
    ("turn_detection", "not server_vad"): REFUSED,
    ("turn_detection", "not semantic_vad"): REFUSED,
    ("modalities", "audio"): f"{SPEECH}:test_the_handler_has_the_floor",
    ("modalities", "text"): f"{SPEECH}:test_an_agent_of_text_is_not_heard",
    ("tools", "sync"): f"{LIFE}:test_tools_work_fail_and_are_refused",
    ("tools", "async"): f"{LIFE}:test_a_slow_tool_is_not_waited_for_in_silence",
    ("caller_transcript", "partial"): f"{SPEECH}:test_words_of_the_caller",
    ("caller_transcript", "final"): f"{SPEECH}:test_words_of_the_caller",
    ("agent_transcript", "streaming"): f"{SPEECH}:test_words_of_the_agent",
    ("default_transcription", "*"): f"{SPEECH}:test_who_transcribes_the_caller",
    ("interruption", "server"): f"{SPEECH}:test_the_caller_interrupts",
    ("interruption", "client"): f"{SPEECH}:test_the_caller_interrupts",
    ("truncation", "server"): f"{SPEECH}:test_the_caller_interrupts",
    ("truncation", "client_ms"): f"{SPEECH}:test_the_caller_interrupts",
    ("truncation", "estimate"): f"{SPEECH}:test_the_caller_interrupts",
    ("text_input", "yes"): f"{SPEECH}:test_the_caller_types",
    ("resumption", "attach"): f"{LIFE}:test_a_restart_of_the_control_plane",
    ("resumption", "replay"): f"{LIFE}:test_a_restart_of_the_control_plane",
    ("resumption", "stateless"): f"{LIFE}:test_a_restart_of_the_control_plane",
    ("usage", "tokens"): f"{LIFE}:test_what_was_used_is_told",
    ("usage", "cost"): f"{LIFE}:test_what_was_used_is_told",
    ("max_duration", "3600"): REFUSED,
    ("max_duration", "-"): f"{LIFE}:test_a_session_may_be_longer_than_the_providers",
    ("routing", "fixed"): f"{HERE}:test_a_pair_without_routes_does_not_ask_for_any",
    ("routing", "pinned"): f"{HERE}:test_a_pinned_route_that_changes_ends_the_session",
    ("limits", "duration"): LIMIT,
    ("limits", "idle"): LIMIT,
    ("limits", "turns"): LIMIT,
    ("limits", "tool_calls"): LIMIT,
    ("limits", "cost"): f"{LIFE}:test_a_limit_of_cost_ends_the_session_with_a_goodbye",
    ("limits", "not cost"): REFUSED,
    ("formats", "-"): NO_LINE,
    ("formats", "pcm16/24000"): f"{LIFE}:test_a_format_is_taken_as_it_is",
    ("formats", "pcmu/8000"): f"{LIFE}:test_a_format_is_taken_as_it_is",
    ("formats", "pcma/8000"): f"{LIFE}:test_a_format_is_taken_as_it_is",
    ("dtmf", "yes"): f"{LIFE}:test_keys_of_a_telephone_reach_the_handler",
    ("dtmf", "-"): NO_LINE,
}
"""Which test proves a value, wherever a pair declares it; `not …` is a value that a pair does not have."""

ON_TURNS = {("formats", "pcm16/24000"): f"{LIFE}:test_samples_are_taken_and_given_as_they_are"}
"""Where recorded turns prove it another way."""

REFUSALS: tuple[tuple[Pair, str, dict[str, Any]], ...] = (
    *[(pair, "say", {"say": "exact"}) for pair in PAIRS if pair[1] != "websocket"],
    *[
        (pair, "turn_detection", {"turn_detection": {"type": kind}})
        for pair in PAIRS
        if pair[1] == "audio_turns"
        for kind in ("server_vad", "semantic_vad")
    ],
    *[(pair, "limits", {"limits": Limits(cost=1.0)}) for pair in PAIRS if pair[0] == "local"],
    *[(pair, "max_duration", {"limits": Limits(duration=7200.0)}) for pair in PAIRS if pair[1] == "webrtc"],
)
"""What a declaration must not ask of a pair."""


def specs() -> dict[Pair, PairSpec]:
    """Return the pairs that we ship."""
    found = {(spec.provider, spec.transport): spec for spec, _ in Registry.discover().pairs()}
    return {pair: found[pair] for pair in PAIRS}


def values(capabilities: Capabilities) -> Iterator[tuple[str, str]]:
    """Yield each value of a pair's capabilities: those it has, and of sets and of `say` also those it has not."""
    hints = get_type_hints(Capabilities)
    for field in dataclasses.fields(Capabilities):
        value = getattr(capabilities, field.name)
        possible = {choice for hint in get_args(hints[field.name]) for choice in get_args(hint)}
        if isinstance(value, frozenset) and value:
            yield from ((field.name, str(each)) for each in value)
        elif field.name == "default_transcription" and value:
            yield field.name, "*"
        else:
            yield field.name, cell(sorted(value) if isinstance(value, frozenset) else value)
        if isinstance(value, frozenset):
            yield from ((field.name, f"not {each}") for each in _choices(hints[field.name]) - value)
        if field.name == "say" and value != "exact":
            assert "exact" in possible or "exact" in _choices(hints[field.name])
            yield field.name, "not exact"


def _choices(hint: Any) -> set[str]:
    """Return the literals of a type such as ``frozenset[Literal["a", "b"]]``; none of an open one."""
    inner = [choice for arg in get_args(hint) for choice in (get_args(arg) or (arg,))]
    return {choice for choice in inner if isinstance(choice, str)}


@pytest.mark.parametrize("pair", PAIRS, ids=name_of)
def test_every_value_has_a_proof_that_runs_on_its_pair(pair: Pair) -> None:
    """A declaration that changes without a test for what it says now fails here."""
    for capability, value in values(specs()[pair].capabilities):
        table = ON_TURNS if pair[1] == "audio_turns" and (capability, value) in ON_TURNS else PROOFS
        assert (capability, value) in table, f"nothing proves that {'/'.join(pair)} has {capability}: {value}"
        module, _, name = table[capability, value].partition(":")
        proof = getattr(importlib.import_module(module), name)
        assert inspect.iscoroutinefunction(proof)
        assert pair in pairs_of(proof), f"{name} does not run on {'/'.join(pair)}"
        if table[capability, value] == REFUSED:
            assert (pair, capability) in {(refused, what) for refused, what, _ in REFUSALS}


def test_every_proof_is_of_something_that_is_declared() -> None:
    """The table holds nothing that no pair declares any more."""
    known = {value for spec in specs().values() for value in values(spec.capabilities)}
    assert set(PROOFS) | set(ON_TURNS) == known


def pairs_of(proof: Any) -> set[Pair]:
    """Return the pairs that a test is run on."""
    found: set[Pair] = set()
    for mark in proof.pytestmark:
        names = mark.args[0] if mark.name == "parametrize" else ()
        names = [names] if isinstance(names, str) else names
        if "pair" in names:
            at = names.index("pair")
            found |= {case[at] if len(names) > 1 else case for case in mark.args[1]}
    return found


def ids(value: object) -> str:
    """Return how a refused declaration is called."""
    return str(next(iter(value.values()))).replace(" ", "") if isinstance(value, dict) else name_of(value)


@pytest.mark.parametrize(("pair", "capability", "declaration"), REFUSALS, ids=ids)
async def test_what_a_pair_cannot_do_is_refused(
    tmp_path: Path, pair: Pair, capability: str, declaration: dict[str, Any]
) -> None:
    """Where the plugin is installed the agent cannot be written; elsewhere the session is refused at its start, by name."""
    app = Agent("desk")
    with pytest.raises(AgentFieldError) as bound:
        app.session("voice", provider=pair[0], transport=pair[1], **declaration)(repeat)
    async with installation(tmp_path, declared(pair, repeat, **declaration)) as here:
        with pytest.raises(AgentFieldError) as started:
            await here.client.start_session(StartRequest(target=target(pair)))
        assert await here.client.list_sessions() == []
    for error in (bound.value, started.value):
        assert error.code == "capability_missing"
        assert "/".join(pair) in str(error)
        assert capability in str(error)
        able = {"/".join(other) for other in PAIRS if other not in {p for p, what, _ in REFUSALS if what == capability}}
        assert any(other in f"{error} {error.hint}" for other in able)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair[0] != "openrouter"], ids=name_of)
async def test_a_pair_without_routes_does_not_ask_for_any(tmp_path: Path, pair: Pair) -> None:
    """A provider that is one server is taken as it is; the model that it names must still be the one that was asked for."""
    async with installation(tmp_path, declared(pair, repeat)) as here, here.talk(target(pair)) as talk:
        assert await talk.connect()
        await talk.speak()
        await talk.recorded("speech.ended")
        view = await here.client.get_session(talk.id)
        assert view.config["model"] == view.model
        assert "mismatch" not in talk.outcome().warned


@pytest.mark.parametrize("pair", [("openrouter", "audio_turns")], ids=name_of)
async def test_a_pinned_route_that_changes_ends_the_session(tmp_path: Path, pair: Pair) -> None:
    """An answer by another upstream than the one before is not passed off as the same."""
    from agentfield_local.chat.behaviour import ChatBehaviour

    async with installation(tmp_path, declared(pair, model)) as here, here.talk(target(pair)) as talk:
        assert await talk.connect()
        await talk.speak()
        assert (await talk.recorded("speech.ended"))["failed"] is None
        here.server.chat.behaviour = ChatBehaviour(switches="provider", switches_at="mid_answer")
        await talk.speak()
        assert (await talk.ended())["reason"] == "provider_error"
        assert talk.of("speech.ended")[-1]["failed"] == "rerouted"
