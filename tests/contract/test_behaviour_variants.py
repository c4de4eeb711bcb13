"""Whole calls with the behaviour variants of the simulated provider: permitted differences, faults, and undocumented behaviour."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from agentfield_local.chat.behaviour import CHAT_VARIANTS
from agentfield_local.faults.variants import BEHAVIOUR_VARIANTS, HARMLESS_VARIANTS
from agentfield_local.webrtc.options import MediaOptions
from contract.test_capabilities_speech import repeat
from support.contract.callers import Direct
from support.contract.installation import PAIRS, Pair, declared, selected, target
from support.contract.scenarios import Case, on_pairs, proof, run_concurrently
from support.contract.session import Outcome
from support.contract.variants import USUAL as DEFAULT
from support.contract.variants import prepare

USUAL = Outcome(
    words=("hello",), tools=("succeeded",), said=(("hello", "hello", True, None),), reason="caller_hangup", heard=True
)
"""A caller speaks, a reasoner of the node is called, the caller hears the answer and hangs up."""

WORDLESS = Outcome(
    words=(None,), tools=("succeeded",), said=(("nothing", "nothing", True, None),), reason="caller_hangup", heard=True
)
"""The same without a transcript of the caller."""


def failing(code: str, *, generated: str = "", heard: bool = False, reason: str = "caller_hangup") -> Outcome:
    """Return the outcome of a call whose answer failed and which the caller then ended."""
    said = (("hello", generated, True if generated == "hello" else None, code),)
    return Outcome(words=("hello",), tools=("succeeded",), said=said, reason=reason, heard=heard)


def fatal(code: str, *, generated: str = "") -> Outcome:
    """Return the outcome of a call whose answer failed for good."""
    return replace(failing(code, generated=generated, reason="provider_error"), because=code)


WAITING = Outcome(reason="caller_hangup")
"""The provider may recover; this caller does not wait for it."""


def refused(code: str, *, final: bool) -> Outcome:
    """Return the outcome of a call that the provider refused; a final refusal ends the session."""
    if final:
        return Outcome(reason="provider_error", because=code, refused=("provider_error", code))
    return replace(WAITING, refused=("provider_unavailable", code))


REFUSED: dict[str, Outcome] = {
    "refuse_401": refused("invalid_api_key", final=True),
    "refuse_401_talkative": refused("invalid_api_key", final=True),
    "refuse_402": refused("credit_balance_exhausted", final=True),
    "refuse_403": refused("account_deactivated", final=True),
    "refuse_404": refused("model_not_found", final=True),
    "refuse_408": refused("server_error", final=False),
    "refuse_429_quota": refused("insufficient_quota", final=True),
    "refuse_429_rate": replace(WAITING, refused=("provider_error", "rate_limit_exceeded")),
    "refuse_500": refused("server_error", final=False),
    "refuse_502_html": refused("http_502", final=False),
    "refuse_503": refused("overloaded", final=False),
    "refuse_504": refused("server_error", final=False),
    "refuse_once": refused("overloaded", final=False),
    "refuse_everywhere": refused("server_error", final=False),
}
"""Calls that a Realtime provider refuses: the code for the caller and the provider's own."""
FATAL = replace(failing("session_ended", reason="provider_error"), because="insufficient_quota")
LOST = Outcome(reason="provider_error", because="The connection to the provider was lost (code 1008)")

SOCKET: dict[str, Outcome] = {
    **REFUSED,
    "refuse_400": refused("invalid_value", final=True),
    "transcripts_fail": WORDLESS,
    "other_model": Outcome(reason="mismatch"),
    "says_paraphrased": Outcome(
        words=("hello",),
        tools=("succeeded",),
        said=(("hello", "Sure, hi", False, None),),
        reason="caller_hangup",
        heard=True,
    ),
    "response_fails": failing("server_error"),
    "response_fails_midway": failing("server_error", generated="hello", heard=True),
    "response_fails_error_last": failing("server_error"),
    "quota_runs_out": FATAL,
    "quota_runs_out_new_code": replace(FATAL, because="credit_balance_exhausted"),
    **{f"drop_{code}": WORDLESS for code in (1001, 1006, 1011)},
    "drop_1008": LOST,
    "drop_at_once": refused("closed_1000", final=False),
    "drop_always": refused("closed_1011", final=False),
    "session_shape_beta": refused("beta_api_shape", final=True),
}
"""Outcomes over `openai/websocket` that are not the usual one."""

LATER = {
    408: "timeout",
    429: "rate_limit_exceeded",
    500: "server",
    502: "provider_unavailable",
    503: "provider_overloaded",
}
CODES = {400: "invalid_request", 403: "content_policy_violation", 413: "payload_too_large", 422: "unprocessable"}
NEVER = {401: "authentication", 402: "payment_required", 404: "not_found"}
MIDWAY = {403: "content_policy_violation", **{status: LATER[status] for status in (408, 429, 502, 503)}}

