"""Calls on direct media through sessions, store, engine and node link, as handler, page and operator see them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentfield.errors import (
    Conflict,
    NotFound,
    ProviderError,
    ProviderUnavailable,
    SessionEnded,
)
from agentfield.identity import NodeKey
from agentfield.realtime.commands import ReplyCommand, ToolResultCommand
from agentfield.realtime.events import (
    ReplyEnded,
    ReplyStarted,
    SessionClosed,
    SessionReady,
    ToolRequested,
)
from agentfield.testing.scripted.adapters import ANSWER_SDP
from support.server.sessions import Adapter, Plane, Provider, ScriptedNode, plane
from support.waiting import until, until_async


@pytest.fixture
def adapter() -> Adapter:
    return Adapter()


@pytest.fixture
async def here(tmp_path: Path, adapter: Adapter) -> AsyncIterator[Plane]:
    async with plane(tmp_path, adapter) as made:
        yield made


def make_node(here: Plane, **declared: Any) -> ScriptedNode:
    node = ScriptedNode(NodeKey.generate(), here.url, **declared)
    node.functions["look"] = lambda given: {"found": given}
    return node


@pytest.fixture
async def node(here: Plane) -> AsyncIterator[ScriptedNode]:
    made = await make_node(here).link()
    yield made
    await made.drop()


async def live(here: Plane, adapter: Adapter, **fields: Any) -> tuple[str, Provider]:
    """Start a session and connect its caller."""
    session_id = await here.start(**fields)
    await here.sessions.offer(session_id, "offer")
    await here.state(session_id, "live")
    await until_async(lambda: here.recorded(session_id, "handler.started"))
    return session_id, list(adapter.calls.values())[-1]


async def test_a_turn_from_end_to_end(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """Input, call, say: session, turn and call are under their parents, and the events are recorded in order."""
    session_id, provider = await live(here, adapter)
    opened = await node.opened(1)
    assert (opened.caller, opened.resumed, opened.context.session_id) == ("ann", False, session_id)
    provider.caller_says("where is order 427")
    turn = await node.turn()
    assert turn["text"] == "where is order 427"
    answer = await node.answer(await node.command("call", target="shop.look", input={"order": 427}))
    assert answer.value == {"found": {"order": 427}}
    say = await node.command("say", text="It is on its way.")
    await provider.speaks()
    spoken = (await node.answer(say)).value
    assert (spoken["verbatim"], spoken["heard_text"], spoken["failed"]) == (True, "It is on its way.", None)
    await node.done()
    await node.opened(2)
    await here.sessions.end(session_id, "operator")

    root, turn_row, call = await here.executions(session_id)
    assert [(x.kind, x.status) for x in (root, turn_row, call)] == [
        ("session", "succeeded"),
        ("turn", "succeeded"),
        ("call", "succeeded"),
    ]
    assert (turn_row.id, turn_row.parent_id, call.parent_id) == (turn["id"], root.id, turn["id"])
    assert node.invoked[0].context.session_id == session_id
    kinds = [event.type for event in await here.events(session_id)]
    wanted = [
        "session.created",
        "provider.attached",
        "handler.started",
        "turn.committed",
        "speech.started",
        "speech.ended",
    ]
    assert [kind for kind in kinds if kind in wanted] == [*wanted, "handler.started"]
    assert kinds[-1] == "session.state"
    assert [body["state"] for body in await here.recorded(session_id, "session.state")] == [
        "connecting",
        "live",
        "ending",
        "ended",
    ]
    row = await here.row(session_id)
    assert (row.end_reason, row.turns, row.handler_epoch) == ("operator", 1, 2)
    assert adapter.hung_up == ["call1"]
    assert (await node.stopped()).reason == "operator"


async def test_model_tools_run_under_the_turn(here: Plane, adapter: Adapter) -> None:
    """On the model floor a listed tool runs on its node under the turn, an unlisted one never does."""
    node = await make_node(here, floor="model", tools=("shop.look",)).link()
    session_id, provider = await live(here, adapter)
    provider.caller_says("look it up")
    provider.tell(ReplyStarted(reply="r1"))
    provider.tell(ToolRequested(call_id="c1", name="shop.look", arguments='{"a":1}', reply="r1"))
    provider.tell(ToolRequested(call_id="c2", name="shop.steal", arguments="{}", reply="r1"))
    provider.tell(ReplyEnded(reply="r1", tools=2))
    await provider.asked(ToolResultCommand, 2)
    outputs = {c.call_id: c.output for c in provider.sent if isinstance(c, ToolResultCommand)}
    assert outputs["c1"] == '{"found":{"a":1}}'
    assert "not_listed" in outputs["c2"]
    await provider.asked(ReplyCommand)
    tools = [x for x in await here.executions(session_id) if x.kind == "tool"]
    turn = next(x for x in await here.executions(session_id) if x.kind == "turn")
    assert [(x.target, x.parent_id, x.status) for x in tools] == [("shop.look", turn.id, "succeeded")]
    assert [body["why"] for body in await here.recorded(session_id, "tool.refused")] == ["not_listed"]
    assert len(node.invoked) == 1
    await node.drop()


async def test_call_of_an_unknown_target_raises_in_the_handler(
    here: Plane, node: ScriptedNode, adapter: Adapter
) -> None:
    """A call of an unknown target raises in the handler with the engine's error; the session continues."""
    session_id, _ = await live(here, adapter)
    await node.opened(1)
    answer = await node.answer(await node.command("call", target="shop.nothing", input={}))
    assert answer.problem["code"] == "unknown_target"
    assert (await here.row(session_id)).state == "live"


