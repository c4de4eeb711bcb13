"""Executions that wait for a human: parked with nothing held, decided from outside, gone on with, across restarts."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from agentfield import Agent, Decision
from agentfield.client import ControlPlaneClient
from agentfield.errors import Conflict, Unavailable
from agentfield.wire.frames import Cancel, Invoke, PauseRequest, ResultAck
from agentfield.wire.rest import DecisionRequest
from agentfield_server.access.signatures import HEADER, signature
from call_kit import EXAMPLES, calling, clip, house, tree
from engine_kit import SOON, WEBHOOK_SECRET, Plane, RawNode, plane, until


@pytest.fixture
async def cp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Plane]:
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    monkeypatch.delenv("AGENTFIELD_API_KEY", raising=False)
    async with plane(tmp_path / "a.db") as running:
        yield running


async def pending(cp: Plane, count: int = 1) -> list[dict[str, Any]]:
    """Return what waits for a decision, as soon as so much does."""
    async with asyncio.timeout(SOON):
        while True:
            _, body = await cp.get("/approvals?status=pending")
            if len(body["approvals"]) == count:
                return list(body["approvals"])
            await asyncio.sleep(0.01)


def refunds(url: str) -> tuple[Agent, list[str]]:
    """Return an agent that asks before it pays, and what it did, in order."""
    desk, done = Agent("desk", url=url), list[str]()

    @desk.reasoner()
    async def price(order: str) -> int:
        done.append(f"price {order}")
        return 80

    @desk.reasoner()
    async def refund(order: str) -> dict[str, Any]:
        done.append("begin")
        amount = await desk.call("desk.price", order=order)
        decision = await desk.pause(f"Refund {amount}?", details={"order": order})
        done.append(decision.status)
        return {"status": decision.status, "by": decision.by, "note": decision.note, "data": decision.data}

    return desk, done


async def test_a_reasoner_goes_on_with_the_decision(cp: Plane) -> None:
    """It is parked with nothing held, runs again with the decision, and what it had called is not called again."""
    desk, done = refunds(cp.url)
    async with desk:
        execution_id = await cp.start("desk.refund", order="427")
        (approval,) = await pending(cp)
        assert (approval["title"], approval["details"], approval["target"]) == (
            "Refund 80?",
            {"order": "427"},
            "desk.refund",
        )
        row = await cp.store.get_execution(execution_id)
        assert row is not None
        assert (row.status, row.lease_owner, row.lease_until) == ("waiting", None, None)
        await until(lambda: [link.running for link in cp.hub.links()] == [0], "its place on the node is free")
        decision = {"decision": "changes_requested", "by": "mia", "note": "too much", "data": {"amount": 20}}
        status, body, _ = await cp.post(f"/approvals/{approval['id']}/decision", decision)
        assert (status, body["status"], body["via"]) == (200, "changes_requested", "rest")
        view = await cp.finished(execution_id)
    told = {"status": "changes_requested", "by": "mia", "note": "too much", "data": {"amount": 20}}
    assert (view["status"], view["output"]) == ("succeeded", told)
    assert done == ["begin", "price 427", "begin", "changes_requested"]
    events = await cp.events(view["run_id"])
    assert [event["type"] for event in events if event["execution_id"] == execution_id] == [
        "execution.created",
        "execution.started",
        "approval.requested",
        "approval.decided",
        "execution.started",
        "execution.ended",
    ]


async def test_a_pause_outlives_control_plane_and_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are gone and come back as other processes would; the decision may come while no node is there."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    async with plane(tmp_path / "a.db") as cp:
        desk, _ = refunds(cp.url)
        async with desk:
            execution_id = await cp.start("desk.refund", order="427")
            (approval,) = await pending(cp)
    async with plane(tmp_path / "a.db") as cp:
        await cp.hub.recall()
        await cp.post(f"/approvals/{approval['id']}/decision", {"decision": "approved"})
        desk, done = refunds(cp.url)
        async with desk:
            view = await cp.finished(execution_id)
    assert (view["output"]["status"], done) == ("approved", ["begin", "approved"])


async def test_nobody_decides_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause that is over is a decision as well; one that ran out while the control plane was down, too."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))

    def patient(url: str) -> Agent:
        desk = Agent("desk", url=url)

        @desk.reasoner()
        async def ask(seconds: float) -> str:
            return (await desk.pause("Well?", expires=seconds)).status

        return desk

    async with plane(tmp_path / "a.db") as cp, patient(cp.url):
        assert (await cp.finished(await cp.start("desk.ask", seconds=0.2)))["output"] == "expired"
        execution_id = await cp.start("desk.ask", seconds=1.0)
        await pending(cp)
    async with plane(tmp_path / "a.db") as cp, patient(cp.url):
        assert (await cp.finished(execution_id))["output"] == "expired"
        _, body = await cp.get("/approvals?limit=1")
        assert [(one["status"], one["via"], one["by"]) for one in body["approvals"]] == [("expired", "time", None)]


async def test_several_pauses_and_pauses_in_tasks(cp: Plane) -> None:
    """Each pause is asked once; one inside a task group parks the whole run; `except Exception` does not keep it."""
    desk = Agent("desk", url=cp.url)

    @desk.reasoner()
    async def ask() -> list[str]:
        decided = list[Decision]()

        async def second() -> None:
            decided.append(await desk.pause("Second?", key="second"))

        try:
            decided.append(await desk.pause("First?"))
        except Exception:  # noqa: BLE001 - what users write
            return ["swallowed"]
        async with asyncio.TaskGroup() as group:
            group.create_task(second())
        return [decision.status for decision in decided]

    async with desk:
        execution_id = await cp.start("desk.ask")
        for title, decision in (("First?", "approved"), ("Second?", "rejected")):
            (approval,) = await pending(cp)
            assert approval["title"] == title
            await cp.post(f"/approvals/{approval['id']}/decision", {"decision": decision})
        view = await cp.finished(execution_id)
    assert (view["output"], view["attempt"]) == (["approved", "rejected"], 3)
    _, body = await cp.get("/approvals")
    assert [one["key"] for one in body["approvals"]] == ["second", "pause-1"]


async def test_the_same_calls_are_the_same_executions_in_any_order(cp: Plane) -> None:
    """Calls that run at the same time, and equal ones, are found again after the pause; a new one is made."""
    desk, runs = Agent("desk", url=cp.url), list[int]()

    @desk.reasoner()
    async def half(n: int) -> int:
        runs.append(n)
        return n // 2

    @desk.reasoner()
    async def both() -> list[int]:
        numbers = [8, 4, 8] if not runs else [4, 8, 8]
        halves = await asyncio.gather(*(desk.call("desk.half", n=n) for n in numbers))
        await desk.pause("Go on?")
        return sorted([*halves, await desk.call("desk.half", n=2)])

    async with desk:
        execution_id = await cp.start("desk.both")
        (approval,) = await pending(cp)
        await cp.post(f"/approvals/{approval['id']}/decision", {"decision": "approved"})
        view = await cp.finished(execution_id)
    assert view["output"] == [1, 2, 4, 4]
    assert sorted(runs) == [2, 4, 8, 8]


async def test_a_failure_after_the_pause_does_not_ask_again(cp: Plane) -> None:
    """Another attempt calls anew what failed, and keeps what a human decided."""
    desk, runs = Agent("desk", url=cp.url), list[str]()

    @desk.reasoner()
    async def flaky() -> str:
        runs.append("flaky")
        if len(runs) == 1:
            raise ConnectionError
        return "well"

    @desk.reasoner(retries=1, retry_on="execution_failed", backoff=0.01)
    async def ask() -> str:
        await desk.pause("Go on?")
        answer: str = await desk.call("desk.flaky")
        return answer

    async with desk:
        execution_id = await cp.start("desk.ask")
        (approval,) = await pending(cp)
        await cp.post(f"/approvals/{approval['id']}/decision", {"decision": "approved"})
        view = await cp.finished(execution_id)
        _, body = await cp.get("/approvals")
    assert (view["output"], runs, len(body["approvals"])) == ("well", ["flaky", "flaky"], 1)


async def test_time_stands_still_while_nobody_decides(cp: Plane) -> None:
    """The deadline of an execution is what it had left when it was parked, counted from the decision."""
    desk = Agent("desk", url=cp.url)

    @desk.reasoner()
    async def ask(then: float) -> str:
        decision = await desk.pause("Go on?")
        await asyncio.sleep(then)
        return decision.status

    async with desk:
        _, quick, _ = await cp.post("/execute/async/desk.ask", {"input": {"then": 0}, "timeout": 0.6})
        _, slow, _ = await cp.post("/execute/async/desk.ask", {"input": {"then": SOON}, "timeout": 0.6})
        waiting = await pending(cp, 2)
        row = await cp.store.get_execution(quick["id"])
        assert row is not None
        assert row.deadline is None
        await until(lambda: time.time() > quick["deadline"] and time.time() > slow["deadline"])
        for approval in waiting:
            await cp.post(f"/approvals/{approval['id']}/decision", {"decision": "approved"})
        assert (await cp.finished(quick["id"]))["output"] == "approved"
        assert (await cp.finished(slow["id"]))["status"] == "timeout"


async def test_a_cancelled_execution_needs_no_decision(cp: Plane) -> None:
    """What waited for it is not asked any more, and a decision that comes too late is refused."""
    desk, _ = refunds(cp.url)
    async with desk:
        execution_id = await cp.start("desk.refund", order="1")
        (approval,) = await pending(cp)
        await cp.post(f"/executions/{execution_id}/cancel")
        assert (await cp.finished(execution_id))["status"] == "cancelled"
        await pending(cp, 0)
        status, body, _ = await cp.post(f"/approvals/{approval['id']}/decision", {"decision": "approved"})
    assert (status, body["code"]) == (409, "already_decided")
    assert body["detail"] == f"{approval['id']} is cancelled already."


async def test_a_decision_is_made_once(cp: Plane) -> None:
    """The same decision of the same person again changes nothing; another one is refused; an unknown one is named."""
    desk, done = refunds(cp.url)
    async with desk, ControlPlaneClient(cp.url) as client:
        execution_id = await cp.start("desk.refund", order="1")
        (approval,) = await pending(cp)
        request = DecisionRequest(decision="approved", by="mia")
        answers = await asyncio.gather(*(client.decide(approval["id"], request) for _ in range(5)))
        assert {answer.status for answer in answers} == {"approved"}
        with pytest.raises(Conflict) as caught:
            await client.decide(approval["id"], DecisionRequest(decision="rejected", by="tom"))
        assert (caught.value.code, caught.value.hint) == ("already_decided", f"af approvals show {approval['id']}")
        assert str(caught.value.message) == f"{approval['id']} is approved already, by mia."
        await cp.finished(execution_id)
    assert done.count("approved") == 1
    status, body, _ = await cp.post("/approvals/apr_nobody/decision", {"decision": "approved"})
    assert (status, body["code"], body["hint"]) == (404, "unknown_approval", "af approvals list")
    assert (await cp.get("/approvals?status=maybe"))[0] == 422


async def signed(cp: Plane, body: dict[str, Any], *, at: float | None = None, header: str | None = None) -> Any:
    """Send a decision as another system does."""
    text = json.dumps(body)
    made = signature(SecretStr(WEBHOOK_SECRET), text.encode(), at=time.time() if at is None else at)
    headers = {HEADER: header or made, "Content-Type": "application/json"}
    async with cp.client.post("/api/v1/webhooks/approvals", data=text, headers=headers) as response:
        return response.status, await response.json(content_type=None)


async def test_another_system_decides_by_its_signature(cp: Plane) -> None:
    """A signed decision counts like an operator's; an old, foreign or missing signature decides nothing."""
    desk, _ = refunds(cp.url)
    async with desk:
        execution_id = await cp.start("desk.refund", order="1")
        (approval,) = await pending(cp)
        body = {"approval_id": approval["id"], "decision": "approved", "by": "desk system"}
        other = signature(SecretStr("another secret, also long"), json.dumps(body).encode(), at=time.time())
        for wrong in ({"at": time.time() - 3600}, {"header": other}, {"header": "t=x,v1=y"}, {"header": "nothing"}):
            status, problem = await signed(cp, body, **wrong)
            assert (status, problem["code"]) == (403, "bad_signature"), wrong
        await pending(cp)
        status, view = await signed(cp, body)
        assert (status, view["via"], view["by"]) == (200, "webhook", "desk system")
        assert (await cp.finished(execution_id))["output"]["by"] == "desk system"


