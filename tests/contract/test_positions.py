"""A whole call in every position of the simulator: what providers do one way or another, what they do wrong, what nobody knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentfield_local.behaviour import Behaviour
from agentfield_local.chat.behaviour import CHAT_BEHAVIOURS, ChatBehaviour
from agentfield_local.positions import BEHAVIOURS, HARMLESS
from contract.contract_kit import PAIRS, Installation, Outcome, Pair, installation, name_of, target

USUAL = Outcome(
    words=("hello",), tools=("succeeded",), said=(("hello", "hello", True, None),), reason="caller_hangup", heard=True
)
"""A caller speaks, a reasoner of the node is called, the caller hears the answer and hangs up."""

WORDLESS = Outcome(
    words=(None,), tools=("succeeded",), said=(("nothing", "nothing", True, None),), reason="caller_hangup", heard=True
)
"""The same without the caller's words: the handler is told that they are missing."""


def failing(code: str, *, generated: str = "", heard: bool = False, reason: str = "caller_hangup") -> Outcome:
    """Return a call whose answer failed; unless that is fatal it is the caller who ends it."""
    said = (("hello", generated, generated == "hello", code),)
    return Outcome(words=("hello",), tools=("succeeded",), said=said, reason=reason, heard=heard)


REFUSED = Outcome(reason="provider_error")
"""No other try would cure it: the session is over."""
WAITING = Outcome(reason="caller_hangup")
"""The provider may do better a little later; this caller does not wait."""
FATAL = failing("session_ended", reason="provider_error")

SOCKET: dict[str, Outcome] = {
    **{f"refuse_{status}": REFUSED for status in (400, 401, 402, 403, 404)},
    **dict.fromkeys(("refuse_408", "refuse_429_quota", "refuse_429_rate", "refuse_500", "refuse_502_html"), WAITING),
    **dict.fromkeys(("refuse_503", "refuse_504", "refuse_once", "refuse_everywhere"), WAITING),
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
    "quota_runs_out_new_code": FATAL,
    **{f"drop_{code}": WORDLESS for code in (1001, 1006, 1011)},
    "drop_1008": REFUSED,
    "drop_always": WAITING,
}
"""What comes of a call over `openai/websocket` where that is not the usual."""

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
    **{f"refuse={status}": failing(code, reason="provider_error") for status, code in NEVER.items()},
    **{f"stream_error={status}": failing(code, generated="hello") for status, code in MIDWAY.items()},
    "stream_error=402": failing("payment_required", generated="hello", reason="provider_error"),
    "refuse_at=transcriptions": WORDLESS,
    "refuse_html=True": failing("provider_unavailable"),
    "retry_after=2": failing("rate_limit_exceeded"),
    "ending=broken": failing("unreachable", generated="hello"),
    "stall=before": failing("stalled"),
    "stall=middle": failing("stalled", generated="hello"),
    "switches_at=mid_answer": failing("rerouted", generated="hello", reason="provider_error"),
}
"""What comes of a call over `openrouter/audio_turns` where that is not the usual."""

# a stall is noticed after 20 s without data: its own tests have a shorter patience
SLOW = {"stall=before", "stall=middle"}

VANISHED = ("caller_vanishes", "caller_vanishes_told")
"""Where the caller is cut off in the middle, how far the call got is not told by the position."""

CALLS: dict[str, Outcome] = {
    **dict.fromkeys((name for name in BEHAVIOURS if name.startswith("refuse_")), WAITING),
    "refuse_hangup": USUAL,
    "refuse_speech": USUAL,
    "location_absent": WAITING,
    "drop_1008": WAITING,
    "drop_always": REFUSED,
    "other_model": Outcome(reason="mismatch"),
    "session_expires": Outcome(reason="provider_expired"),
    **{
        name: SOCKET[name]
        for name in ("transcripts_fail", "says_paraphrased", "quota_runs_out", "quota_runs_out_new_code")
    },
    **dict.fromkeys(("response_fails", "response_fails_error_last"), failing("server_error")),
    "response_fails_midway": failing("server_error", generated="hello"),
}
"""What comes of a call over `openai/webrtc` where that is not the usual: a refused offer may be made again by its caller."""

