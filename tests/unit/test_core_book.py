"""The bookkeeping of a link, driven through every order of frames, outcomes and lost links."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentfield.errors import LimitExceeded, SessionEnded, Unavailable
from agentfield.link.book import LinkBook
from agentfield.link.effects import OpenHandler, Reject, Send, Settle, Start, Stop, StopHandler
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
from unit.core_plane import invoke, opening


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
def book() -> LinkBook:
    book = LinkBook(max_running=2, max_operations=3)
    book.welcome(Welcome())
    return book


class LinkMachine(RuleBasedStateMachine):
    """A control plane that loses frames in both directions whenever it loses the link."""

    def __init__(self) -> None:
        super().__init__()
        self.book = LinkBook(max_running=1000, max_operations=1000)
        self.wire: list[Any] = []  # what reached the control plane on the link that stands
        self.running: dict[tuple[str, int], Invoke] = {}
        self.started: Counter[tuple[str, int]] = Counter()
        self.asked: dict[str, Call] = {}
        self.settled: Counter[str] = Counter()
        self.stored: set[tuple[str, int]] = set()  # results that the control plane has committed
        self.ended: set[tuple[str, int]] = set()  # runs that came to their end on the node
        self.attempts: Counter[str] = Counter()
        self.number = 0

    def take(self, effects: list[Any]) -> None:
        for effect in effects:
            match effect:
                case Send(frame):
                    self.wire.append(frame)
                case Start(frame):
                    key = (frame.context.execution_id, frame.context.attempt)
                    self.started[key] += 1
                    self.running[key] = frame
                case Stop(execution_id, attempt):
                    self.running.pop((execution_id, attempt))
                case Settle(op_id):
                    self.settled[op_id] += 1

    @precondition(lambda self: not self.book.linked)
    @rule(data=st.data())
    def link(self, data: st.DataObject) -> None:
        report = self.book.report()
        assert {(r.execution_id, r.attempt) for r in report["running"]} == set(self.running)
        reported = {(r.execution_id, r.attempt) for r in report["results"]}
        acknowledged = tuple(sorted({key[0] for key in reported & self.stored if data.draw(st.booleans())}))
        self.wire.clear()
        self.take(self.book.welcome(Welcome(ack=acknowledged)))
        sent = {(f.execution_id, f.attempt) for f in self.wire if isinstance(f, Result)}
        assert sent >= {key for key in reported if key[0] not in acknowledged}
        assert sent <= reported
        again = [f.op_id for f in self.wire if isinstance(f, Call)]
        assert again == [op_id for op_id in self.asked if not self.settled[op_id]]

    @precondition(lambda self: self.book.linked)
    @rule()
    def lose(self) -> None:
        self.book.lost()
        self.wire.clear()

    @precondition(lambda self: self.book.linked)
    @rule(execution_id=st.sampled_from(["a", "b", "c"]), again=st.booleans())
    def invoke(self, execution_id: str, again: bool) -> None:
        attempt = self.attempts[execution_id]
        if attempt == 0 or not again:
            attempt = self.attempts[execution_id] = attempt + 1
        elif (execution_id, attempt) in self.stored:
            return  # the control plane does not dispatch what it has a result of
        self.take(self.book.receive(invoke("f", {}, execution_id=execution_id, attempt=attempt)))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.take(self.book.entered(*key))
        frame = self.running.pop(key)
        self.ended.add(key)
        self.take(self.book.finished(outcome(frame)))

    @rule()
    def store_results(self) -> None:
        self.stored |= {(f.execution_id, f.attempt) for f in self.wire if isinstance(f, Result)}

    @precondition(lambda self: self.book.linked and self.stored)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        execution_id, attempt = data.draw(st.sampled_from(sorted(self.stored)))
        self.take(self.book.receive(ResultAck(execution_id=execution_id, attempt=attempt)))

    @rule()
    def call(self) -> None:
        self.number += 1
        frame = Call(op_id=f"op_{self.number}", target="a.b", input={})
        self.asked[frame.op_id] = frame
        self.take(self.book.ask(frame))

    @precondition(lambda self: self.book.linked and self.asked)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        op_id = data.draw(st.sampled_from(sorted(self.asked)))
        self.take(self.book.receive(CallResult(op_id=op_id)))

    @invariant()
    def nothing_happens_twice(self) -> None:
        assert all(count == 1 for count in self.started.values())
        assert all(count <= 1 for count in self.settled.values())

    @invariant()
    def no_result_is_forgotten_before_it_is_stored(self) -> None:
        kept = {(r.execution_id, r.attempt) for r in self.book.report()["results"]}
        assert self.ended <= kept | self.stored


LinkMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLinkMachine = LinkMachine.TestCase


def test_a_newer_attempt_stops_the_older_one(book: LinkBook) -> None:
    """An attempt that the control plane gave up is stopped, and what it still returns is dropped."""
    old, new = invoke("f", {}, attempt=1), invoke("f", {}, attempt=2)
    book.receive(old)
    assert book.receive(new) == [Stop("exe_1", 1, "superseded"), Start(new)]
    assert book.finished(outcome(old)) == []
    assert book.finished(outcome(new)) == [Send(outcome(new))]


def test_a_duplicate_is_accepted_again_only_once_it_was_entered(book: LinkBook) -> None:
    """`Accepted` means entered, also the second time."""
    frame = invoke("f", {})
    book.receive(frame)
    assert book.receive(frame) == []
    accepted = Send(Accepted(execution_id="exe_1", attempt=1, epoch=1))
    assert book.entered("exe_1", 1) == [accepted]
    assert book.receive(frame) == [accepted]


def test_more_work_than_the_node_may_hold_is_rejected(book: LinkBook) -> None:
    """Beyond the waiting room an invocation is answered with a failure."""
    for n in range(2):
        book.receive(invoke("f", {}, execution_id=f"exe_{n}"))
    extra = invoke("f", {}, execution_id="exe_9")
    assert book.receive(extra) == [Reject(extra)]
    assert book.finished(outcome(extra)) == [Send(outcome(extra))]


def test_cancelling_what_does_not_run_does_nothing(book: LinkBook) -> None:
    """A cancellation that comes too late is no error."""
    assert book.receive(Cancel(execution_id="exe_1")) == []


def test_operations_are_bounded(book: LinkBook) -> None:
    """Calls beyond the bound are refused, and a forgotten one makes room."""
    for n in range(3):
        book.ask(command("say", f"op_{n}"))
    with pytest.raises(LimitExceeded):
        book.ask(command("say", "op_3"))
    book.forget("op_0")
    assert book.ask(command("say", "op_3")) == [Send(command("say", "op_3"))]


def test_the_end_of_a_session_settles_all_but_calls(book: LinkBook) -> None:
    """Waiting commands are answered with the end, calls still get their own answer."""
    book.receive(opening())
    for name in ("input", "say", "call"):
        book.ask(command(name, f"op_{name}"))
    stop, *settled = book.receive(SessionStop(session_id="ses_1", epoch=1, reason="caller_hangup"))
    assert stop == StopHandler("ses_1", 1, "caller_hangup", at_once=False)
    problem = SessionEnded(
        "The session is over: caller_hangup.", reason="caller_hangup", session_id="ses_1"
    ).to_problem()
    assert settled == [Settle("op_input", problem=problem), Settle("op_say", problem=problem)]
    assert book.receive(SessionReply(session_id="ses_1", op_id="op_call", value=1)) == [Settle("op_call", 1)]


def test_a_stop_of_an_older_epoch_is_stale(book: LinkBook) -> None:
    """What is said about a former run of the handler does not touch the present one."""
    book.receive(opening(epoch=2))
    assert book.receive(SessionStop(session_id="ses_1", epoch=1, reason="node_lost")) == []


def test_a_handler_that_runs_elsewhere_is_stopped_at_once(book: LinkBook) -> None:
    """A stop for the reason `superseded` leaves no time after the call."""
    book.receive(opening())
    stop = book.receive(SessionStop(session_id="ses_1", epoch=1, reason="superseded"))
    assert stop == [StopHandler("ses_1", 1, "superseded", at_once=True)]


@pytest.mark.parametrize(
    "news",
    [
        SessionReply(session_id="ses_1", op_id="op_done_1"),
        opening(epoch=2),
        SessionStop(session_id="ses_1", epoch=1, reason="x"),
    ],
)
def test_done_is_sent_again_until_the_control_plane_shows_it_knows(book: LinkBook, news: Any) -> None:
    """An answer, a newer opening or the end of the session settle that a handler is done."""
    book.receive(opening())
    book.lost()
    assert book.handler_done(done()) == []
    assert book.welcome(Welcome()) == [Send(done())]
    assert book.receive(opening()) == [Send(done())], "a duplicate of the opening is answered, not run"
    book.receive(news)
    book.lost()
    assert book.welcome(Welcome()) == []


def test_an_older_or_equal_opening_does_not_run(book: LinkBook) -> None:
    """A handler runs once per epoch, and never one of an older epoch."""
    assert book.receive(opening(epoch=2)) == [OpenHandler(opening(epoch=2))]
    assert book.receive(opening(epoch=2)) == []
    assert book.receive(opening(epoch=1)) == []


def test_a_wait_for_a_turn_ends_with_its_handler(book: LinkBook) -> None:
    """A turn for a handler that returned is not waited for any longer."""
    book.receive(opening())
    book.ask(command("input", "op_1"))
    book.handler_done(done())
    assert book.receive(TurnDelivered(session_id="ses_1", op_id="op_1", turn={"id": "exe"})) == []


def test_a_frame_that_does_not_belong_is_refused(book: LinkBook) -> None:
    """A greeting in the middle of a link is an error."""
    with pytest.raises(Unavailable, match="challenge"):
        book.receive(Challenge(nonce="n"))


def test_a_run_is_held_until_its_result_is_acknowledged(book: LinkBook) -> None:
    """A node may stop when its results are acknowledged."""
    frame = invoke("f", {})
    held = [book.held]
    book.receive(frame)
    held.append(book.held)
    book.finished(outcome(frame))
    held.append(book.held)
    book.receive(ResultAck(execution_id="exe_1", attempt=1))
    held.append(book.held)
    assert held == [0, 1, 1, 0]
