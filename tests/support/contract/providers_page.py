"""The tables of `docs/providers.md`, generated from the tests that they name.

``PYTHONPATH=tests python -m support.contract.providers_page`` writes the page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from agentfield_local.chat.behaviour import CHAT_VARIANTS
from agentfield_local.faults.variants import BEHAVIOUR_VARIANTS
from contract.test_behaviour_variants import FEW, FEW_TURNS, SLOW
from support.contract.installation import PAIRS, Pair, name_of
from support.contract.proofs import claims, proofs_of
from support.contract.variants import single
from support.paths import ROOT

__all__ = ["OFFICIAL", "PAGE", "REGENERATE", "UNKNOWN", "page"]

PAGE = ROOT / "docs" / "providers.md"
REGENERATE = "PYTHONPATH=tests python -m support.contract.providers_page"
_BEGIN, _END = "<!-- tables -->", "<!-- end of the tables -->"

ALL = tuple(PAIRS)
WEBRTC = tuple(pair for pair in PAIRS if pair[1] == "webrtc")
WEBSOCKET = tuple(pair for pair in PAIRS if pair[1] == "websocket")
REALTIME = WEBRTC + WEBSOCKET
TURNS = tuple(pair for pair in PAIRS if pair[1] == "audio_turns")
OPENAI, OPENROUTER = (("openai", "webrtc"), ("openai", "websocket")), (("openrouter", "audio_turns"),)


@dataclass(frozen=True, slots=True)
class Check:
    """A check against an official type or client, or a browser, and the test that does it."""

    pairs: tuple[Pair, ...]
    what: str
    test: str
    """Path and name, such as `unit/test_x.py::test_y`."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Behaviour that only a live key can show."""

    pairs: tuple[Pair, ...]
    what: str
    variants: tuple[str, ...] = ()
    """The simulator's behaviour variants that cover the possible answers; a call works with each of them."""
    live: str | None = None
    """The test that shows it with a key."""


OFFICIAL: tuple[Check, ...] = (
    Check(
        REALTIME,
        "types: client events, session, responses",
        "unit/openai/test_codec_encode.py::test_everything_that_is_sent_fits_the_official_types",
    ),
    Check(
        WEBSOCKET,
        "types: truncation of a reply",
        "unit/openai/test_codec_carried_audio.py::test_an_interrupted_reply_is_truncated_to_its_heard_part",
    ),
    Check(
        WEBSOCKET,
        "types: requests to the speech endpoint",
        "unit/openai/test_exact_say.py::test_the_speech_request_fits_the_official_type",
    ),
    Check(
        REALTIME,
        "types: server events, in any order",
        "unit/local/test_conversation.py::test_every_response_ends_once_and_ids_are_unique",
    ),
    Check(
        WEBRTC,
        "client: `calls.create`, sideband, `calls.hangup`",
        "integration/local/test_webrtc_calls.py::test_a_call_carries_a_spoken_turn_and_its_reply_and_is_hung_up",
    ),
    Check(
        REALTIME,
        "client: `realtime.connect`, a spoken turn",
        "integration/local/test_websockets.py::test_the_official_client_has_a_spoken_turn",
    ),
    Check(
        REALTIME,
        "client: `realtime.connect`, a function call",
        "integration/local/test_websockets.py::test_the_official_client_answers_a_function_call",
    ),
    Check(
        TURNS,
        "types: requests as chat completions",
        "unit/openrouter/test_requests.py::test_a_reply_request_pins_the_route_and_carries_the_conversation",
    ),
    Check(
        TURNS,
        "types and client: streamed chunks, with every harmless variant",
        "unit/local/test_chat_behaviours.py::test_a_harmless_variant_changes_nothing_for_a_client",
    ),
    Check(
        TURNS,
        "client: a spoken conversation with a tool",
        "integration/local/test_chat_client.py::test_a_spoken_conversation_with_a_tool",
    ),
    Check(
        TURNS,
        "client: reads the same answer from the same bytes",
        "integration/providers/test_openrouter_turns.py::test_the_official_client_reads_the_same_answer",
    ),
    Check(
        (("local", "webrtc"),),
        "Chromium: a call from the page",
        "browser/test_page.py::test_the_whole_call_by_keyboard",
    ),
    Check(
        (("local", "audio_turns"),),
        "Chromium: push to talk",
        "browser/test_push_to_talk.py::test_a_page_talks_by_holding_a_button",
    ),
)
"""The checks against the types and clients of the official `openai` package and against a browser."""