TURNS: dict[str, Outcome] = {
    **{f"refuse={status}": failing(code) for status, code in {**LATER, **CODES}.items()},
    **{f"refuse={status}": fatal(code) for status, code in NEVER.items()},
    **{f"stream_error={status}": failing(code, generated="hello") for status, code in MIDWAY.items()},
    "stream_error=402": fatal("payment_required", generated="hello"),
    "refuse_at=transcriptions": WORDLESS,
    "refuse_message=No.": fatal(NEVER[401]),
    "refuse_html=True": failing("provider_unavailable"),
    "retry_after=2": failing("rate_limit_exceeded"),
    "ending=broken": failing("unreachable", generated="hello"),
    "stall=before": failing("stalled"),
    "stall=middle": failing("stalled", generated="hello"),
    "switches_at=mid_answer": fatal("rerouted", generated="hello"),
}
"""Outcomes over `openrouter/audio_turns` that are not the usual one."""

# a stall is noticed after 20 s without data; its own tests use a shorter time
SLOW = {"stall=before", "stall=middle"}

WEBRTC, WEBSOCKET, TURNS_PAIR = PAIRS[:3]
VANISHED = ("caller_vanishes", "caller_vanishes_told")
"""Variants that disconnect the caller at an unpredictable point of the call."""

EXPIRING = ("session_expires", "session_expires_early")
"""Variants whose sessions last for two seconds."""

TORN = frozenset(
    {
        *VANISHED,
        *EXPIRING,
        "session_shape_beta",
        "drop_at_once",
        "refuse_sideband",
        "refuse_everywhere",
        "other_model",
        "location_absent",
    }
)
"""Variants that tear a WebRTC connection down while it is being made."""

CALLS: dict[str, Outcome] = {
    **REFUSED,
    # the settings or the offer may be at fault: another offer may succeed
    "refuse_400": replace(WAITING, refused=("provider_error", "invalid_value")),
    "refuse_sideband": refused("server_error", final=False),
    "refuse_hangup": USUAL,
    "refuse_speech": USUAL,
    "location_absent": replace(WAITING, refused=("provider_error", "invalid_answer")),
    "session_shape_beta": replace(WAITING, refused=("provider_error", "beta_api_shape")),
    "drop_at_once": WAITING,
    "drop_1008": LOST,
    "drop_always": Outcome(reason="provider_error", because="The sideband was lost 5 times within 60 s."),
    "other_model": Outcome(reason="mismatch"),
    **dict.fromkeys(EXPIRING, Outcome(reason="provider_expired")),
    **{
        name: SOCKET[name]
        for name in ("transcripts_fail", "says_paraphrased", "quota_runs_out", "quota_runs_out_new_code")
    },
    **dict.fromkeys(("response_fails", "response_fails_error_last"), failing("server_error")),
    "response_fails_midway": failing("server_error", generated="hello"),
}
"""Outcomes over `openai/webrtc` that are not the usual one; a caller may repeat a refused offer."""

FEW = ("transcript_late", "words_after_audio", "duplicate_events", "unknown_fields", "commit_error_late", "refuse_once")
"""Variants for `local/*`, whose adapters are those of `openai/*` and `openrouter/*` at another address."""
FEW_TURNS = ("newline=crlf", "writes=split_characters", "audio_split=odd", "usage=absent", "stream_error=502")


def expected(pair: Pair, name: str) -> Outcome:
    """Return the outcome that a call must have with a variant."""
    table = {"webrtc": CALLS, "websocket": SOCKET, "audio_turns": TURNS}[pair[1]]
    harmless = CHAT_VARIANTS[name].harmless if pair[1] == "audio_turns" else name in HARMLESS_VARIANTS
    assert not (harmless and name in table), f"{name} must change nothing"
    return table.get(name, USUAL)


@proof(PAIRS)
async def test_a_call_over_each_pair(case: Case) -> None:
    """Over every pair the same handler gets the turn, calls a reasoner and is heard."""
    async with case.installation() as here:
        assert await here.call(target(case.pair)) == USUAL


