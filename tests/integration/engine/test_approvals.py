"""Approvals: an execution is suspended without occupying a node, decided from outside, and resumed, also after restarts."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from pydantic import SecretStr

from agentfield import Agent, Decision
from agentfield.client import ControlPlaneClient
from agentfield.errors import Conflict, Unavailable
from agentfield.identity import digest
from agentfield.wire.frames import MAX_PAUSE_BYTES, Cancel, Invoke, PauseRequest, ResultAck
from agentfield.wire.rest import DecisionRequest
from agentfield_server.access.webhook_signatures import HEADER, signature
from support.processes.installation import EXAMPLES, run_installation
from support.processes.live_call import calling, tree
from support.processes.recordings import clip
from support.server.engine import WEBHOOK_SECRET, Plane, RawNode, plane
from support.waiting import SECONDS, until


@pytest.fixture
async def cp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Plane]:
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    monkeypatch.delenv("AGENTFIELD_API_KEY", raising=False)
    async with plane(tmp_path / "a.db") as running:
        yield running


async def pending(cp: Plane, count: int = 1) -> list[dict[str, Any]]:
    """Return the pending approvals once there are `count` of them."""
    async with asyncio.timeout(SECONDS):
        while True:
            _, body = await cp.get("/approvals?status=pending")
            if len(body["approvals"]) == count:
                return list(body["approvals"])
            await asyncio.sleep(0.01)


def refunds(url: str) -> tuple[Agent, list[str]]:
    """Return an agent that asks before it pays, and a list of its actions in order."""
    shop, done = Agent("shop", url=url), list[str]()

    @shop.reasoner()
    async def price(order: str) -> int:
        done.append(f"price {order}")
        return 80

    @shop.reasoner()
    async def refund(order: str) -> dict[str, Any]:
        done.append("begin")
        amount = await shop.call("shop.price", order=order)
        decision = await shop.pause(f"Refund {amount}?", details={"order": order})
        done.append(decision.status)
        return {"status": decision.status, "by": decision.by, "note": decision.note, "data": decision.data}

    return shop, done


async def test_reasoner_resumes_with_the_decision(cp: Plane) -> None:
    """A suspended execution has no lease; it runs again with the decision and does not repeat its calls."""
    shop, done = refunds(cp.url)
    async with shop:
        execution_id = await cp.start("shop.refund", order="427")
        (approval,) = await pending(cp)
        assert (approval["title"], approval["details"], approval["target"]) == (
            "Refund 80?",
            {"order": "427"},
            "shop.refund",
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


async def test_pause_survives_restart_of_control_plane_and_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision may arrive while no node is linked."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    async with plane(tmp_path / "a.db") as cp:
        shop, _ = refunds(cp.url)
        async with shop:
            execution_id = await cp.start("shop.refund", order="427")
            (approval,) = await pending(cp)
    async with plane(tmp_path / "a.db") as cp:
        await cp.hub.restore()
        await cp.post(f"/approvals/{approval['id']}/decision", {"decision": "approved"})
        shop, done = refunds(cp.url)
        async with shop:
            view = await cp.finished(execution_id)
    assert (view["output"]["status"], done) == ("approved", ["begin", "approved"])


async def test_undecided_pause_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An expired pause resumes the execution with `expired`, also if it expired while the control plane was down."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))

    def patient(url: str) -> Agent:
        shop = Agent("shop", url=url)

        @shop.reasoner()
        async def ask(seconds: float) -> str:
            return (await shop.pause("Well?", expires=seconds)).status

        return shop

    async with plane(tmp_path / "a.db") as cp, patient(cp.url):
        assert (await cp.finished(await cp.start("shop.ask", seconds=0.2)))["output"] == "expired"
        execution_id = await cp.start("shop.ask", seconds=1.0)
        await pending(cp)
    async with plane(tmp_path / "a.db") as cp, patient(cp.url):
        assert (await cp.finished(execution_id))["output"] == "expired"
        _, body = await cp.get("/approvals?limit=1")
        assert [(one["status"], one["via"], one["by"]) for one in body["approvals"]] == [("expired", "time", None)]


async def test_several_pauses_and_a_pause_in_a_task_group(cp: Plane) -> None:
    """Each pause is asked once; one inside a task group suspends the whole run; `except Exception` does not catch it."""
    shop = Agent("shop", url=cp.url)

    @shop.reasoner()
    async def ask() -> list[str]:
        decided = list[Decision]()

        async def second() -> None:
            decided.append(await shop.pause("Second?", key="second"))

        try:
            decided.append(await shop.pause("First?"))
        except Exception:  # noqa: BLE001 - what users write
            return ["swallowed"]
        async with asyncio.TaskGroup() as group:
            group.create_task(second())
        return [decision.status for decision in decided]

    async with shop:
        execution_id = await cp.start("shop.ask")
        for title, decision in (("First?", "approved"), ("Second?", "rejected")):
            (approval,) = await pending(cp)
            assert approval["title"] == title
            await cp.post(f"/approvals/{approval['id']}/decision", {"decision": decision})
        view = await cp.finished(execution_id)
    assert (view["output"], view["attempt"]) == (["approved", "rejected"], 3)
    _, body = await cp.get("/approvals")
    assert [one["key"] for one in body["approvals"]] == ["second", "pause-1"]


async def test_repeated_calls_find_their_executions_in_any_order(cp: Plane) -> None:
    """After the pause, concurrent and equal calls find their earlier executions; a new call creates one."""
    shop, runs = Agent("shop", url=cp.url), list[int]()

    @shop.reasoner()
    async def half(n: int) -> int:
        runs.append(n)
        return n // 2

    @shop.reasoner()
    async def both() -> list[int]:
        numbers = [8, 4, 8] if not runs else [4, 8, 8]
        halves = await asyncio.gather(*(shop.call("shop.half", n=n) for n in numbers))
        await shop.pause("Go on?")
        return sorted([*halves, await shop.call("shop.half", n=2)])

    async with shop:
        execution_id = await cp.start("shop.both")
        (approval,) = await pending(cp)
        await cp.post(f"/approvals/{approval['id']}/decision", {"decision": "approved"})
        view = await cp.finished(execution_id)
    assert view["output"] == [1, 2, 4, 4]
    assert sorted(runs) == [2, 4, 8, 8]


async def test_retry_after_the_pause_keeps_the_decision(cp: Plane) -> None:
    """Another attempt repeats the failed call and keeps the decision."""
    shop, runs = Agent("shop", url=cp.url), list[str]()

    @shop.reasoner()
    async def flaky() -> str:
        runs.append("flaky")
        if len(runs) == 1:
            raise ConnectionError
        return "well"

    @shop.reasoner(retries=1, retry_on="execution_failed", backoff=0.01)
    async def ask() -> str:
        await shop.pause("Go on?")
        answer: str = await shop.call("shop.flaky")
        return answer

    async with shop:
        execution_id = await cp.start("shop.ask")
        (approval,) = await pending(cp)
        await cp.post(f"/approvals/{approval['id']}/decision", {"decision": "approved"})
        view = await cp.finished(execution_id)
        _, body = await cp.get("/approvals")
    assert (view["output"], runs, len(body["approvals"])) == ("well", ["flaky", "flaky"], 1)


async def test_deadline_does_not_run_while_suspended(cp: Plane) -> None:
    """After the decision an execution has the time that was left when it was suspended."""
    shop = Agent("shop", url=cp.url)

    @shop.reasoner()
    async def ask(then: float) -> str:
        decision = await shop.pause("Go on?")
        await asyncio.sleep(then)
        return decision.status

    async with shop:
        _, quick, _ = await cp.post("/execute/async/shop.ask", {"input": {"then": 0}, "timeout": 0.6})
        _, slow, _ = await cp.post("/execute/async/shop.ask", {"input": {"then": SECONDS}, "timeout": 0.6})
        waiting = await pending(cp, 2)
        row = await cp.store.get_execution(quick["id"])
        assert row is not None
        assert row.deadline is None
        await until(lambda: time.time() > quick["deadline"] and time.time() > slow["deadline"])
        for approval in waiting:
            await cp.post(f"/approvals/{approval['id']}/decision", {"decision": "approved"})
        assert (await cp.finished(quick["id"]))["output"] == "approved"
        assert (await cp.finished(slow["id"]))["status"] == "timeout"


async def test_cancelling_cancels_the_approval(cp: Plane) -> None:
    """The approval of a cancelled execution is cancelled, and a late decision is refused."""
    shop, _ = refunds(cp.url)
    async with shop:
        execution_id = await cp.start("shop.refund", order="1")
        (approval,) = await pending(cp)
        await cp.post(f"/executions/{execution_id}/cancel")
        assert (await cp.finished(execution_id))["status"] == "cancelled"
        await pending(cp, 0)
        status, body, _ = await cp.post(f"/approvals/{approval['id']}/decision", {"decision": "approved"})
    assert (status, body["code"]) == (409, "already_decided")
    assert body["detail"] == f"{approval['id']} is cancelled already."


async def test_approval_is_decided_once(cp: Plane) -> None:
    """The same decision again changes nothing; another decision is refused; an unknown approval is 404."""
    shop, done = refunds(cp.url)
    async with shop, ControlPlaneClient(cp.url) as client:
        execution_id = await cp.start("shop.refund", order="1")
        (approval,) = await pending(cp)
        request = DecisionRequest(decision="approved", by="mia")
        answers = await asyncio.gather(*(client.decide(approval["id"], request) for _ in range(5)))
        assert {answer.status for answer in answers} == {"approved"}
        with pytest.raises(Conflict) as caught:
            await client.decide(approval["id"], DecisionRequest(decision="rejected", by="tom"))
        assert (caught.value.code, caught.value.hint) == ("already_decided", f"af approvals show {approval['id']}")
        assert str(caught.value.message) == f"{approval['id']} is approved already, by local (mia)."
        await cp.finished(execution_id)
    assert done.count("approved") == 1
    status, body, _ = await cp.post("/approvals/apr_nobody/decision", {"decision": "approved"})
    assert (status, body["code"], body["hint"]) == (404, "unknown_approval", "af approvals list")
    assert (await cp.get("/approvals?status=maybe"))[0] == 422


async def signed(cp: Plane, body: dict[str, Any], *, at: float | None = None, header: str | None = None) -> Any:
    """Post a signed decision, as another system does."""
    text = json.dumps(body)
    made = signature(SecretStr(WEBHOOK_SECRET), text.encode(), at=time.time() if at is None else at)
    headers = {HEADER: header or made, "Content-Type": "application/json"}
    async with cp.client.post("/api/v1/webhooks/approvals", data=text, headers=headers) as response:
        return response.status, await response.json(content_type=None)


async def test_signed_decision_of_another_system(cp: Plane) -> None:
    """A signed decision counts like an operator's; an old, foreign or missing signature is refused."""
    shop, _ = refunds(cp.url)
    async with shop:
        execution_id = await cp.start("shop.refund", order="1")
        (approval,) = await pending(cp)
        body = {"approval_id": approval["id"], "decision": "approved", "by": "shop system"}
        other = signature(SecretStr("another secret, also long"), json.dumps(body).encode(), at=time.time())
        for wrong in ({"at": time.time() - 3600}, {"header": other}, {"header": "t=x,v1=y"}, {"header": "nothing"}):
            status, problem = await signed(cp, body, **wrong)
            assert (status, problem["code"]) == (403, "bad_signature"), wrong
        await pending(cp)
        status, view = await signed(cp, body)
        assert (status, view["via"], view["by"]) == (200, "webhook", "shop system")
        assert (await cp.finished(execution_id))["output"]["by"] == "shop system"