async def test_a_pause_that_nobody_signed_for_parks_nothing(cp: Plane) -> None:
    """What a node asks must be what it signed; else the attempt has failed."""
    here = RawNode()
    async with here.linked(cp):
        for changes in ({"pause": None}, {"output_digest": "sha-256:00"}):
            execution_id = await cp.start("node.fn")
            invoke = await here.next(Invoke)
            pause = PauseRequest(key="k", title="t", expires=60)
            await here.answer(invoke, **{"status": "parked", "pause": pause, **changes})
            view = await cp.finished(execution_id)
            assert (view["status"], view["problem"]["code"]) == ("failed", "digest_mismatch")
    assert (await cp.get("/approvals"))[1] == {"approvals": []}


async def test_frames_of_an_attempt_that_was_parked_are_late(cp: Plane) -> None:
    """After the pause is committed nothing that the old attempt sends counts, and cancelling tells the new one only."""
    desk, _ = refunds(cp.url)
    async with desk:
        execution_id = await cp.start("desk.refund", order="1")
        await pending(cp)
        row = await cp.store.get_execution(execution_id)
        assert row is not None
        assert not await cp.store.accept_execution(execution_id, attempt=row.attempt, epoch=row.lease_epoch - 1)
        assert (
            await cp.store.complete_execution(
                execution_id, attempt=row.attempt, epoch=row.lease_epoch - 1, status="succeeded"
            )
            is None
        )
    here = RawNode()
    async with here.linked(cp):
        assert not [frame for frame in here.frames if isinstance(frame, Cancel | ResultAck)]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [({"title": ""}, "title"), ({"title": "t", "expires": 0}, "expires"), ({"title": "t", "key": "k" * 101}, "key")],
)
async def test_a_pause_that_cannot_be_asked_for(cp: Plane, arguments: dict[str, Any], field: str) -> None:
    """A wrong argument is the reasoner's error, and names the part."""
    desk = Agent("desk", url=cp.url)

    @desk.reasoner()
    async def ask() -> str:
        return (await desk.pause(**arguments)).status

    async with desk:
        status, body, _ = await cp.execute("desk.ask")
    assert (status, body["code"], body["field"]) == (422, "invalid_input", field)