UNKNOWN: tuple[Unknown, ...] = (
    Unknown((OPENAI[0],), "whether audio deltas reach the sideband", ("sideband_audio_deltas",)),
    Unknown(
        (OPENAI[0],),
        "the content of `session.created` on a late sideband",
        ("sideband_created_brief", "sideband_created_never"),
    ),
    Unknown((OPENAI[0],), "how long a new call is unknown to its sideband", ("unknown_call_window",)),
    Unknown((OPENAI[0],), "the format of a new call's address", ("location_doubled", "location_with_query")),
    Unknown((OPENAI[0],), "whether the provider's own truncation is reported", ("truncation_unannounced",)),
    Unknown((OPENAI[0],), "whether the sideband is told that its caller disconnected", ("sideband_told_of_vanishing",)),
    Unknown(
        OPENAI,
        "when rate limits are reported",
        ("rate_limits_before_done", "rate_limits_after_done", "rate_limits_never"),
    ),
    Unknown(OPENAI, "the place of `phase`", ("phase_on_items", "phase_on_parts", "phase_on_events")),
    Unknown(OPENAI, "the default silence that ends a turn", ("silence_as_measured",)),
    Unknown(
        OPENAI,
        "how often a `say` that is not exact is reworded",
        ("says_paraphrased",),
        "live/test_openai_live.py::test_the_model_says_a_sentence_and_answers_a_typed_one",
    ),
    Unknown(
        OPENAI,
        "that the default model, voice and `gpt-transcribe` exist for the account",
        live="live/test_openai_live.py::test_a_session_opens_as_configured",
    ),
    Unknown(
        (OPENAI[1],),
        "that a cancelled and truncated reply is accepted without an error",
        live="live/test_openai_live.py::test_a_reply_can_be_truncated_and_the_session_continues",
    ),
    Unknown(
        (OPENAI[1],),
        "the voices and sound of the speech endpoint",
        live="live/test_openai_live.py::test_an_exact_say_is_spoken_by_the_speech_endpoint",
    ),
    Unknown(OPENAI, "latency"),
    Unknown(
        OPENROUTER,
        "that `openai/gpt-4o-mini-transcribe` exists, the rate of streamed `pcm16`, the names of upstreams",
        live="live/test_openrouter_live.py::test_a_spoken_turn_a_say_and_a_tool",
    ),
    Unknown(OPENROUTER, "whether token counts and cost are always reported", ("usage=absent", "usage_cost=False")),
    Unknown(OPENROUTER, "the cost of a cancelled answer, by upstream"),
)
"""Undocumented behaviour, and behaviour that only the provider itself can show."""


def page(text: str) -> str:
    """Return the page with new tables."""
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
        "| only a live key can show | pairs | covered meanwhile by | test with a key |",
        "|---|---|---|---|",
    )
    for unknown in UNKNOWN:
        pairs = ", ".join(f"`{name_of(pair)}`" for pair in unknown.pairs)
        covered = ", ".join(f"`{name}`" for name in unknown.variants) or "-"
        live = f"`{unknown.live.partition('::')[2]}`" if unknown.live else "-"
        yield f"| {unknown.what} | {pairs} | {covered} | {live} |"


def _calls(pair: Pair) -> str:
    mine = [claim for claim in claims() if claim[0] == pair]
    matter = {name for claim in mine for proof in proofs_of(*claim) if pair in proof.pairs for name in proof.matters}
    return (
        f"one call with each of {_own_calls(pair)} variants; {len(mine)} values of the matrix, "
        f"with the {len(set(single(pair, matter)))} variants that affect them"
    )


def _own_calls(pair: Pair) -> str:
    if pair[0] == "local":
        return str(len(FEW_TURNS if pair in TURNS else FEW))
    if pair in TURNS:
        return f"{len(set(CHAT_VARIANTS) - SLOW)} of the {len(CHAT_VARIANTS)}"
    return f"the {len(BEHAVIOUR_VARIANTS)}"


if __name__ == "__main__":
    sys.stdout.write(f"{PAGE}\n")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
