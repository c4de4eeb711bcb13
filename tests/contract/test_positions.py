"""A whole call in every position of the simulator: what providers do one way or another, what they do wrong, what nobody knows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from agentfield_local.chat.behaviour import CHAT_BEHAVIOURS
from agentfield_local.positions import BEHAVIOURS, HARMLESS
from agentfield_local.webrtc.options import MediaOptions
from contract.callers import Direct
from contract.cells import Cell, everywhere, proof
from contract.contract_kit import PAIRS, Pair, declared, target
from contract.positions import USUAL as DEFAULT
from contract.positions import prepare
from contract.talk import Outcome
from contract.test_capabilities_speech import repeat

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


def fatal(code: str, *, generated: str = "") -> Outcome:
    """Return a call whose answer failed in a way that no other try would cure."""
    return replace(failing(code, generated=generated, reason="provider_error"), because=code)


WAITING = Outcome(reason="caller_hangup")
"""The provider may do better a little later; this caller does not wait."""


def refused(code: str, *, final: bool) -> Outcome:
    """Return a call that the provider refused to make; where no other try would cure it, the session is over."""
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
"""What comes of a call that a Realtime provider refuses: what the caller is told, and the provider's own code."""
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
    "drop_always": refused("closed_1011", final=False),
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
"""What comes of a call over `openrouter/audio_turns` where that is not the usual."""

# a stall is noticed after 20 s without data: its own tests have a shorter patience
SLOW = {"stall=before", "stall=middle"}

VANISHED = ("caller_vanishes", "caller_vanishes_told")
"""Where the caller is cut off in the middle, how far the call got is not told by the position."""

TORN = frozenset(
    {*VANISHED, "session_expires", "refuse_sideband", "refuse_everywhere", "other_model", "location_absent"}
)
"""Where a line of WebRTC is torn down while it is being made."""

CALLS: dict[str, Outcome] = {
    **REFUSED,
    # the settings or the offer may be at fault: another offer may be a better one
    "refuse_400": replace(WAITING, refused=("provider_error", "invalid_value")),
    "refuse_sideband": refused("server_error", final=False),
    "refuse_hangup": USUAL,
    "refuse_speech": USUAL,
    "location_absent": replace(WAITING, refused=("provider_error", "invalid_answer")),
    "drop_1008": LOST,
    "drop_always": Outcome(reason="provider_error", because="The sideband was lost 5 times within 60 s."),
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


def written(pair: Pair, name: str) -> Outcome:
    """Return what a call must come to in a position."""
    table = {"webrtc": CALLS, "websocket": SOCKET, "audio_turns": TURNS}[pair[1]]
    harmless = CHAT_BEHAVIOURS[name].harmless if pair[1] == "audio_turns" else name in HARMLESS
    assert not (harmless and name in table), f"{name} must change nothing"
    return table.get(name, USUAL)


@proof(PAIRS)
async def test_a_call_over_each_pair(cell: Cell) -> None:
    """The same handler is understood, calls a reasoner and is heard over every pair."""
    async with cell.installation() as here:
        assert await here.call(target(cell.pair)) == USUAL


async def call(cell: Cell, *, again: bool) -> None:
    """Make a call in a position, and where that is asked for another one in the usual position."""
    (name,) = cell.positions
    # a session that lives for two seconds is over in the middle of a word or behind it; a silent caller sees the end
    silent = name == "session_expires" and cell.pair[1] == "webrtc"
    async with cell.installation() as here:
        came_to = await here.call(target(cell.pair), silent=silent)
        if name in VANISHED and cell.pair[1] == "webrtc":
            assert (came_to.reason, came_to.heard) == ("caller_hangup", False)
        elif name == "response_fails_midway":  # what was sent of it may have been heard before it was cut off, or not
            assert replace(came_to, heard=True) == replace(written(cell.pair, name), heard=True)
        elif name == "session_expires" and not silent:  # the end of its two seconds may come in the middle of a word
            cut = [why for *_, why in came_to.said]
            assert cut in ([None], ["provider_rotated"]), f"{came_to}"
            usual = written(cell.pair, name)
            assert replace(came_to, said=usual.said, heard=True) == usual, f"{came_to}"
        else:
            assert came_to == written(cell.pair, name), f"{came_to}"
        if again:
            prepare(here.server, cell.pair, (DEFAULT,))
            assert await here.call(target(cell.pair)) == USUAL


async def calls(folder: Path, pair: Pair, names: Iterable[str], *, again: bool = False) -> None:
    """Make a call over a pair in each of these positions."""
    cells = [Cell(folder / str(number), pair, (name,)) for number, name in enumerate(names)]
    works = [(str(cell), partial(call, cell, again=again)) for cell in cells]
    await everywhere(works, torn=[str(cell) for cell in cells if TORN & set(cell.positions)])


async def test_openai_websocket_in_every_position(tmp_path: Path) -> None:
    """The call goes as usual where it must, and else comes to the end that is written down here; the next one is usual."""
    await calls(tmp_path, ("openai", "websocket"), BEHAVIOURS, again=True)


async def test_openrouter_audio_turns_in_every_position(tmp_path: Path) -> None:
    """The same for recorded turns."""
    await calls(tmp_path, ("openrouter", "audio_turns"), sorted(set(CHAT_BEHAVIOURS) - SLOW), again=True)


async def test_openai_webrtc_in_every_position(tmp_path: Path) -> None:
    """The same for a call whose audio goes past the control plane."""
    await calls(tmp_path, ("openai", "webrtc"), BEHAVIOURS)


async def test_local_pairs_in_some_positions(tmp_path: Path) -> None:
    """The offline pairs come to the same ends as those whose adapters they share."""
    for pair, names in ((PAIRS[3], FEW), (PAIRS[4], FEW), (PAIRS[5], FEW_TURNS)):
        await calls(tmp_path / pair[1], pair, names)


@proof([pair for pair in PAIRS if pair[1] == "webrtc"])
async def test_audio_that_finds_no_way_ends_the_session(cell: Cell) -> None:
    """A caller whose packets never reach the provider: where that says so, the session ends with the reason and a hint."""
    media = MediaOptions(connect_seconds=1.0)
    async with (
        cell.installation(declared(cell.pair, repeat), media=media) as here,
        here.talk(target(cell.pair)) as talk,
    ):
        assert isinstance(talk.medium, Direct)
        await talk.medium.offer_only()
        end = await talk.ended()
        assert end["reason"] == "ice_failed"
        assert "UDP" in end["detail"]