FEW = ("transcript_late", "words_after_audio", "duplicate_events", "unknown_fields", "commit_error_late", "refuse_once")
"""Positions for `local/*`, whose adapters are those of `openai/*` and `openrouter/*` at another address."""
FEW_TURNS = ("newline=crlf", "writes=split_characters", "audio_cut=odd", "usage=absent", "stream_error=502")


def prepare(here: Installation, pair: Pair, name: str) -> None:
    """Put the provider into a position."""
    if pair[1] == "audio_turns":
        here.server.chat.behaviour = CHAT_BEHAVIOURS[name]
    else:
        here.server.behaviour = BEHAVIOURS[name]


def written(pair: Pair, name: str) -> Outcome:
    """Return what a call must come to in a position."""
    table = {"webrtc": CALLS, "websocket": SOCKET, "audio_turns": TURNS}[pair[1]]
    harmless = CHAT_BEHAVIOURS[name].harmless if pair[1] == "audio_turns" else name in HARMLESS
    assert not (harmless and name in table), f"{name} must change nothing"
    return table.get(name, USUAL)


@pytest.mark.parametrize("pair", PAIRS, ids=name_of)
async def test_a_call_over_each_pair(tmp_path: Path, pair: Pair) -> None:
    """The same handler is understood, calls a reasoner and is heard over every pair."""
    async with installation(tmp_path) as here:
        assert await here.call(target(pair)) == USUAL


@pytest.mark.parametrize("name", sorted(BEHAVIOURS))
async def test_openai_websocket_in_every_position(tmp_path: Path, name: str) -> None:
    """The call goes as usual where it must, and else comes to the end that is written down here; the next one is usual."""
    pair = ("openai", "websocket")
    async with installation(tmp_path) as here:
        prepare(here, pair, name)
        assert await here.call(target(pair)) == written(pair, name)
        here.server.behaviour = Behaviour()
        assert await here.call(target(pair)) == USUAL


@pytest.mark.parametrize("name", sorted(set(CHAT_BEHAVIOURS) - SLOW))
async def test_openrouter_audio_turns_in_every_position(tmp_path: Path, name: str) -> None:
    """The same for recorded turns."""
    pair = ("openrouter", "audio_turns")
    async with installation(tmp_path) as here:
        prepare(here, pair, name)
        assert await here.call(target(pair)) == written(pair, name)
        here.server.chat.behaviour = ChatBehaviour()
        assert await here.call(target(pair)) == USUAL


@pytest.mark.parametrize("name", sorted(BEHAVIOURS))
async def test_openai_webrtc_in_every_position(tmp_path: Path, name: str) -> None:
    """The same for a call whose audio goes past the control plane."""
    pair = ("openai", "webrtc")
    async with installation(tmp_path) as here:
        prepare(here, pair, name)
        # a session that lives for two seconds is over in the middle of a word or behind it; a silent caller sees the end
        came_to = await here.call(target(pair), silent=name == "session_expires")
        if name in VANISHED:
            assert (came_to.reason, came_to.heard) == ("caller_hangup", False)
        else:
            assert came_to == written(pair, name)


@pytest.mark.parametrize(
    ("pair", "name"),
    [
        *[(pair, name) for pair in (("local", "webrtc"), ("local", "websocket")) for name in FEW],
        *[(("local", "audio_turns"), name) for name in FEW_TURNS],
    ],
    ids=name_of,
)
async def test_local_pairs_in_some_positions(tmp_path: Path, pair: Pair, name: str) -> None:
    """The offline pairs come to the same ends as those whose adapters they share."""
    async with installation(tmp_path) as here:
        prepare(here, pair, name)
        assert await here.call(target(pair)) == written(pair, name)
