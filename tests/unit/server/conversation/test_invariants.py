"""Invariants of the machine under random events, commands, repetitions and pauses."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentfield.realtime import events
from agentfield.realtime.commands import AddTextCommand, CancelReplyCommand, ToolResultCommand
from agentfield_server.sessions.conversation.effects import (
    CloseRootExecution,
    CloseTurn,
    OpenTurn,
    RecordEvent,
    RejectOp,
    ReleaseMachine,
    ResolveCall,
    ResolveInput,
    ResolveOp,
    ResolveReply,
    ResolveSpeech,
    Rotate,
    RunTool,
    SendCommand,
)
from agentfield_server.sessions.conversation.inputs import (
    EndSession,
)
from support.server.machine import SimulatedCall
from support.server.random_call import STEPS, RandomCall

ANSWERS = (ResolveInput, ResolveSpeech, ResolveReply, ResolveCall, ResolveOp, RejectOp)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    floor=st.sampled_from(["handler", "model"]),
    drift=st.sampled_from(["enforce", "allow"]),
    media=st.sampled_from(["direct", "bridged", "turns"]),
    patience=st.sampled_from([0, 400]),
    expires_in=st.none() | st.sampled_from([62.0, 90.0]),
    steps=st.lists(STEPS, min_size=30, max_size=80),
)
def test_rules_hold_for_any_order_of_inputs(
    floor: str, drift: str, media: str, patience: int, expires_in: float | None, steps: list[tuple[str, Any]]
) -> None:
    """No order of inputs breaks a rule: each command answered once, one reply at a time, each turn once, one end."""
    world = RandomCall(floor, drift, media, patience, expires_in)
    for kind, value in steps:
        world.step(kind, value)
        assert not (
            world.call.machine.speech.sent and world.call.machine.speech.sent is world.call.machine.speech.active
        )
    call = world.call
    call.feed(EndSession(reason="operator"), EndSession(reason="operator"))
    call.wait(200)

    assert len(call.all(CloseRootExecution)) == 1
    assert len(call.all(ReleaseMachine)) == 1
    assert call.machine.next_deadline() is None
    answers = Counter(effect.op_id for effect in call.effects if isinstance(effect, ANSWERS))
    assert answers == Counter({command.op_id: 1 for command in world.asked})
    check_turns(call)
    check_tools(world)
    check_slot(call)
    check_rotation(call)
    check_usage(call)


def check_rotation(call: SimulatedCall) -> None:
    """No command is sent between a rotation and the new session's echo; the history is sent first."""
    if call.machine.state.media == "direct":
        assert call.all(Rotate) == []
        return
    away = fresh = over = False
    said = 0
    for effect in call.effects:
        match effect:
            case CloseRootExecution():
                over = True
            case Rotate():
                assert not over
                away = True
            case RecordEvent(type="provider.attached"):
                away, fresh = False, away
            case RecordEvent(type="turn.committed"):
                said += bool(effect.body["text"])
            case SendCommand():
                assert not away
                assert not over
                assert not fresh or not said or isinstance(effect.command, AddTextCommand)
                fresh = False


def check_usage(call: SimulatedCall) -> None:
    """The total at the end is the sum of the usage events, recorded once."""
    used = call.recorded("usage")
    total = call.recorded("session.usage")
    assert len(total) == bool(used)
    costs = [body["cost"] for body in used if body["cost"] is not None]
    for body in total:
        assert body["cost"] == (round(sum(costs), 12) if costs else None)
        assert body["unpriced"] == len(used) - len(costs)
    assert sum(body["code"] == "rate_limit_low" for body in call.recorded("warning")) <= 1


def check_turns(call: SimulatedCall) -> None:
    opened = [effect.turn_id for effect in call.all(OpenTurn)]
    assert len(opened) == len(set(opened)) <= 6
    assert Counter(opened) == Counter(effect.turn_id for effect in call.all(CloseTurn))
    delivered = [(effect.turn.id, effect.turn.attempt) for effect in call.all(ResolveInput)]
    assert len(delivered) == len(set(delivered))
    firsts = [opened.index(turn_id) for turn_id, attempt in delivered if attempt == 1]
    if call.machine.state.model_floor:
        return
    assert firsts == sorted(firsts)


def check_tools(world: RandomCall) -> None:
    runs = [run for run in world.call.all(RunTool) if run.kind == "tool"]
    assert all(run.target != "shop.secret" for run in runs)
    assert len({run.call_id for run in runs}) == len(runs)
    asked = Counter(world.requested)
    answered = Counter(command.call_id for command in world.call.sent(ToolResultCommand))
    assert all(count <= asked[call_id] for call_id, count in answered.items())


def check_slot(call: SimulatedCall) -> None:
    """Each speech begins and ends once, and at most one waits to be sent again."""
    started = [body["speech_id"] for body in call.recorded("speech.started")]
    ended = Counter(body["speech_id"] for body in call.recorded("speech.ended"))
    assert len(started) == len(set(started))
    assert all(count == 1 for count in ended.values())
    assert set(started) <= set(ended)
    under_way: set[str] = set()
    for effect in call.effects:
        body = getattr(effect, "body", {})
        match getattr(effect, "type", None):
            case "speech.started":
                under_way.add(body["speech_id"])
            case "speech.ended":
                under_way.discard(body["speech_id"])
        assert len(under_way) <= 2  # one in the slot, and at most one that lost the race for it and will be sent again
    assert all(command.reply for command in call.sent(CancelReplyCommand))
    stopped = Counter(command.reply for command in call.sent(CancelReplyCommand))
    assert all(count == 1 for reply, count in stopped.items() if reply.startswith("h"))


@settings(max_examples=100, deadline=None)
@given(
    st.permutations(range(5)),
    st.permutations(range(5)),
    st.lists(st.sampled_from([0.0, 0.2]), min_size=10, max_size=10),
)
def test_turns_come_in_item_order(commits: list[int], words: list[int], pauses: list[float]) -> None:
    """Turns are given to the handler in the order of their items, in whatever order commits and transcripts arrive."""
    call = SimulatedCall().live()
    for _ in range(5):
        call.input()
    for n in range(5):
        call.feed(events.TurnStarted(item=f"i{n}"))
    for n in commits:
        call.feed(events.TurnCommitted(item=f"i{n}", previous=f"i{n - 1}" if n else None))
        call.wait(pauses[n])
    for n in words:
        call.feed(events.TurnTranscript(item=f"i{n}", text=f"t{n}"))
        call.wait(pauses[5 + n])
    assert [effect.turn.text for effect in call.all(ResolveInput)] == [f"t{n}" for n in range(5)]
