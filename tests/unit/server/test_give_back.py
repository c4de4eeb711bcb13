"""Work that a blocked node gives back, through every order of frames on two connections and of lost links.

The node's end is `LinkState` with its `EntryGate`, the control plane's end is `LinkedNode`; the model carries frames between
them and keeps the leases as `LeaseManager` does.
"""

from __future__ import annotations

from collections import deque
from typing import Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentfield.ids import new_id
from agentfield.link.effects import Send, StartAttempt, StopAttempt
from agentfield.link.entry_gate import EntryGate
from agentfield.link.state import LinkState
from agentfield.wire.frames import (
    Accepted,
    ExecutionContext,
    GiveBack,
    Hello,
    Invoke,
    Result,
    ResultAck,
    Welcome,
    decode_server_frame,
    encode_frame,
)
from agentfield_server.nodes.linked_node import AssignedAttempt, LinkedNode

Key = tuple[str, int]


class GiveBackMachine(RuleBasedStateMachine):
    """One instance; executions that it gives back run elsewhere, which the model only counts."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = EntryGate()
        self.node = LinkState(gate=self.gate)
        self.link: LinkedNode | None = None
        self.up: deque[Any] = deque()  # frames of the node on its link
        self.watch: deque[GiveBack] = deque()  # frames of its watchdog
        self.leases: dict[str, list[Any]] = {}  # by execution: attempt, and whether its entry is known
        self.waiting: set[Key] = set()
        self.entered: set[Key] = set()
        self.unfinished: set[Key] = set()
        self.elsewhere: set[Key] = set()
        self.count = 0

    @initialize()
    def begins_linked(self) -> None:
        self.links()
        self.node_reads()

    # --- the control plane

    def assign(self, execution_id: str, attempt: int, *, sent: bool) -> AssignedAttempt:
        assert self.link is not None
        held = AssignedAttempt(execution_id, "run_1", None, None, "f", None, attempt=attempt, sent=sent)
        self.link.assigned[execution_id] = held
        return held

    def queue(self, frame: Any) -> None:
        assert self.link is not None
        self.link._outbox.put_nowait(frame if isinstance(frame, str) else encode_frame(frame))

    def invocation(self, execution_id: str) -> Invoke:
        attempt = self.leases[execution_id][0]
        context = ExecutionContext(execution_id=execution_id, run_id="run_1", attempt=attempt)
        return Invoke(epoch=attempt, function="f", input={}, context=context)

    @precondition(lambda self: self.link is not None)
    @rule()
    def dispatch(self) -> None:
        self.count += 1
        name = f"exe_{self.count}"
        self.leases[name] = [1, False]
        self.assign(name, 1, sent=True)
        self.queue(self.invocation(name))

    def taken_back(self, frame: GiveBack) -> None:
        if self.link is None:
            return
        for held in self.link.take_unentered(frame):
            self.elsewhere.add((held.execution_id, held.attempt))
            del self.leases[held.execution_id]

    @precondition(lambda self: self.up)
    @rule()
    def control_plane_reads(self) -> None:
        assert self.link is not None
        match frame := self.up.popleft():
            case Accepted() if frame.execution_id in self.link.assigned:
                self.link.assigned[frame.execution_id].accepted = True
                self.leases[frame.execution_id][1] = True
            case Result():
                if self.link.release(frame.execution_id):
                    del self.leases[frame.execution_id]
                self.queue(ResultAck(execution_id=frame.execution_id, attempt=frame.attempt))
            case GiveBack():
                self.taken_back(frame)

    @precondition(lambda self: self.watch)
    @rule(again=st.booleans())
    def watchdog_is_heard(self, again: bool) -> None:
        frame = self.watch[0] if again else self.watch.popleft()
        self.taken_back(frame)

    # --- the link

    @precondition(lambda self: self.link is None)
    @rule()
    def links(self) -> None:
        fields = self.node.hello_fields()
        hello = Hello(protocol=2, node_id="node", instance_id=new_id("node"), did="did:key:z", signature="s", **fields)
        self.link = LinkedNode(cast("Any", None), hello, linked_at=0.0, send_timeout=1.0)
        running = {a.execution_id for a in hello.running if self.leases.get(a.execution_id, [0])[0] == a.attempt}
        results = {a.execution_id for a in hello.results if self.leases.get(a.execution_id, [0])[0] == a.attempt}
        for name, (attempt, accepted) in list(self.leases.items()):
            if accepted and name not in running | results:
                del self.leases[name]  # lost: closed as such
                continue
            self.assign(name, attempt, sent=name in running | results).accepted = accepted
        cancel = tuple(a.execution_id for a in hello.running if a.execution_id not in running)
        ack = tuple(a.execution_id for a in hello.results if a.execution_id not in results)
        self.queue(Welcome(cancel=cancel, ack=ack))
        for name, held in self.link.assigned.items():
            if not held.accepted and name not in results:
                self.queue(self.invocation(name))
                held.sent = True

    @precondition(lambda self: self.link is not None)
    @rule()
    def breaks(self) -> None:
        self.node.link_lost()
        self.link = None
        self.up.clear()

    # --- the node

    def apply(self, effects: Any) -> None:
        for effect in effects:
            match effect:
                case Send(frame):
                    self.up.append(frame)
                case StartAttempt(frame):
                    self.waiting.add((frame.context.execution_id, frame.context.attempt))
                case StopAttempt(execution_id, attempt, reason):
                    key = (execution_id, attempt)
                    self.waiting.discard(key)
                    if key in self.unfinished and reason != "given back":
                        self.finish(key)

    @precondition(lambda self: self.link is not None and not self.link._outbox.empty())
    @rule()
    def node_reads(self) -> None:
        assert self.link is not None
        frame = decode_server_frame(self.link._outbox.get_nowait())
        if isinstance(frame, Welcome):
            self.apply(self.node.link_opened(frame))
            self.turns_again()
        else:
            self.apply(self.node.receive_frame(frame))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def enters(self, data: st.DataObject) -> None:
        self.enter(data.draw(st.sampled_from(sorted(self.waiting))))

    def enter(self, key: Key) -> None:
        self.waiting.discard(key)
        if not self.node.enter_attempt(*key):
            self.apply(self.node.drop_given_back())
            return
        assert key not in self.entered
        self.entered.add(key)
        self.unfinished.add(key)
        self.apply(self.node.attempt_started(*key))

    @precondition(lambda self: self.unfinished)
    @rule(data=st.data())
    def finishes(self, data: st.DataObject) -> None:
        self.finish(data.draw(st.sampled_from(sorted(self.unfinished))))

    def finish(self, key: Key) -> None:
        self.unfinished.discard(key)
        frame = Result(
            execution_id=key[0], attempt=key[1], epoch=key[1], status="succeeded", input_digest="u", signature="s"
        )
        self.apply(self.node.attempt_finished(frame))

    @rule()
    def watchdog_gives_back(self) -> None:
        if self.gate.unsettled() is None:
            self.gate.close()
        number, entered = self.gate.unsettled() or (0, ())
        self.watch.append(GiveBack(number=number, entered=entered))

    @precondition(lambda self: self.node.linked)
    @rule()
    def turns_again(self) -> None:
        if (unsettled := self.gate.unsettled()) is not None and self.node.linked:
            self.up.append(GiveBack(number=unsettled[0], entered=unsettled[1]))

    # --- what holds

    @invariant()
    def nothing_that_runs_elsewhere_was_entered(self) -> None:
        assert not self.entered & self.elsewhere

    def teardown(self) -> None:
        """Once all frames have arrived, nothing is stuck: what the instance holds was entered, and the gate is open."""
        if self.link is None:
            self.links()
        for _ in range(3):
            while self.up or self.watch or not self.link._outbox.empty():  # type: ignore[union-attr]
                if not self.link._outbox.empty():  # type: ignore[union-attr]
                    self.node_reads()
                elif self.up:
                    self.control_plane_reads()
                else:
                    self.taken_back(self.watch.popleft())
            for key in sorted(self.waiting):
                self.enter(key)
            self.turns_again()
        assert self.gate.unsettled() is None
        assert {(name, attempt) for name, (attempt, _) in self.leases.items()} <= self.entered
        self.nothing_that_runs_elsewhere_was_entered()


GiveBackMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestGiveBackMachine = GiveBackMachine.TestCase