@pytest.mark.parametrize(("protocol", "code"), [(1, "digest_mismatch"), (2, "bad_proof")])
async def test_unsigned_pause_fails_the_attempt(cp: Plane, protocol: int, code: str) -> None:
    """A pause that differs from what the node signed fails the attempt."""
    here = RawNode(protocol=protocol)
    async with here.linked(cp):
        pause, other = PauseRequest(key="k", title="t", expires=60), PauseRequest(key="other", title="t", expires=60)
        for instead in (None, other):
            execution_id = await cp.start("node.fn")
            invoke = await here.next(Invoke)
            await here.accept(invoke)
            signed = here.result_of(invoke, status="parked", pause=pause)
            await here.send(replace(signed, pause=instead))
            view = await cp.finished(execution_id)
            assert (view["status"], view["problem"]["code"]) == ("failed", code)
    assert (await cp.get("/approvals"))[1] == {"approvals": []}


@pytest.mark.parametrize("protocol", [1, 2])
async def test_a_pause_of_more_than_64_kib_fails_the_attempt(cp: Plane, protocol: int) -> None:
    """The control plane refuses what `app.pause` refuses, also from a node that does not; the largest pause is kept."""
    here = RawNode(protocol=protocol)
    async with here.linked(cp):
        empty = PauseRequest(key="k", title="t", details="", expires=60)
        largest = empty.model_copy(update={"details": "x" * (MAX_PAUSE_BYTES - empty.size)})
        wide = empty.model_copy(update={"details": "ü" * (MAX_PAUSE_BYTES // 2)})
        for pause in (largest.model_copy(update={"details": f"{largest.details}x"}), wide):
            execution_id = await cp.start("node.fn")
            await parked(here, pause)
            view = await cp.finished(execution_id)
            assert (view["status"], view["problem"]["code"]) == ("failed", "limit_exceeded")
            assert str(MAX_PAUSE_BYTES) in view["problem"]["detail"]
        assert (await cp.get("/approvals"))[1] == {"approvals": []}
        await cp.start("node.fn")
        await parked(here, largest)
        (approval,) = await pending(cp)
        assert approval["details"] == largest.details


async def parked(node: RawNode, pause: PauseRequest) -> None:
    """Suspend the next attempt of a node."""
    invoke = await node.next(Invoke)
    await node.accept(invoke)
    alone = {"output_digest": digest(pause.model_dump(mode="json"))} if node.protocol == 1 else {}
    await node.send(node.result_of(invoke, status="parked", pause=pause, **alone))


async def test_frames_of_a_suspended_attempt_are_ignored(cp: Plane) -> None:
    """After the suspension is committed, frames of the old attempt change nothing."""
    shop, _ = refunds(cp.url)
    async with shop:
        execution_id = await cp.start("shop.refund", order="1")
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
async def test_invalid_pause_is_refused(cp: Plane, arguments: dict[str, Any], field: str) -> None:
    """A wrong argument is an error of the reasoner and names the field."""
    shop = Agent("shop", url=cp.url)

    @shop.reasoner()
    async def ask() -> str:
        return (await shop.pause(**arguments)).status

    async with shop:
        status, body, _ = await cp.execute("shop.ask")
    assert (status, body["code"], body["field"]) == (422, "invalid_input", field)


async def test_pause_outside_a_run_is_refused() -> None:
    """The error says what to do in a handler."""
    with pytest.raises(Unavailable) as caught:
        await Agent("shop").pause("Well?")
    assert (caught.value.code, caught.value.hint) == (
        "no_run",
        "In a session's handler, call a reasoner that pauses: session.call(...).",
    )


@pytest.mark.speech
@pytest.mark.realtime
async def test_person_decides_during_a_call(tmp_path: Path) -> None:
    """The spoken example: the caller hears the filler, a person decides elsewhere, and the call continues."""
    agent = EXAMPLES / "human_approval" / "agent.py"
    with run_installation(tmp_path / "installation", agent, env={}) as it:
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
