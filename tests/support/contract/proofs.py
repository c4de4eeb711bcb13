"""The tests that prove each value of each capability that a pair declares, and each one that it lacks."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

from agentfield.plugins import Capabilities, PairSpec, Registry
from agentfield.plugins.registry.matrix import format_value
from agentfield.realtime.config import Limits
from support.contract.installation import PAIRS, Pair
from support.contract.scenarios import Proof

__all__ = ["PROOFS", "REFUSALS", "UNDECLARED", "claims", "proofs_of", "specs"]

_SPEECH = "contract.test_capabilities_speech:test_"
_LIFE = "contract.test_capabilities_session:test_"
_BEGIN = "contract.test_beginning:test_"
_REFUSED = "contract.test_matrix:test_what_a_pair_cannot_do_is_refused"
_NO_LINE = f"{_LIFE}formats_and_keys_need_an_audio_socket"
_INTERRUPTS = f"{_SPEECH}the_caller_interrupts"
_RESTART = f"{_LIFE}a_restart_of_the_control_plane"
_LIMIT = f"{_LIFE}a_limit_ends_the_session_with_a_goodbye"
_TALK = f"{_SPEECH}push_to_talk"
_ECHO = f"{_LIFE}what_the_provider_repeats_is_compared"
_FORMAT = f"{_LIFE}a_format_is_taken_as_it_is"

PROOFS: dict[tuple[str, str], tuple[str, ...]] = {
    ("say", "exact"): (
        f"{_SPEECH}exact_words_are_heard_exactly",
        f"{_SPEECH}exact_words_that_cannot_be_spoken_fail",
    ),
    ("say", "best_effort"): (f"{_SPEECH}reworded_speech_is_recorded_as_spoken", f"{_SPEECH}the_handler_has_the_floor"),
    ("say", "not exact"): (_REFUSED,),
    ("uninterruptible", "yes"): (
        f"{_BEGIN}an_uninterruptible_greeting_is_heard_to_its_end",
        f"{_BEGIN}an_uninterruptible_say_is_heard_to_its_end",
    ),
    ("floors", "handler"): (f"{_SPEECH}the_handler_has_the_floor",),
    ("floors", "model"): (f"{_SPEECH}the_model_has_the_floor",),
    ("turn_detection", "server_vad"): (f"{_SPEECH}the_end_of_a_turn_is_found",),
    ("turn_detection", "semantic_vad"): (f"{_SPEECH}the_end_of_a_turn_is_found",),
    ("turn_detection", "manual"): (f"{_SPEECH}push_to_talk",),
    ("turn_detection", "not server_vad"): (_REFUSED,),
    ("turn_detection", "not semantic_vad"): (_REFUSED,),
    ("modalities", "audio"): (f"{_SPEECH}the_handler_has_the_floor",),
    ("modalities", "text"): (f"{_SPEECH}a_text_session_is_not_spoken",),
    ("tools", "sync"): (f"{_LIFE}tools_succeed_fail_and_are_refused", f"{_LIFE}a_slow_tool_is_answered_as_pending"),
    ("tools", "async"): (f"{_LIFE}tools_succeed_fail_and_are_refused", f"{_LIFE}a_slow_tool_is_answered_as_pending"),
    ("caller_transcript", "partial"): (f"{_SPEECH}transcripts_of_the_caller",),
    ("caller_transcript", "final"): (f"{_SPEECH}transcripts_of_the_caller",),
    ("agent_transcript", "streaming"): (f"{_SPEECH}transcripts_of_the_agent",),
    ("transcription", "model"): (f"{_SPEECH}who_transcribes_the_caller",),
    ("default_transcription", "*"): (f"{_SPEECH}who_transcribes_the_caller",),
    ("interruption", "server"): (_INTERRUPTS, f"{_LIFE}a_tool_is_cancelled_by_an_interruption"),
    ("interruption", "client"): (_INTERRUPTS, f"{_LIFE}a_tool_is_cancelled_by_an_interruption"),
    ("delays_interruption", "yes"): (f"{_SPEECH}a_short_word_does_not_interrupt",),
    ("delays_interruption", "-"): (_INTERRUPTS,),
    ("truncation", "server"): (_INTERRUPTS,),
    ("truncation", "client_ms"): (_INTERRUPTS,),
    ("truncation", "estimate"): (_INTERRUPTS,),
    ("answers_after", "turn"): (f"{_SPEECH}the_model_has_the_floor",),
    ("answers_after", "-"): (_TALK,),
    ("answers_after", "not turn"): (_TALK,),
    ("answers_after", "not commit"): (_TALK,),
    ("answers_after", "not tool_result"): (f"{_LIFE}tools_succeed_fail_and_are_refused",),
    ("begins_turns", "-"): (_TALK,),
    ("text_input", "yes"): (f"{_SPEECH}the_caller_types", f"{_SPEECH}the_caller_types_first"),
    ("resumption", "attach"): (_RESTART,),
    ("resumption", "replay"): (_RESTART, f"{_LIFE}another_session_takes_over_from_one_that_expires"),
    ("resumption", "stateless"): (_RESTART,),
    ("usage", "tokens"): (f"{_LIFE}usage_is_recorded",),
    ("usage", "cost"): (f"{_LIFE}usage_is_recorded", f"{_LIFE}an_answer_without_usage_has_an_unknown_cost"),
    ("max_duration", "3600"): (_REFUSED, f"{_LIFE}a_session_that_expires_at_the_provider_is_over"),
    ("max_duration", "-"): (f"{_LIFE}a_session_may_be_longer_than_the_providers",),
    ("client_leg", "watched"): (f"{_LIFE}a_callers_change_of_the_session_is_undone",),
    ("client_leg", "-"): (f"{_LIFE}an_offer_is_refused_where_the_audio_is_carried",),
    ("routing", "fixed"): (f"{_LIFE}a_pair_without_routes_does_not_ask_for_any",),
    ("routing", "pinned"): (f"{_LIFE}a_pinned_route_that_changes_ends_the_session",),
    ("limits", "duration"): (_LIMIT,),
    ("limits", "idle"): (_LIMIT,),
    ("limits", "turns"): (_LIMIT,),
    ("limits", "tool_calls"): (_LIMIT,),
    ("limits", "cost"): (f"{_LIFE}a_limit_of_cost_ends_the_session_with_a_goodbye",),
    ("limits", "not cost"): (_REFUSED,),
    ("formats", "-"): (_NO_LINE,),
    ("formats", "pcm16/24000"): (_FORMAT,),
    ("formats", "pcmu/8000"): (_FORMAT,),
    ("formats", "pcma/8000"): (_FORMAT,),
    ("output_formats", "-"): (f"{_SPEECH}the_handler_has_the_floor",),
    ("echoes", "model"): (_ECHO,),
    ("echoes", "voice"): (_ECHO,),
    ("echoes", "-"): (_ECHO,),
    ("echoes", "not model"): (_ECHO,),
    ("echoes", "not voice"): (_ECHO,),
    ("dtmf", "yes"): (f"{_LIFE}keys_of_a_telephone_reach_the_handler",),
    ("dtmf", "-"): (_NO_LINE,),
}
"""The tests of a value on every pair that declares it; `not …` is a value that a pair lacks."""

_ON_TURNS = {("formats", "pcm16/24000"): (f"{_LIFE}samples_are_taken_and_given_as_they_are",)}
"""Values that recorded turns prove with another test."""

UNDECLARED = frozenset({"answers_after", "echoes"})
"""Capabilities that no declaration asks for, so that nothing is refused without them."""

REFUSALS: tuple[tuple[Pair, str, dict[str, Any]], ...] = (
    *((pair, "say", {"say": "exact"}) for pair in PAIRS if pair[1] != "websocket"),
    *(
        (pair, "turn_detection", {"turn_detection": {"type": kind}})
        for pair in PAIRS
        if pair[1] == "audio_turns"
        for kind in ("server_vad", "semantic_vad")
    ),
    *((pair, "limits", {"limits": Limits(cost=1.0)}) for pair in PAIRS if pair[0] == "local"),
    *((pair, "max_duration", {"limits": Limits(duration=7200.0)}) for pair in PAIRS if pair[1] == "webrtc"),
)
"""Declarations that a pair must refuse."""


def specs() -> dict[Pair, PairSpec]:
    """Return the specifications of our pairs from the registry."""
    found = {(spec.provider, spec.transport): spec for spec, _ in Registry.discover().pairs()}
    return {pair: found[pair] for pair in PAIRS}


def claims() -> Iterator[tuple[Pair, str, str]]:
    """Yield each pair, capability and value of the matrix; for sets and `say` also the values that a pair lacks."""
    for pair, spec in specs().items():
        yield from ((pair, capability, value) for capability, value in _values(spec.capabilities))


def proofs_of(pair: Pair, capability: str, value: str) -> list[Proof]:
    """Return the tests of a value of a pair.

    Raises:
        KeyError: The value has no test.
    """
    table = _ON_TURNS if pair[1] == "audio_turns" and (capability, value) in _ON_TURNS else PROOFS
    return [_found(name) for name in table[capability, value]]


def _found(name: str) -> Proof:
    module, _, test = name.partition(":")
    found: Proof = getattr(importlib.import_module(module), test)
    return found


def _values(capabilities: Capabilities) -> Iterator[tuple[str, str]]:
    hints = get_type_hints(Capabilities)
    for field in dataclasses.fields(Capabilities):
        value = getattr(capabilities, field.name)
        if field.name == "default_transcription" and value:
            yield field.name, "*"
        elif isinstance(value, frozenset):
            yield from ((field.name, each) for each in sorted(map(str, value)) or ["-"])
            yield from ((field.name, f"not {each}") for each in sorted(_choices(hints[field.name]) - value))
        else:
            yield field.name, format_value(value)
            if field.name == "say" and value != "exact":
                yield field.name, "not exact"


def _choices(hint: Any) -> set[str]:
    """Return the literals of a type such as ``frozenset[Literal["a", "b"]]``; none of an open one."""
    inner = [choice for arg in get_args(hint) for choice in (get_args(arg) or (arg,))]
    return {choice for choice in inner if isinstance(choice, str)}
