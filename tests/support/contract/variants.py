"""The behaviour variants of the simulated provider, in groups by subject, and how a provider gets them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import Any, TypeVar

from agentfield_local.chat.behaviour import CHAT_VARIANTS, ChatBehaviour
from agentfield_local.faults.behaviour import Behaviour, EventOrder
from agentfield_local.faults.variants import BEHAVIOUR_VARIANTS
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
"""The default behaviour."""

HEARING = (
    "transcript_late",
    "transcript_before_response",
    "transcript_after_response",
    "transcript_deltas_none",
    "transcript_deltas_words",
)
"""When and how transcripts of the caller arrive."""
TURNS = ("committed_after_item", "silence_as_measured", "commit_error_late")
"""How the end of a turn is reported."""
SPEAKING = ("words_after_audio", "audio_done_transcript_first", "transcript=with_audio", "transcript=after_audio")
"""When transcripts of the agent arrive relative to its audio."""
SOUND = ("generation_paced", "generation_speed=50.0", "audio_split=padded", "audio_split=odd")
"""How fast and in which pieces the agent's audio arrives."""
ORDERS = ("item_done_output_first", "item_added_conversation_first")
"""Which of two events about one item comes first."""
STRANGE = (
    "duplicate_events",
    "unknown_events",
    "unknown_fields",
    "unknown_fields=True",
    "metadata_not_echoed",
    "event_names_beta",
    "session_created_twice",
    "session_created_late",
)
"""Repeated, unknown, incomplete and late messages, as look-alike services send them."""
PHASES = ("phase_on_items", "phase_on_parts", "phase_on_events")
"""Where a reply states its phase."""
TOOLS = ("arguments_slow", "arguments=whole")
"""How the arguments of a tool call arrive."""
CUTTING = ("truncation_unannounced", "cleared_after_done", "sideband_audio_deltas")
"""How an interrupted reply is reported."""
ATTACHING = (
    "sideband_created_brief",
    "sideband_created_never",
    "sideband_told_of_vanishing",
    "unknown_call_window",
    "location_doubled",
    "location_with_query",
)
"""How a call is located and attached to."""
COUNTING = (
    "rate_limits_before_done",
    "rate_limits_after_done",
    "rate_limits_never",
    "usage=silent_choice",
    "expires_at=False",
)
"""Where usage is reported."""
COSTS = ("usage_cost=False",)
"""Whether a cost is reported with the usage."""
UNCOUNTED = ("usage=absent",)
"""Whether usage is reported."""
STREAM = (
    "comments=between",
    "comments=never",
    "newline=crlf",
    "writes=split_lines",
    "writes=split_characters",
    "content=null",
    "content=absent",
    "content=words",
    "role=every",
)
"""How a streamed answer is written."""

DIRECT = frozenset({*ATTACHING, "truncation_unannounced", "sideband_audio_deltas"})
"""Variants that only a direct call has."""

B = TypeVar("B", Behaviour, ChatBehaviour, EventOrder)


def single(pair: tuple[str, str], names: Iterable[str]) -> Iterator[str]:
    """Yield those of these variants that a pair's protocol and medium have."""
    known = CHAT_VARIANTS if pair[1] == "audio_turns" else BEHAVIOUR_VARIANTS
    yield from (name for name in dict.fromkeys(names) if name in known and (pair[1] == "webrtc" or name not in DIRECT))


def packed(pair: tuple[str, str], names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yield the variants of a pair in as few groups as possible; the variants of a group do not exclude each other."""
    groups: list[tuple[list[str], set[str]]] = []
    for name in single(pair, names):
        moved = _moved(CHAT_VARIANTS[name] if pair[1] == "audio_turns" else BEHAVIOUR_VARIANTS[name])
        for group, switches in groups:
            if not switches & moved:
                group.append(name)
                switches.update(moved)
                break
        else:
            groups.append(([name], moved))
    yield from (tuple(group) for group, _ in groups)


def _moved(behaviour: Behaviour | ChatBehaviour | EventOrder) -> set[str]:
    usual, moved = type(behaviour)(), set[str]()
    for field in fields(behaviour):
        value = getattr(behaviour, field.name)
        if value != getattr(usual, field.name):
            moved |= _moved(value) if isinstance(value, EventOrder) else {field.name}
    return moved


def prepare(server: LocalServer, pair: tuple[str, str], names: Iterable[str]) -> None:
    """Give the provider of a pair these variants at once."""
    chosen = [name for name in names if name != USUAL]
    if pair[1] == "audio_turns":
        behaviour = ChatBehaviour()
        for name in chosen:
            behaviour = _over(behaviour, CHAT_VARIANTS[name])
        server.chat.behaviour = behaviour
    else:
        switches = Behaviour()
        for name in chosen:
            switches = _over(switches, BEHAVIOUR_VARIANTS[name])
        server.behaviour = switches


def _over(below: B, above: B) -> B:
    """Return `below` with every field of `above` that is not the default."""
    usual = type(above)()
    changes: dict[str, Any] = {}
    for field in fields(above):
        value = getattr(above, field.name)
        if value != getattr(usual, field.name):
            changes[field.name] = _over(getattr(below, field.name), value) if isinstance(value, EventOrder) else value
    return replace(below, **changes)
