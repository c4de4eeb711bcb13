"""The session follower: printed lines, the idle state, and the turns of the report."""

from __future__ import annotations

import asyncio
from itertools import count

import numpy as np
import pytest

from agentfield.wire.rest import DagView, ExecutionView, HistoryView
from agentfield_cli.call.audio_io import AudioSource
from agentfield_cli.call.make_call import turn_rows
from agentfield_cli.terminal.output import Output
from agentfield_cli.terminal.session_follower import SessionFollower
from agentfield_cli.terminal.tree import workflow_tree


@pytest.fixture
def follower():
    return SessionFollower(Output())


@pytest.fixture
def happens(follower):
    numbers = count(1)

    def take(type_: str, execution_id: str | None = None, at: float = 0.0, /, **body) -> None:
        follower.take({"seq": next(numbers), "type": type_, "at": at, "execution_id": execution_id, "body": body})

    return take


def test_the_duration_uses_the_start_time_of_the_event(happens, capsys):
    """The duration of an execution uses the start time inside the event, not the time of recording."""
    happens("execution.created", "exe_c", 2.0, kind="call", target="n.f", status="running")
    happens("execution.started", "exe_c", 2.1, attempt=1, entered_at=2.088)
    happens("execution.ended", "exe_c", 2.1, kind="call", target="n.f", status="succeeded")
    assert "n.f succeeded in 12 ms" in capsys.readouterr().out


def call_with_one_turn(happens) -> None:
    happens("session.state", state="live")
    happens("execution.created", "exe_t", 1.0, kind="turn", target="voice-support.voice", status="running")
    happens("turn.committed", turn_id="exe_t", item="i1", text="where is my order")
    happens("execution.created", "exe_c", 2.0, kind="call", target="voice-support.resolve_turn", status="queued")
    happens("execution.started", "exe_c", 2.001, attempt=1)
    happens("execution.ended", "exe_c", 2.005, kind="call", target="voice-support.resolve_turn", status="succeeded")
    happens("speech.started", speech_id="spk_1", kind="say", asked="In customs.", turn_id="exe_t")
    happens("speech.ended", speech_id="spk_1", asked="In customs.", generated="In customs.", heard_ms=900)
    happens("execution.ended", "exe_t", 3.0, kind="turn", target="voice-support.voice", status="succeeded")
    happens("session.state", state="ended", reason="caller_hangup")


def test_the_live_transcript(happens, capsys):
    """The words of both sides, calls with their duration, and states are printed as they happen."""
    call_with_one_turn(happens)
    assert capsys.readouterr().out == (
        "  session live\n"
        "  caller  where is my order\n"
        "  calls   voice-support.resolve_turn\n"
        "  done    voice-support.resolve_turn succeeded in 4 ms\n"
        "  agent   In customs.\n"
        "  session ended (caller_hangup)\n"
    )


def test_failures_are_printed(happens, capsys):
    """Refused tools, failures, interruptions, turns without a transcript and warnings are printed with their reasons."""
    happens("tool.refused", call_id="c", name="delete_all", why="not in tools")
    happens("turn.committed", turn_id="exe_t", item="i", text=None, text_missing="late")
    happens("turn.discarded", item="i2", why="empty")
    happens("speech.started", speech_id="s", asked="Hello", turn_id=None)
    happens("speech.ended", speech_id="s", asked="Hello", generated=None, interrupted=True)
    happens("execution.created", "exe_c", kind="tool", target="a.b", status="queued")
    happens("execution.ended", "exe_c", kind="tool", target="a.b", status="failed", problem={"detail": "boom"})
    happens("warning", code="x", message="nearly over")
    assert capsys.readouterr().out == (
        "  tool    delete_all refused: not in tools\n"
        "  caller  (no transcript: late)\n"
        "  (a turn was discarded: empty)\n"
        "  agent   Hello (interrupted)\n"
        "  calls   a.b\n"
        "  done    a.b failed in 0 ms\n"
        "  failed  a.b: boom\n"
        "  warning nearly over\n"
    )


