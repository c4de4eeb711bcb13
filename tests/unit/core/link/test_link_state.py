"""`LinkState`, driven through random orders of frames, outcomes and lost links."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentfield.errors import LimitExceeded, SessionEnded, Unavailable
from agentfield.link.effects import (
    OpenHandler,
    RejectAttempt,
    ResolveOperation,
    Send,
    StartAttempt,
    StopAttempt,
    StopHandler,
)
from agentfield.link.state import LinkState
from agentfield.wire.frames import (
    Accepted,
    Call,
    CallResult,
    Cancel,
    Challenge,
    Invoke,
    Result,
    ResultAck,
    SessionCommand,
    SessionDone,
    SessionReply,
    SessionStop,
    TurnDelivered,
    Welcome,
)
from support.core.control_plane import invoke, opening


def outcome(frame: Invoke) -> Result:
    return Result(
        execution_id=frame.context.execution_id,
        attempt=frame.context.attempt,
        epoch=frame.epoch,
        status="succeeded",
        input_digest="u",
        signature="s",
    )


def command(name: Any, op_id: str, *, epoch: int = 1) -> SessionCommand:
    return SessionCommand(op_id=op_id, session_id="ses_1", epoch=epoch, command=name)


def done(epoch: int = 1) -> SessionDone:
    return SessionDone(op_id=f"op_done_{epoch}", session_id="ses_1", epoch=epoch)


@pytest.fixture
def state() -> LinkState:
    state = LinkState(max_running=2, max_operations=3)
    state.link_opened(Welcome())
    return state


class LinkMachine(RuleBasedStateMachine):
    """A control plane that loses frames in both directions whenever it loses the link."""

    def __init__(self) -> None:
        super().__init__()
        self.state = LinkState(max_running=1000, max_operations=1000)
        self.wire: list[Any] = []  # frames that the control plane received on the current link
        self.running: dict[tuple[str, int], Invoke] = {}
        self.started: Counter[tuple[str, int]] = Counter()
        self.asked: dict[str, Call] = {}
        self.settled: Counter[str] = Counter()
        self.stored: set[tuple[str, int]] = set()  # results that the control plane has committed
        self.ended: set[tuple[str, int]] = set()  # attempts that finished on the node
        self.attempts: Counter[str] = Counter()
        self.number = 0

    def take(self, effects: list[Any]) -> None:
        for effect in effects:
            match effect:
                case Send(frame):
                    self.wire.append(frame)
                case StartAttempt(frame):
                    key = (frame.context.execution_id, frame.context.attempt)
                    self.started[key] += 1
                    self.running[key] = frame
                case StopAttempt(execution_id, attempt):
                    self.running.pop((execution_id, attempt))
                case ResolveOperation(op_id):
                    self.settled[op_id] += 1

    @precondition(lambda self: not self.state.linked)
    @rule(data=st.data())
    def link(self, data: st.DataObject) -> None:
        hello_fields = self.state.hello_fields()
        assert {(r.execution_id, r.attempt) for r in hello_fields["running"]} == set(self.running)
        reported = {(r.execution_id, r.attempt) for r in hello_fields["results"]}
        acknowledged = tuple(sorted({key[0] for key in reported & self.stored if data.draw(st.booleans())}))
        self.wire.clear()
        self.take(self.state.link_opened(Welcome(ack=acknowledged)))
        sent = {(f.execution_id, f.attempt) for f in self.wire if isinstance(f, Result)}
        assert sent >= {key for key in reported if key[0] not in acknowledged}
        assert sent <= reported
        again = [f.op_id for f in self.wire if isinstance(f, Call)]
        assert again == [op_id for op_id in self.asked if not self.settled[op_id]]

    @precondition(lambda self: self.state.linked)
    @rule()
    def lose(self) -> None:
        self.state.link_lost()
        self.wire.clear()

    @precondition(lambda self: self.state.linked)
    @rule(execution_id=st.sampled_from(["a", "b", "c"]), again=st.booleans())
    def invoke(self, execution_id: str, again: bool) -> None:
        attempt = self.attempts[execution_id]
        if attempt == 0 or not again:
            attempt = self.attempts[execution_id] = attempt + 1
        elif (execution_id, attempt) in self.stored:
            return  # the control plane does not dispatch an execution whose result it has
        self.take(self.state.receive_frame(invoke("f", {}, execution_id=execution_id, attempt=attempt)))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.take(self.state.attempt_started(*key))
        frame = self.running.pop(key)
        self.ended.add(key)
        self.take(self.state.attempt_finished(outcome(frame)))

    @rule()
    def store_results(self) -> None:
        self.stored |= {(f.execution_id, f.attempt) for f in self.wire if isinstance(f, Result)}

    @precondition(lambda self: self.state.linked and self.stored)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        execution_id, attempt = data.draw(st.sampled_from(sorted(self.stored)))
        self.take(self.state.receive_frame(ResultAck(execution_id=execution_id, attempt=attempt)))

    @rule()
    def call(self) -> None:
        self.number += 1
        frame = Call(op_id=f"op_{self.number}", target="a.b", input={})
        self.asked[frame.op_id] = frame
        self.take(self.state.send_operation(frame))

    @precondition(lambda self: self.state.linked and self.asked)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        op_id = data.draw(st.sampled_from(sorted(self.asked)))
        self.take(self.state.receive_frame(CallResult(op_id=op_id)))

    @invariant()
    def nothing_happens_twice(self) -> None:
        assert all(count == 1 for count in self.started.values())
        assert all(count <= 1 for count in self.settled.values())

    @invariant()
    def no_result_is_forgotten_before_it_is_stored(self) -> None:
        kept = {(r.execution_id, r.attempt) for r in self.state.hello_fields()["results"]}
        assert self.ended <= kept | self.stored


LinkMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLinkMachine = LinkMachine.TestCase


def test_a_newer_attempt_stops_the_older_one(state: LinkState) -> None:
    """A newer attempt stops the older one, whose result is dropped."""
    old, new = invoke("f", {}, attempt=1), invoke("f", {}, attempt=2)
    state.receive_frame(old)
    assert state.receive_frame(new) == [StopAttempt("exe_1", 1, "superseded"), StartAttempt(new)]
    assert state.attempt_finished(outcome(old)) == []
    assert state.attempt_finished(outcome(new)) == [Send(outcome(new))]


def test_a_duplicate_is_accepted_only_if_the_function_was_entered(state: LinkState) -> None:
    """`Accepted` means that the function was entered, also in answer to a duplicate."""
    frame = invoke("f", {})
    state.receive_frame(frame)
    assert state.receive_frame(frame) == []
    accepted = Send(Accepted(execution_id="exe_1", attempt=1, epoch=1))
    assert state.attempt_started("exe_1", 1) == [accepted]
    assert state.receive_frame(frame) == [accepted]


def test_attempts_beyond_the_limit_are_rejected(state: LinkState) -> None:
    """An `Invoke` beyond `max_running` is answered with a failure."""
    for n in range(2):
        state.receive_frame(invoke("f", {}, execution_id=f"exe_{n}"))
    extra = invoke("f", {}, execution_id="exe_9")
    assert state.receive_frame(extra) == [RejectAttempt(extra)]
    assert state.attempt_finished(outcome(extra)) == [Send(outcome(extra))]


def test_cancelling_an_unknown_execution_does_nothing(state: LinkState) -> None:
    """A late cancellation is not an error."""
    assert state.receive_frame(Cancel(execution_id="exe_1")) == []


def test_operations_are_bounded(state: LinkState) -> None:
    """Calls beyond `max_operations` are refused, and forgetting one allows another."""
    for n in range(3):
        state.send_operation(command("say", f"op_{n}"))
    with pytest.raises(LimitExceeded):
        state.send_operation(command("say", "op_3"))
    state.forget_operation("op_0")
    assert state.send_operation(command("say", "op_3")) == [Send(command("say", "op_3"))]


def test_the_end_of_a_session_resolves_all_commands_but_calls(state: LinkState) -> None:
    """Unanswered commands fail with `SessionEnded`; calls still get their own answer."""
    state.receive_frame(opening())
    for name in ("input", "say", "call"):
        state.send_operation(command(name, f"op_{name}"))
    stop, *settled = state.receive_frame(SessionStop(session_id="ses_1", epoch=1, reason="caller_hangup"))
    assert stop == StopHandler("ses_1", 1, "caller_hangup", at_once=False)
    problem = SessionEnded(
        "The session is over: caller_hangup.", reason="caller_hangup", session_id="ses_1"
    ).to_problem()
    assert settled == [ResolveOperation("op_input", problem=problem), ResolveOperation("op_say", problem=problem)]
    assert state.receive_frame(SessionReply(session_id="ses_1", op_id="op_call", value=1)) == [
        ResolveOperation("op_call", 1)
    ]


def test_a_stop_of_an_older_epoch_is_ignored(state: LinkState) -> None:
    """A `SessionStop` for an earlier handler run does not stop the current one."""
    state.receive_frame(opening(epoch=2))
    assert state.receive_frame(SessionStop(session_id="ses_1", epoch=1, reason="node_lost")) == []


def test_a_superseded_handler_is_stopped_at_once(state: LinkState) -> None:
    """A stop with the reason `superseded` gives no grace period."""
    state.receive_frame(opening())
    stop = state.receive_frame(SessionStop(session_id="ses_1", epoch=1, reason="superseded"))
    assert stop == [StopHandler("ses_1", 1, "superseded", at_once=True)]


@pytest.mark.parametrize(
    "news",
    [
        SessionReply(session_id="ses_1", op_id="op_done_1"),
        opening(epoch=2),
        SessionStop(session_id="ses_1", epoch=1, reason="x"),
    ],
)
def test_session_done_is_sent_again_until_it_is_known(state: LinkState, news: Any) -> None:
    """`SessionDone` is repeated until an answer, a newer opening or the end of the session confirms it."""
    state.receive_frame(opening())
    state.link_lost()
    assert state.handler_finished(done()) == []
    assert state.link_opened(Welcome()) == [Send(done())]
    assert state.receive_frame(opening()) == [Send(done())], "a duplicate of the opening is answered, not run"
    state.receive_frame(news)
    state.link_lost()
    assert state.link_opened(Welcome()) == []


def test_an_older_or_equal_opening_does_not_run(state: LinkState) -> None:
    """A handler runs once per epoch, and never for an older epoch."""
    assert state.receive_frame(opening(epoch=2)) == [OpenHandler(opening(epoch=2))]
    assert state.receive_frame(opening(epoch=2)) == []
    assert state.receive_frame(opening(epoch=1)) == []


def test_a_pending_input_is_dropped_with_its_handler(state: LinkState) -> None:
    """A turn for a handler that returned resolves nothing."""
    state.receive_frame(opening())
    state.send_operation(command("input", "op_1"))
    state.handler_finished(done())
    assert state.receive_frame(TurnDelivered(session_id="ses_1", op_id="op_1", turn={"id": "exe"})) == []


def test_a_handshake_frame_after_the_handshake_is_refused(state: LinkState) -> None:
    """A `Challenge` after the handshake is an error."""
    with pytest.raises(Unavailable, match="challenge"):
        state.receive_frame(Challenge(nonce="n"))


def test_an_attempt_is_outstanding_until_its_result_is_acknowledged(state: LinkState) -> None:
    """`outstanding` counts an attempt until its result is acknowledged, so that a node can drain."""
    frame = invoke("f", {})
    outstanding = [state.outstanding]
    state.receive_frame(frame)
    outstanding.append(state.outstanding)
    state.attempt_finished(outcome(frame))
    outstanding.append(state.outstanding)
    state.receive_frame(ResultAck(execution_id="exe_1", attempt=1))
    outstanding.append(state.outstanding)
    assert outstanding == [0, 1, 1, 0]