async def call(case: Case, *, again: bool) -> None:
    """Make a call with a variant, and if `again` a second one with the usual behaviour."""
    (name,) = case.variants
    # a session of two seconds may end during a word or after it; a silent caller waits for the end
    silent = name in EXPIRING and case.pair[1] == "webrtc"
    async with case.installation() as here:
        if silent:  # long enough to connect first, also on a busy machine
            here.server.behaviour = replace(here.server.behaviour, session_seconds=8)
        outcome = await here.call(target(case.pair), silent=silent)
        if name in VANISHED and case.pair[1] == "webrtc":
            assert (outcome.reason, outcome.heard) == ("caller_hangup", False)
        elif name == "response_fails_midway":  # the caller may or may not have heard the part that was sent
            assert replace(outcome, heard=True) == replace(expected(case.pair, name), heard=True)
        elif name in EXPIRING and not silent:  # the session may end during a word
            cut = [why for *_, why in outcome.said]
            assert cut in ([None], ["provider_rotated"]), f"{outcome}"
            usual = expected(case.pair, name)
            assert replace(outcome, said=usual.said, heard=True) == usual, f"{outcome}"
        else:
            assert outcome == expected(case.pair, name), f"{outcome}"
        if again:
            prepare(here.server, case.pair, (DEFAULT,))
            assert await here.call(target(case.pair)) == USUAL


async def calls(folder: Path, pair: Pair, names: Iterable[str], *, again: bool = False) -> None:
    """Make a call over a pair with each of these variants."""
    cases = [Case(folder / str(number), pair, (name,)) for number, name in enumerate(names)]
    works = [(str(case), partial(call, case, again=again)) for case in cases]
    await run_concurrently(works, torn=[str(case) for case in cases if TORN & set(case.variants)])


def every(pair: Pair) -> list[str]:
    """Return all variants of a pair's provider with which a whole call is made."""
    return sorted(set(CHAT_VARIANTS) - SLOW) if pair[1] == "audio_turns" else list(BEHAVIOUR_VARIANTS)


def representative(pair: Pair) -> list[str]:
    """Return a variant for each outcome that a call over a pair can have, and the harmless ones that differ most."""
    first = {expected(pair, name): name for name in reversed(every(pair))}
    harmless = FEW_TURNS if pair[1] == "audio_turns" else FEW
    return sorted({*first.values(), *harmless, *(("refuse_sideband", *VANISHED) if pair[1] == "webrtc" else ())})


@on_pairs(WEBSOCKET)
async def test_openai_websocket_with_each_outcome(tmp_path: Path) -> None:
    """A call ends as expected for every kind of behaviour, and the next call has the usual outcome."""
    await calls(tmp_path, WEBSOCKET, representative(WEBSOCKET), again=True)


@on_pairs(TURNS_PAIR)
async def test_openrouter_audio_turns_with_each_outcome(tmp_path: Path) -> None:
    """The same for recorded turns."""
    await calls(tmp_path, TURNS_PAIR, representative(TURNS_PAIR), again=True)


@on_pairs(WEBRTC)
async def test_openai_webrtc_with_each_outcome(tmp_path: Path) -> None:
    """The same for a call on direct media."""
    await calls(tmp_path, WEBRTC, representative(WEBRTC))


@pytest.mark.long
@on_pairs(WEBSOCKET)
async def test_openai_websocket_with_every_variant(tmp_path: Path) -> None:
    """A call ends as expected with every behaviour variant, and the next call has the usual outcome."""
    await calls(tmp_path, WEBSOCKET, every(WEBSOCKET), again=True)


@pytest.mark.long
@on_pairs(TURNS_PAIR)
async def test_openrouter_audio_turns_with_every_variant(tmp_path: Path) -> None:
    """The same for recorded turns."""
    await calls(tmp_path, TURNS_PAIR, every(TURNS_PAIR), again=True)


@pytest.mark.long
@pytest.mark.timeout(900)  # a real connection for each variant, and some only after each other
@on_pairs(WEBRTC)
async def test_openai_webrtc_with_every_variant(tmp_path: Path) -> None:
    """The same for a call on direct media."""
    await calls(tmp_path, WEBRTC, every(WEBRTC))


@on_pairs(*PAIRS[3:])
async def test_local_pairs_with_some_variants(tmp_path: Path) -> None:
    """The offline pairs have the same outcomes as the pairs whose adapters they share."""
    for pair, names in ((PAIRS[3], FEW), (PAIRS[4], FEW), (PAIRS[5], FEW_TURNS)):
        if selected(pair):
            await calls(tmp_path / pair[1], pair, names)


@proof([pair for pair in PAIRS if pair[1] == "webrtc"])
async def test_a_caller_without_a_media_path_ends_the_session(case: Case) -> None:
    """When the provider reports that no packet of the caller arrives, the session ends with that reason and a hint."""
    media = MediaOptions(connect_seconds=1.0)
    async with (
        case.installation(declared(case.pair, repeat), media=media) as here,
        here.talk(target(case.pair)) as talk,
    ):
        assert isinstance(talk.medium, Direct)
        await talk.medium.offer_only()
        end = await talk.ended()
        assert end["reason"] == "ice_failed"
        assert "UDP" in end["detail"]