async def test_only_a_reasoner_pauses() -> None:
    """Outside of a run there is nothing to park; the error says what to do in a handler."""
    with pytest.raises(Unavailable) as caught:
        await Agent("desk").pause("Well?")
    assert (caught.value.code, caught.value.hint) == (
        "no_run",
        "from a session's handler, call a reasoner that pauses: session.call(...)",
    )


@pytest.mark.speech
async def test_a_person_decides_in_the_middle_of_a_call(tmp_path: Path) -> None:
    """The pipeline of the example, spoken: the caller hears the filler, somebody else decides, the call goes on."""
    agent = EXAMPLES / "human_approval" / "agent.py"
    with house(tmp_path / "house", agent, env={}) as it:
        async with it.client() as client, calling(client, "support.voice") as live:
            saying = asyncio.create_task(live.say(clip("synthetic/02")))
            await live.wait("approval.requested")
            (approval,) = await client.list_approvals("pending")
            assert approval.title == "Refund 80 dollars for order 427?"
            assert (await live.wait("speech.ended"))["asked"] == "Let me ask a colleague, one moment."
            await client.decide(approval.id, DecisionRequest(decision="approved", by="mia"))
            answer = await saying
            dag = await live.dag()
            await live.hang_up()
    spoken = [speech["asked"] for speech in answer.speeches]
    assert spoken == ["Let me ask a colleague, one moment.", "Your refund of 80 dollars is on its way."]
    assert tree(dag)[2:] == [
        ("call", "support.handle_turn", "succeeded", "turn 1"),
        ("call", "support.find_order", "succeeded", "call 1"),
        ("call", "support.check_policy", "succeeded", "call 1"),
    ]
    assert {execution.session_id for execution in dag.executions} == {live.id}
