"""The simulator's positions, in groups of those that matter for the same thing, and how a provider is put into them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import Any, TypeVar

from agentfield_local.behaviour import Behaviour, Order
from agentfield_local.chat.behaviour import CHAT_BEHAVIOURS, ChatBehaviour
from agentfield_local.positions import BEHAVIOURS
from agentfield_local.server import LocalServer

__all__ = [
    "ATTACHING",
    "COSTS",
    "COUNTING",
    "CUTTING",
    "DIRECT",
    "HEARING",
    "ORDERS",
    "PHASES",
    "SOUND",
    "SPEAKING",
    "STRANGE",
    "STREAM",
    "TOOLS",
    "TURNS",
    "UNCOUNTED",
    "USUAL",
    "packed",
    "prepare",
    "single",
]

USUAL = "usual"
"""Every switch as it is by default."""

HEARING = (
    "transcript_late",
    "transcript_before_response",
    "transcript_after_response",
    "transcript_deltas_none",
    "transcript_deltas_words",
)
"""When and how the caller's words are told."""
TURNS = ("committed_after_item", "silence_as_measured", "commit_error_late")
"""What is told of the end of a turn."""
SPEAKING = ("words_after_audio", "audio_done_transcript_first", "transcript=with_audio", "transcript=after_audio")
"""Where the agent's words are told beside its voice."""
SOUND = ("generation_paced", "generation_speed=50.0", "audio_cut=padded", "audio_cut=odd")
"""How fast and in which pieces the agent's voice comes."""
ORDERS = ("item_done_output_first", "item_added_conversation_first")
"""Which of two events about one item comes first."""
STRANGE = ("duplicate_events", "unknown_events", "unknown_fields", "unknown_fields=True")
"""What is told twice, and what nobody knows."""
PHASES = ("phase_on_items", "phase_on_parts", "phase_on_events")
"""Where a reply says in which phase it is."""
TOOLS = ("arguments_slow", "arguments=whole")
"""How the arguments of a tool call come."""
CUTTING = ("truncation_unannounced", "cleared_after_done", "sideband_audio_deltas")
"""What is told of an interrupted reply."""
ATTACHING = (
    "sideband_created_brief",
    "sideband_created_never",
    "sideband_told_of_vanishing",
    "unknown_call_window",
    "location_doubled",
    "location_with_query",
)
"""How a call is found and attached to."""
COUNTING = (
    "rate_limits_before_done",
    "rate_limits_after_done",
    "rate_limits_never",
    "usage=silent_choice",
    "expires_at=False",
)
"""Where counts are told."""
COSTS = ("usage_cost=False",)
"""Whether a cost is told beside the counts."""
UNCOUNTED = ("usage=absent",)
"""Whether anything is counted."""
STREAM = (
    "comments=between",
    "comments=never",
    "newline=crlf",
    "writes=split_lines",
    "writes=split_characters",
    "content=null",
    "content=absent",
    "role=every",
)
"""How a streamed answer is written."""

DIRECT = frozenset({*ATTACHING, "truncation_unannounced", "sideband_audio_deltas"})
"""Positions that only a call between caller and provider has."""

B = TypeVar("B", Behaviour, ChatBehaviour, Order)


def single(pair: tuple[str, str], names: Iterable[str]) -> Iterator[str]:
    """Yield those of these positions that a pair's protocol and medium have."""
    known = CHAT_BEHAVIOURS if pair[1] == "audio_turns" else BEHAVIOURS
    yield from (name for name in dict.fromkeys(names) if name in known and (pair[1] == "webrtc" or name not in DIRECT))


def packed(pair: tuple[str, str], names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yield the positions that a pair has in as few groups as can be, each of positions that can be taken at once."""
    groups: list[tuple[list[str], set[str]]] = []
    for name in single(pair, names):
        moved = _moved(CHAT_BEHAVIOURS[name] if pair[1] == "audio_turns" else BEHAVIOURS[name])
        for group, switches in groups:
            if not switches & moved:
                group.append(name)
                switches.update(moved)
                break
        else:
            groups.append(([name], moved))
    yield from (tuple(group) for group, _ in groups)


def _moved(behaviour: Behaviour | ChatBehaviour | Order) -> set[str]:
    usual, moved = type(behaviour)(), set[str]()
    for field in fields(behaviour):
        value = getattr(behaviour, field.name)
        if value != getattr(usual, field.name):
            moved |= _moved(value) if isinstance(value, Order) else {field.name}
    return moved


def prepare(server: LocalServer, pair: tuple[str, str], names: Iterable[str]) -> None:
    """Put the provider of a pair into these positions at once."""
    chosen = [name for name in names if name != USUAL]
    if pair[1] == "audio_turns":
        behaviour = ChatBehaviour()
        for name in chosen:
            behaviour = _over(behaviour, CHAT_BEHAVIOURS[name])
        server.chat.behaviour = behaviour
    else:
        switches = Behaviour()
        for name in chosen:
            switches = _over(switches, BEHAVIOURS[name])
        server.behaviour = switches


def _over(below: B, above: B) -> B:
    """Return what is below, with everything that is not as usual in what is above."""
    usual = type(above)()
    changes: dict[str, Any] = {}
    for field in fields(above):
        value = getattr(above, field.name)
        if value != getattr(usual, field.name):
            changes[field.name] = _over(getattr(below, field.name), value) if isinstance(value, Order) else value
    return replace(below, **changes)