async def test_bad_commands_are_refused(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """Commands with bad arguments and commands of a stale handler run are refused."""
    await live(here, adapter)
    await node.opened(1)
    assert (await node.answer(await node.command("say"))).problem["code"] == "invalid_input"
    assert (await node.answer(await node.command("call", target="x", input=[1]))).problem["code"] == "invalid_input"
    node.epoch = 7
    for command in ("input", "listen", "set_state"):
        assert (await node.answer(await node.command(command))).problem["code"] == "stale_handler"


async def test_state_and_events_of_a_handler(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """A handler's state is stored, and it receives the session's events once it listens."""
    session_id, provider = await live(here, adapter)
    await node.opened(1)
    await node.answer(await node.command("set_state", state={"step": 2}))
    await node.answer(await node.command("listen"))
    provider.caller_says("hello")
    await until(lambda: [event for event in node.events() if event["type"] == "turn.transcript"])
    assert (await here.row(session_id)).handler_state == {"step": 2}


async def test_live_events_reach_pages(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """Live events are published as they occur, with the speech they belong to."""
    session_id, provider = await live(here, adapter)
    await node.opened(1)
    with here.bus.subscribe(f"live:{session_id}") as live_events:
        await node.command("say", text="hello")
        await provider.speaks()
        async with asyncio.timeout(60):
            body: Any = await anext(live_events)
    assert body["type"] == "reply.started"
    assert body["speech_id"].startswith("spk_")


async def test_typed_text(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """Typed text is a turn while the call is live, and refused before and after."""
    session_id = await here.start()
    with pytest.raises(Conflict, match="text can be typed once the call is live"):
        await here.sessions.input_text(session_id, "too early")
    await here.sessions.offer(session_id, "offer")
    await here.state(session_id, "live")
    await here.sessions.input_text(session_id, "hello")
    assert [body["text"] for body in await here.recorded(session_id, "turn.committed")] == ["hello"]
    await here.sessions.end(session_id, "operator")
    with pytest.raises(SessionEnded):
        await here.sessions.input_text(session_id, "too late")


# --- offers


async def test_an_offer_commits_the_call_reference_before_it_attaches(
    here: Plane, node: ScriptedNode, adapter: Adapter
) -> None:
    """A call that cannot be attached was stored, is hung up and refused; the caller may send another offer."""
    session_id = await here.start()
    adapter.refuse_attach = ProviderUnavailable("no sideband")
    with pytest.raises(ProviderUnavailable, match="no sideband"):
        await here.sessions.offer(session_id, "offer")
    assert adapter.hung_up == ["call1"]
    assert (await here.row(session_id)).call_ref == {"call_id": "call1", "credential": "key-1"}
    adapter.refuse_attach = None
    assert await here.sessions.offer(session_id, "again") == ANSWER_SDP
    await here.state(session_id, "live")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (ANSWER_SDP.replace("s=scripted", "s=key-canary-7"), "it holds a secret of the control plane"),
        (ANSWER_SDP.replace("m=audio", "m=video"), "it must have one audio section"),
        (ANSWER_SDP.replace("sha-256", "md5"), "it has no sha-256 fingerprint"),
        (ANSWER_SDP + "a=candidate:1 1 udp 1 internal.example 80 typ host\r\n", "a candidate's address is neither"),
        (ANSWER_SDP + "a=x:\x1b[2J\r\n", "it has a line that is not an SDP line"),
        ("<html>key-canary-7</html>", "it holds a secret"),
        ("v=0\r\n" + "a=x\r\n" * 20_000, "it is larger than 65536 bytes"),
    ],
)
async def test_an_answer_passes_the_gate_of_offers_and_holds_no_key(
    here: Plane, node: ScriptedNode, adapter: Adapter, answer: str, why: str
) -> None:
    """A provider's answer that no caller may get is refused, its call is hung up, and the next offer works."""
    session_id = await here.start()
    adapter.answer = answer
    with pytest.raises(ProviderError, match="The SDP answer of the provider is refused: " + re.escape(why)) as caught:
        await here.sessions.offer(session_id, "offer")
    assert caught.value.data["provider_code"] == "invalid_answer"
    assert "canary" not in str(caught.value.to_problem())
    assert adapter.hung_up == ["call1"]
    adapter.answer = ""
    assert await here.sessions.offer(session_id, "again") == ANSWER_SDP


@pytest.mark.parametrize(
    ("status", "code", "final"),
    [(400, "invalid_value", False), (429, "rate_limit_exceeded", False), (401, "invalid_api_key", True)],
)
async def test_provider_refuses_the_offer(
    here: Plane, node: ScriptedNode, adapter: Adapter, status: int, code: str, final: bool
) -> None:
    """A refusal reaches the caller and is recorded; the session waits for another offer, or ends if it is final."""
    session_id = await here.start()
    adapter.refuse = ProviderError("no", provider_code=code, provider_status=status)
    with pytest.raises(ProviderError, match="no"):
        await here.sessions.offer(session_id, "offer")
    refused = await until_async(lambda: here.recorded(session_id, "provider.refused"))
    assert refused == [{"code": code, "message": "no", "final": final}]
    if final:
        await here.state(session_id, "ended")
    row = await here.row(session_id)
    told = ("ended", "provider_error", f"{code}: no") if final else ("created", None, None)
    assert (row.state, row.end_reason, row.end_detail) == told


async def test_an_account_without_credit_is_final(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """A refusal with a retryable status ends the session if its code is final."""
    session_id = await here.start()
    adapter.refuse = ProviderError("no", provider_code="broke", provider_status=429, provider_final=True)
    with pytest.raises(ProviderError, match="no"):
        await here.sessions.offer(session_id, "offer")
    await here.state(session_id, "ended")
    assert (await here.row(session_id)).end_detail == "broke: no"


async def test_second_offer_ends_the_first_call(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """A second offer hangs up the first call at the provider; session and handler continue."""
    session_id, first = await live(here, adapter)
    await node.opened(1)
    await here.sessions.offer(session_id, "second")
    await until_async(lambda: has_states(here, session_id, ["connecting", "live", "connecting", "live"]))
    assert adapter.hung_up == ["call1"]
    assert first.closed
    second = adapter.calls["call2"]
    first.caller_says("a voice from the past")
    second.caller_says("hello again")
    assert (await node.turn())["text"] == "hello again"


async def has_states(here: Plane, session_id: str, states: list[str]) -> bool:
    return [body["state"] for body in await here.recorded(session_id, "session.state")] == states


async def test_another_model_ends_the_call(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """A call with another model than declared is hung up; the session's end names both."""
    adapter.ready = SessionReady(model="m-2", voice="v-1")
    session_id = await here.start()
    await here.sessions.offer(session_id, "offer")
    row = await here.state(session_id, "ended")
    assert (row.end_reason, row.live_at) == ("mismatch", None)
    assert "'m-1'" in row.end_detail
    assert "'m-2'" in row.end_detail
    assert adapter.hung_up == ["call1"]
    with pytest.raises(SessionEnded):
        await here.sessions.offer(session_id, "again")


async def test_never_connected(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """A session without a call ends after its timeout."""
    session_id = await here.start()
    here.clock.advance(601)
    assert (await here.state(session_id, "ended")).end_reason == "never_connected"


# --- ends


async def test_a_closed_page_is_a_hangup(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """The call is hung up ten seconds after the last event stream of the page closed."""
    session_id, _ = await live(here, adapter)
    with here.sessions.caller_attached(session_id):
        with here.sessions.caller_attached(session_id):
            pass
        here.clock.advance(11)
        await here.sessions.input_text(session_id, "still here")
    await here.sessions.input_text(session_id, "and here")
    here.clock.advance(11)
    assert (await here.state(session_id, "ended")).end_reason == "caller_hangup"
    assert adapter.hung_up == ["call1"]


async def test_provider_ends_the_call(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """When the provider closes the call, the session ends with its reason and the waiting handler gets it."""
    session_id, provider = await live(here, adapter)
    await node.opened(1)
    op_id = await node.command("input")
    provider.tell(SessionClosed(reason="provider_expired"))
    assert (await node.answer(op_id)).problem["code"] == "session_ended"
    assert (await here.state(session_id, "ended")).end_reason == "provider_expired"


async def test_a_handler_may_call_after_the_end(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """For 60 s after the end a handler may still call; then its commands are refused."""
    session_id, _ = await live(here, adapter)
    await node.opened(1)
    await here.sessions.end(session_id, "operator")
    answer = await node.answer(await node.command("call", target="shop.look", input={}))
    assert answer.value == {"found": {}}
    here.clock.advance(61)

    async def refused() -> bool:
        late = await node.answer(await node.command("call", target="shop.look", input={}))
        return bool(late.problem and late.problem["code"] == "session_ended")

    await until_async(refused)


async def test_handler_that_takes_no_turn(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """A handler that returns without taking a turn ends the session with a hint."""
    session_id, _ = await live(here, adapter)
    await node.opened(1)
    await node.done()
    row = await here.state(session_id, "ended")
    assert row.end_reason == "handler_failed"
    assert "session.input()" in row.end_detail
    root = (await here.executions(session_id))[0]
    assert (root.status, dict(root.problem or {})["code"]) == ("failed", "handler_failed")


async def test_handler_raises(here: Plane, node: ScriptedNode, adapter: Adapter) -> None:
    """An exception fails its turn, and the handler runs again for the next one."""
    session_id, provider = await live(here, adapter)
    await node.opened(1)
    provider.caller_says("one")
    turn = await node.turn()
    await node.done({"code": "handler_error", "detail": "ValueError: boom"})
    await node.opened(2)
    failed = next(x for x in await here.executions(session_id) if x.id == turn["id"])
    assert failed.status == "failed"
    assert await here.recorded(session_id, "handler.failed") == [{"message": "ValueError: boom"}]


async def test_ending_twice_and_unknown_sessions(here: Plane, node: ScriptedNode) -> None:
    """Ending is idempotent; an unknown session is not found."""
    session_id = await here.start()
    await here.sessions.end(session_id, "operator")
    await here.sessions.end(session_id, "operator")
    for work in (here.sessions.end("ses_x", "operator"), here.sessions.offer("ses_x", "o")):
        with pytest.raises(NotFound):
            await work
