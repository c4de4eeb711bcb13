"""What was verified of each pair, and how: the tables of `docs/providers.md`, written by ``PYTHONPATH=tests python -m contract.verified``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentfield_local.chat.behaviour import CHAT_BEHAVIOURS
from agentfield_local.positions import BEHAVIOURS
from contract.contract_kit import PAIRS, Pair, name_of
from contract.positions import single
from contract.proofs import claims, proofs_of
from contract.test_positions import FEW, FEW_TURNS, SLOW

__all__ = ["OFFICIAL", "PAGE", "REGENERATE", "UNKNOWN", "page"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "providers.md"
REGENERATE = "PYTHONPATH=tests python -m contract.verified"
_BEGIN, _END = "<!-- tables -->", "<!-- end of the tables -->"

ALL = tuple(PAIRS)
WEBRTC = tuple(pair for pair in PAIRS if pair[1] == "webrtc")
WEBSOCKET = tuple(pair for pair in PAIRS if pair[1] == "websocket")
REALTIME = WEBRTC + WEBSOCKET
TURNS = tuple(pair for pair in PAIRS if pair[1] == "audio_turns")
OPENAI, OPENROUTER = (("openai", "webrtc"), ("openai", "websocket")), (("openrouter", "audio_turns"),)


@dataclass(frozen=True, slots=True)
class Check:
    """A check against something official, and the test that does it."""

    pairs: tuple[Pair, ...]
    what: str
    test: str
    """Path and name, such as `unit/test_x.py::test_y`."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something that only a live key can show."""

    pairs: tuple[Pair, ...]
    what: str
    positions: tuple[str, ...] = ()
    """The simulator's positions that stand for what may be; calls go on in each of them."""
    live: str | None = None
    """The test that shows it, given a key."""


OFFICIAL: tuple[Check, ...] = (
    Check(
        REALTIME,
        "types: client events, session, responses",
        "unit/test_openai_codec_encode.py::test_everything_that_is_sent_fits_the_official_types",
    ),
    Check(
        WEBSOCKET,
        "types: what cuts a reply",
        "unit/test_openai_codec_carried.py::test_a_reply_that_was_cut_becomes_what_was_heard_of_it",
    ),
    Check(
        WEBSOCKET,
        "types: what is asked of the speech endpoint",
        "unit/test_openai_speech.py::test_what_is_asked_of_the_speech_endpoint_fits_the_official_type",
    ),
    Check(
        REALTIME,
        "types: server events, in any order",
        "unit/test_local_server_conversation.py::test_every_response_ends_once_and_ids_are_used_once",
    ),
    Check(
        WEBRTC,
        "client: `calls.create`, sideband, `calls.hangup`",
        "integration/test_local_server_calls.py::test_a_call_carries_a_spoken_turn_and_its_reply_and_is_hung_up",
    ),
    Check(
        REALTIME,
        "client: `realtime.connect`, a spoken turn",
        "integration/test_local_server_sockets.py::test_the_official_client_has_a_spoken_turn",
    ),
    Check(
        REALTIME,
        "client: `realtime.connect`, a function call",
        "integration/test_local_server_sockets.py::test_the_official_client_answers_a_function_call",
    ),
    Check(
        TURNS,
        "types: requests as chat completions",
        "unit/test_openrouter_requests.py::test_a_request_for_an_answer_pins_the_route_and_carries_the_whole_conversation",
    ),
    Check(
        TURNS,
        "types and client: streamed chunks, in every harmless position",
        "unit/test_local_chat_behaviours.py::test_a_harmless_position_changes_nothing_for_a_client",
    ),
    Check(
        TURNS,
        "client: a spoken conversation with a tool",
        "integration/test_local_chat_client.py::test_a_spoken_conversation_with_a_tool",
    ),
    Check(
        TURNS,
        "client: reads the same answer out of the same bytes",
        "integration/test_openrouter_turns.py::test_the_official_client_reads_the_same_answer_out_of_the_same_bytes",
    ),
    Check(
        (("local", "webrtc"),),
        "Chromium: a call from the page",
        "browser/test_browser_page.py::test_the_whole_call_by_keyboard",
    ),
    Check(
        (("local", "audio_turns"),),
        "Chromium: push to talk",
        "browser/test_push_to_talk.py::test_a_page_talks_by_holding_a_button",
    ),
)
"""Everything that is checked against the types and clients of the official `openai` package, and against a browser."""