def test_keys_backchannels_and_the_cost_are_printed(happens, follower, capsys):
    """Keys and backchannels are printed; single usage events are not, the total cost is."""
    happens("dtmf", digit="5")
    happens("backchannel", item="i1")
    happens("usage", kind="reply", usage={"text_out": 3}, cost=0.01)
    happens("warning", code="provider_rotated", message="another session takes over")
    happens("session.usage", usage={"reply": {"text_out": 3}}, cost=0.0123, unpriced=1)
    assert capsys.readouterr().out == (
        "  caller  presses 5\n"
        "  (backchannel: the agent continues)\n"
        "  warning another session takes over\n"
        "  cost    0.0123 US dollars, plus usage without a price\n"
    )
    assert (follower.usage, follower.cost) == ({"reply": {"text_out": 3}}, 0.0123)


async def test_idle_waits_for_the_answer(follower, happens):
    """The wait for a turn ends once its executions and speeches have ended, not before."""
    happens("session.state", state="live")
    waiting = asyncio.create_task(follower.idle(turns=1))
    await asyncio.sleep(0)
    happens("execution.created", "exe_t", kind="turn", target="a.b", status="running")
    happens("turn.committed", turn_id="exe_t", item="i", text="hello")
    await asyncio.sleep(0)
    assert not waiting.done()
    happens("speech.started", speech_id="s", asked="Hi", turn_id="exe_t")
    happens("execution.ended", "exe_t", kind="turn", target="a.b", status="succeeded")
    await asyncio.sleep(0)
    assert not waiting.done()
    happens("speech.ended", speech_id="s", asked="Hi", generated="Hi", heard_ms=10)
    await asyncio.wait_for(waiting, 60)


async def test_idle_waits_for_an_open_turn(follower, happens):
    """An open turn is waited for, even if the previous one was answered."""
    happens("session.state", state="live")
    happens("turn.committed", turn_id="exe_t", item="i1", text="hello")
    assert not follower.busy
    follower.take({"type": "turn.started", "item": "i2"})
    assert follower.busy
    happens("turn.discarded", item="i2", why="empty")
    assert not follower.busy


async def test_waiting_ends_with_the_session(follower, happens):
    """All waits end when the session ends."""
    waits = [asyncio.create_task(follower.until("live")), asyncio.create_task(follower.idle(turns=3))]
    await asyncio.sleep(0)
    happens("session.state", state="ended", reason="ice_failed", detail="no path")
    await asyncio.wait_for(asyncio.gather(*waits), 60)
    assert (follower.state, follower.reason, follower.detail) == ("ended", "ice_failed", "no path")


def test_live_events_do_not_change_the_report(follower, capsys):
    """Events that are not recorded do not change the report."""
    follower.take({"type": "turn.transcript", "text": "whe", "item": "i"})
    assert follower.turns == []
    assert capsys.readouterr().out == ""


def test_the_turns_of_the_report(follower, happens):
    """A turn is reported with the asked, generated and heard parts of all its speeches."""
    call_with_one_turn(happens)
    assert turn_rows(follower) == [
        {"caller": "where is my order", "asked": "In customs.", "generated": "In customs.", "heard_ms": 900}
    ]


def execution(name: str, kind: str, target: str, status: str, parent: str | None, **more) -> ExecutionView:
    return ExecutionView(
        id=name, kind=kind, target=target, status=status, run_id="run_1", parent_id=parent, created_at=1.0, **more
    )


def test_the_tree_of_a_workflow(capsys):
    """Executions are drawn under their parents with status, duration and id, and a problem below."""
    dag = DagView(
        run_id="run_1",
        session_id="ses_1",
        executions=(
            execution("exe_s", "session", "n.voice", "succeeded", None, started_at=1.0, ended_at=9.5),
            execution("exe_t", "turn", "n.voice", "succeeded", "exe_s", started_at=2.0, ended_at=3.0),
            execution("exe_c", "call", "n.look_up", "failed", "exe_t", problem={"detail": "[boom]"}),
        ),
    )
    Output().show(workflow_tree(dag))
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "run_1",
        "└── session n.voice succeeded 8500 ms exe_s",
        "    └── turn n.voice succeeded 1000 ms exe_t",
        "        └── call n.look_up failed exe_c",
        "            [boom]",
    ]


