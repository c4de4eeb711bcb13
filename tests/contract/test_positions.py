"""A whole call in every position of the simulator: what providers do one way or another, what they do wrong, what nobody knows."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from agentfield_local.behaviour import Behaviour
from agentfield_local.chat.behaviour import CHAT_BEHAVIOURS, ChatBehaviour
from agentfield_local.positions import BEHAVIOURS, HARMLESS
from contract.contract_kit import CANARY, PAIRS, Outcome, installation, target_of

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
SIDEBAND = (
    "sideband_created_never",
    "unknown_call_window",
    "location_doubled",
    "committed_after_item",
    "duplicate_events",
)


@pytest.fixture(autouse=True)
def no_key_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is logged in a call, the key is not in it."""
    caplog.set_level(logging.DEBUG)


@pytest.mark.parametrize(("provider", "transport"), PAIRS, ids="/".join)
async def test_a_call_over_each_pair(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, provider: str, transport: str
) -> None:
    """The same handler is understood, calls a reasoner and is heard over every pair."""
    async with installation(tmp_path) as here:
        call = here.call_by_webrtc if transport == "webrtc" else here.call
        assert await call(target_of(provider, transport)) == USUAL
    assert CANARY not in caplog.text


@pytest.mark.parametrize("name", sorted(BEHAVIOURS))
async def test_openai_websocket_in_every_position(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """The call goes as usual where it must, and else comes to the end that is written down here."""
    assert name not in HARMLESS or name not in SOCKET
    async with installation(tmp_path) as here:
        here.server.behaviour = BEHAVIOURS[name]
        assert await here.call(target_of("openai", "websocket")) == SOCKET.get(name, USUAL)
        here.server.behaviour = Behaviour()
        assert await here.call(target_of("openai", "websocket")) == USUAL
    assert CANARY not in caplog.text


@pytest.mark.parametrize("name", sorted(set(CHAT_BEHAVIOURS) - SLOW))
async def test_openrouter_audio_turns_in_every_position(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The same for recorded turns."""
    assert not CHAT_BEHAVIOURS[name].harmless or name not in TURNS
    async with installation(tmp_path) as here:
        here.server.chat.behaviour = CHAT_BEHAVIOURS[name]
        assert await here.call(target_of("openrouter", "audio_turns")) == TURNS.get(name, USUAL)
        here.server.chat.behaviour = ChatBehaviour()
        assert await here.call(target_of("openrouter", "audio_turns")) == USUAL
    assert CANARY not in caplog.text


@pytest.mark.parametrize("name", SIDEBAND)
async def test_openai_webrtc_in_the_positions_of_its_sideband(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Over WebRTC the positions that concern its own signalling change nothing either."""
    async with installation(tmp_path) as here:
        here.server.behaviour = BEHAVIOURS[name]
        assert await here.call_by_webrtc(target_of("openai", "webrtc")) == USUAL
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    ("target", "push"),
    [("desk.openai_websocket_push", True), ("desk.openrouter_audio_turns_model", False)],
    ids=["websocket", "audio_turns"],
)
async def test_a_turn_that_the_caller_commits_is_answered_once(tmp_path: Path, target: str, push: bool) -> None:
    """On the model's floor somebody has to ask for the answer, and it is asked for once."""
    async with installation(tmp_path) as here:
        outcome = await here.call(target, push=push)
    assert (outcome.words, len(outcome.said), outcome.heard) == (("hello",), 1, True)
    assert outcome.said[0][0] is None
    assert "hello" in outcome.said[0][1]


async def test_words_that_must_be_exact_are(tmp_path: Path) -> None:
    """Where a session demands it, a model that likes other words is not asked."""
    async with installation(tmp_path) as here:
        here.server.behaviour = BEHAVIOURS["says_paraphrased"]
        assert await here.call(target_of("openai", "websocket", "_exact")) == USUAL