UNKNOWN: tuple[Unknown, ...] = (
    Unknown((OPENAI[0],), "whether audio deltas reach the sideband", ("sideband_audio_deltas",)),
    Unknown(
        (OPENAI[0],),
        "what a late sideband is told in `session.created`",
        ("sideband_created_brief", "sideband_created_never"),
    ),
    Unknown((OPENAI[0],), "how long a fresh call is unknown to its sideband", ("unknown_call_window",)),
    Unknown((OPENAI[0],), "how the address of a new call is written", ("location_doubled", "location_with_query")),
    Unknown((OPENAI[0],), "whether the provider's own truncation is told", ("truncation_unannounced",)),
    Unknown((OPENAI[0],), "whether a sideband hears that its caller vanished", ("sideband_told_of_vanishing",)),
    Unknown(
        OPENAI,
        "when rate limits are told",
        ("rate_limits_before_done", "rate_limits_after_done", "rate_limits_never"),
    ),
    Unknown(OPENAI, "where `phase` stands", ("phase_on_items", "phase_on_parts", "phase_on_events")),
    Unknown(OPENAI, "the silence that ends a turn where none is named", ("silence_as_measured",)),
    Unknown(
        OPENAI,
        "how often a `say` that is not exact comes out in other words",
        ("says_paraphrased",),
        "live/test_openai_live.py::test_the_model_says_a_sentence_and_answers_a_typed_one",
    ),
    Unknown(
        OPENAI,
        "that the default model, voice and `gpt-transcribe` exist for the account",
        live="live/test_openai_live.py::test_a_session_opens_as_it_was_asked_for",
    ),
    Unknown(
        (OPENAI[1],),
        "that a cancelled and truncated reply is accepted without a fault",
        live="live/test_openai_live.py::test_a_reply_can_be_cut_and_the_session_goes_on",
    ),
    Unknown(
        (OPENAI[1],),
        "the voices and the sound of the speech endpoint",
        live="live/test_openai_live.py::test_an_exact_say_is_spoken_by_the_speech_endpoint",
    ),
    Unknown(OPENAI, "latency"),
    Unknown(
        OPENROUTER,
        "that `openai/gpt-4o-mini-transcribe` is there, the rate of streamed `pcm16`, the names of upstreams",
        live="live/test_openrouter_live.py::test_a_spoken_turn_a_say_and_a_tool",
    ),
    Unknown(OPENROUTER, "whether counts and a cost always come", ("usage=absent", "usage_cost=False")),
    Unknown(OPENROUTER, "what a cancelled answer costs, upstream by upstream"),
)
"""What nobody has written down, or what only the provider itself can show."""


def page(text: str) -> str:
    """Return the page with the tables written anew."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return "\n".join([f"{before}{_BEGIN}", *_tables(), f"{_END}{after}"])


def _tables() -> Iterator[str]:
    yield from ("| pair | against official types and clients | whole calls against the simulator |", "|---|---|---|")
    for pair in PAIRS:
        checks = "; ".join(check.what for check in OFFICIAL if pair in check.pairs)
        yield f"| `{name_of(pair)}` | {checks} | {_calls(pair)} |"
    yield from (
        "",
        "| only a live key can show | pairs | what stands for it meanwhile | with a key |",
        "|---|---|---|---|",
    )
    for unknown in UNKNOWN:
        pairs = ", ".join(f"`{name_of(pair)}`" for pair in unknown.pairs)
        stands = ", ".join(f"`{name}`" for name in unknown.positions) or "-"
        live = f"`{unknown.live.partition('::')[2]}`" if unknown.live else "-"
        yield f"| {unknown.what} | {pairs} | {stands} | {live} |"


def _calls(pair: Pair) -> str:
    mine = [claim for claim in claims() if claim[0] == pair]
    matter = {name for claim in mine for proof in proofs_of(*claim) if pair in proof.pairs for name in proof.matters}
    return (
        f"a call of its own in {_own_calls(pair)} positions; {len(mine)} values of the matrix, "
        f"in the {len(set(single(pair, matter)))} positions that matter for them"
    )


def _own_calls(pair: Pair) -> str:
    if pair[0] == "local":
        return str(len(FEW_TURNS if pair in TURNS else FEW))
    if pair in TURNS:
        return f"{len(set(CHAT_BEHAVIOURS) - SLOW)} of {len(CHAT_BEHAVIOURS)}"
    return f"all {len(BEHAVIOURS)}"


if __name__ == "__main__":
    sys.stdout.write(f"{PAGE}\n")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