def test_the_tree_shows_retries_and_approvals(capsys):
    """Retries with their reasons, approval requests and decisions are drawn in plain words."""
    node_lost = {"attempt": 1, "problem": {"code": "node_lost", "detail": "The node 'n' was lost."}}
    describe_event = (
        ("execution.retrying", node_lost),
        ("execution.returned", {"attempt": 2, "reason": "the event loop of the instance i is blocked"}),
        ("approval.requested", {"approval_id": "apr_1", "title": "[Pay] 80?"}),
        (
            "approval.decided",
            {"status": "changes_requested", "principal": "key:1", "by": "mia", "note": "[20] is enough"},
        ),
        ("approval.requested", {"approval_id": "apr_2", "title": "Pay 20?"}),
        ("approval.decided", {"status": "expired", "by": None, "note": None}),
    )
    history = tuple(HistoryView(type=kind, at=1.0, body=body) for kind, body in describe_event)
    dag = DagView(run_id="run_1", executions=(execution("exe_c", "call", "n.pay", "running", None, history=history),))
    Output().show(workflow_tree(dag))
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "run_1",
        "└── call n.pay running exe_c",
        "    attempt 1 did not succeed: The node 'n' was lost.",
        "    attempt 2 did not begin: the event loop of the instance i is blocked",
        "    asked: [Pay] 80? (apr_1)",
        "    sent back by key:1 (mia): [20] is enough",
        "    asked: Pay 20? (apr_2)",
        "    expired",
    ]


def test_retries_and_approvals_are_printed(happens, capsys):
    """A retry, an approval request with the command that shows it, and the decision are printed."""
    happens("execution.created", "exe_c", kind="call", target="n.pay", status="running")
    happens("execution.retrying", "exe_c", attempt=1, problem={"detail": "The node 'n' was lost."})
    happens("execution.returned", "exe_c", attempt=2, reason="the event loop of the instance i is blocked")
    happens("approval.requested", "exe_c", approval_id="apr_1", title="Pay 80?")
    happens("approval.decided", "exe_c", approval_id="apr_1", status="approved", by="mia", note=None)
    happens("approval.decided", "exe_unknown", approval_id="apr_2", status="approved", by="mia", note=None)
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "calls   n.pay",
        "waits   n.pay attempt 1 did not succeed: The node 'n' was lost.",
        "waits   n.pay attempt 2 did not begin: the event loop of the instance i is blocked",
        "waits   n.pay asked: Pay 80? (apr_1)",
        "hint    af approvals show apr_1",
        "waits   n.pay approved by mia",
    ]


async def test_speaking_ends_with_the_session(follower, happens):
    """Speech whose audio is no longer fetched is abandoned when the session ends."""
    source = AudioSource()
    asyncio.get_running_loop().call_soon(lambda: happens("session.state", state="ended", reason="handler_failed"))
    async with asyncio.timeout(60):
        assert await follower.unless_ended(source.say(np.ones(48_000, np.int16))) is None
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_an_action_that_ends_before_the_session_keeps_its_result(follower):
    """The result or the exception of the action is passed on."""
    assert await follower.unless_ended(asyncio.sleep(0, 7)) == 7
    refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    refused.set_exception(LookupError("gone"))
    with pytest.raises(LookupError, match="gone"):
        await follower.unless_ended(refused)


def test_an_agent_without_words_is_described(happens, capsys):
    """A reply that called a tool, one without anything, and one in other words than asked for are told apart."""
    happens("speech.ended", speech_id="a", asked=None, generated="", tool_calls=1)
    happens("speech.ended", speech_id="b", asked=None, generated="")
    happens("speech.ended", speech_id="c", asked="Your order is stuck.", generated="It is stuck.", verbatim=False)
    happens("speech.ended", speech_id="d", asked="It is stuck.", generated="It is", verbatim=None, interrupted=True)
    assert capsys.readouterr().out == (
        "  agent   (called a tool)\n"
        "  agent   (nothing was generated)\n"
        "  agent   It is stuck. (other words than asked for)\n"
        "  agent   It is (interrupted)\n"
    )
