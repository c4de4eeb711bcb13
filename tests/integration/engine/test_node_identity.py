"""A node id belongs to its keys: attacks with another key, another instance id and after a crash, and what operators do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.errors import NodeRefused
from agentfield.identity import NodeKey
from agentfield.plugins import Registry
from agentfield.realtime.config import SessionDeclaration
from agentfield.wire.access import KeyRequest
from agentfield.wire.frames import Invoke, Refused, RunningAttempt, Welcome
from agentfield_server.access.principals import ALL_SCOPES, LOCAL, Principal
from agentfield_server.api.resources.nodes import link_credential
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings
from support.server.engine import Plane, RawNode, plane
from support.waiting import until

KEY = "a key of the test, long enough"
VOICE = SessionDeclaration(name="voice", provider="p", transport="t", floor="handler")


@pytest.fixture
async def cp(tmp_path: Path) -> AsyncIterator[Plane]:
    """Run a control plane with a key, which all nodes know."""
    async with plane(tmp_path / "a.db", api_key=KEY) as running:
        yield running


async def answer_to(cp: Plane, node: RawNode, **hello: Any) -> Any:
    """Open a link and return the answer to the hello of a node."""
    url = f"{cp.url}/api/v1/nodes/link"
    async with aiohttp.ClientSession(headers=cp.headers) as http, http.ws_connect(url) as socket:
        node.socket = socket
        return await node.greet(**hello)


async def refused(cp: Plane, node: RawNode, **hello: Any) -> str:
    """Return the code of the refusal of a node."""
    answer = await answer_to(cp, node, **hello)
    assert isinstance(answer, Refused), answer
    assert not answer.retry
    return str(answer.problem["code"])


async def test_another_key_with_the_same_node_id_is_refused(cp: Plane) -> None:
    """It gets no call and cannot answer one; the refusal names the DID and the command that admits it."""
    victim, thief = RawNode(), RawNode()
    async with victim.linked(cp):
        answer = await answer_to(cp, thief)
        assert isinstance(answer, Refused)
        assert answer.problem["code"] == "unknown_did"
        assert thief.key.did in answer.problem["detail"]
        assert f"af nodes admit node {thief.key.did}" in answer.problem["hint"]
        for number in range(4):
            execution_id = await cp.start("node.fn")
            await victim.answer(await victim.next(Invoke), number)
            view = await cp.finished(execution_id)
            assert (view["output"], view["instance_id"]) == (number, victim.instance_id)
    assert await refused(cp, thief) == "unknown_did"  # also while the node is away


async def test_development_mode_takes_a_further_key_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a key, a second key of a node id links, and the log says so; its instance id is its own all the same."""
    async with plane(tmp_path / "a.db") as cp:
        first, second = RawNode(), RawNode()
        async with first.linked(cp), second.linked(cp):
            assert f"used by a further key, {second.key.did}" in caplog.text
            assert await refused(cp, RawNode(instance_id=first.instance_id)) == "foreign_instance"


async def test_after_a_crash_of_the_control_plane_the_thief_is_refused_and_the_node_is_not(tmp_path: Path) -> None:
    """The instance id of a node is known to the store: who links first with it after a restart does not matter."""
    key = NodeKey.generate()
    async with plane(tmp_path / "a.db") as cp:
        node = RawNode(key=key)
        async with node.linked(cp):
            execution_id = await cp.start("node.fn")
            await node.accept(await node.next(Invoke))
            await until(lambda: cp.hub.links()[0].assigned[execution_id].accepted)
    for api_key in (None, KEY):
        async with plane(tmp_path / "a.db", api_key=api_key) as cp:
            assert await refused(cp, RawNode(instance_id=node.instance_id)) in ("foreign_instance", "unknown_did")
            assert isinstance(await answer_to(cp, RawNode(key=key, instance_id=node.instance_id)), Welcome)


async def test_an_existing_store_pins_at_the_first_link(cp: Plane) -> None:
    """A node id without any DID takes the first one, and keeps it."""
    first, second = RawNode(), RawNode()
    assert isinstance(await answer_to(cp, first), Welcome)
    assert await refused(cp, second) == "unknown_did"
    (row,) = (await cp.get("/nodes/dids"))[1]
    assert (row["node_id"], row["did"], row["admitted_by"], row["state"]) == (
        "node",
        first.key.did,
        "key:settings",
        "admitted",
    )


async def test_an_operator_admits_and_forgets_a_key(cp: Plane) -> None:
    """An admitted DID links; one that is linked cannot be forgotten; a node id without any pins the next one."""
    first, second = RawNode(), RawNode()
    async with first.linked(cp):
        status, row, _ = await cp.post("/nodes/node/dids", {"did": second.key.did})
        assert (status, row["did"], row["admitted_by"], row["linked"]) == (201, second.key.did, "key:settings", 0)
        async with second.linked(cp):
            _, rows = await cp.get("/nodes/dids?node=node")
            assert {row["did"]: row["linked"] for row in rows} == {first.key.did: 1, second.key.did: 1}
            path = f"/api/v1/nodes/node/dids/{second.key.did}"
            async with cp.client.delete(path) as response:
                assert (response.status, (await response.json())["code"]) == (409, "node_linked")
        await until(lambda: len(cp.hub.links()) == 1)
        async with cp.client.delete(path) as response:
            assert response.status == 200
        assert await refused(cp, second) == "unknown_did"
        async with cp.client.delete(path) as response:
            assert (response.status, (await response.json())["code"]) == (404, "unknown_did")


@pytest.mark.parametrize("did", ["", "did:web:example.org", "did:key:z1", "did:key:z6Mk", "x" * 300])
async def test_only_a_did_of_a_key_is_admitted(cp: Plane, did: str) -> None:
    """A DID that no node can prove is refused."""
    status, problem, _ = await cp.post("/nodes/node/dids", {"did": did})
    assert status == 422
    assert problem["code"] in ("invalid_did", "invalid_input")
    assert await cp.store.node_dids() == []


async def test_a_did_is_admitted_for_a_valid_node_id_only(cp: Plane) -> None:
    """A node id that no hello may have is refused."""
    status, problem, _ = await cp.post("/nodes/not%20an%20id/dids", {"did": NodeKey.generate().did})
    assert (status, problem["code"]) == (422, "invalid_node_id")


async def test_a_did_has_one_spelling(cp: Plane) -> None:
    """A revoked key does not return with white space behind its DID, which base58 decoders ignore."""
    node = RawNode()
    assert await refused(cp, node, did=node.key.did + " ") == "bad_signature"


async def test_revoking_a_key_closes_its_links_and_loses_what_it_held(tmp_path: Path) -> None:
    """What the revoked instance held fails at once, though its lease is long; the other instance keeps its work."""
    async with plane(tmp_path / "a.db", api_key=KEY, lease=30) as cp:
        bad, good = RawNode(), RawNode()
        async with bad.linked(cp):
            execution_id = await cp.start("node.fn")
            await bad.accept(await bad.next(Invoke))
            await until(lambda: cp.hub.links()[0].assigned[execution_id].accepted)
            await cp.post("/nodes/node/dids", {"did": good.key.did})
            async with good.linked(cp):
                status, row, _ = await cp.post(f"/nodes/node/dids/{bad.key.did}/revoke")
                assert (status, row["state"]) == (200, "revoked")
                await until(lambda: [link.did for link in cp.hub.links()] == [good.key.did])
                view = await cp.finished(execution_id)
                assert (view["status"], view["problem"]["code"]) == ("failed", "node_lost")
                assert await refused(cp, bad) == "did_revoked"
                other = await cp.start("node.fn")
                await good.answer(await good.next(Invoke), "good")
                assert (await cp.finished(other))["output"] == "good"
        status, problem, _ = await cp.post(f"/nodes/node/dids/{RawNode().key.did}/revoke")
        assert (status, problem["code"]) == (404, "unknown_did")


async def test_the_links_of_a_principal_end_with_its_right(cp: Plane) -> None:
    """Links of another principal stay."""
    async with RawNode().linked(cp):
        cp.hub.identities.end_links_of("key:another")
        assert cp.hub.links()[0].ended is None
        cp.hub.identities.end_links_of("key:settings")
        await until(lambda: not cp.hub.links())


async def test_a_claimed_session_counts_only_if_the_store_says_so(cp: Plane) -> None:
    """An instance that claims the session of another one runs no handler of it."""
    async with RawNode().linked(cp, sessions=(VOICE,), open_sessions=(("ses_of_another", 1),)):
        (link,) = cp.hub.links()
        assert link.sessions == set()
        assert not await cp.hub.runs_handler(link, "ses_of_another")


async def test_a_claimed_attempt_counts_only_if_the_store_says_so(cp: Plane) -> None:
    """An instance that claims the attempt of another one is told to cancel it, and its result is dropped."""
    key = NodeKey.generate()
    holder, thief = RawNode(key=key), RawNode(key=key)
    async with holder.linked(cp):
        execution_id = await cp.start("node.fn")
        invoke = await holder.next(Invoke)
        claim = RunningAttempt(execution_id=execution_id, attempt=1, epoch=invoke.epoch)
        async with thief.linked(cp, running=(claim,)):
            assert thief.welcome is not None
            assert (thief.welcome.keep, thief.welcome.cancel) == ((), (execution_id,))
            await thief.accept(invoke)
            await thief.send(thief.result_of(invoke, "forged"))
            await holder.answer(invoke, "true")
            assert (await cp.finished(execution_id))["output"] == "true"


async def test_an_enrolment_token_admits_the_instances_of_one_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each instance with a key of its own links with it, as this node id only; revoking it ends the links."""
    home = Settings(home=tmp_path / "plane", port=0, api_key=SecretStr(KEY))
    async with (
        control_plane(home, registry=Registry.of([]), environ={}) as running,
        ControlPlaneClient(running.url, api_key=KEY) as client,
    ):
        made = await client.create_key(KeyRequest(scopes=("node",), tags=("node:shop",)))

        async def linked(stack: AsyncExitStack, node_id: str, folder: str) -> None:
            monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path / folder))
            agent = Agent(node_id, registry=Registry.of([]))
            await stack.enter_async_context(agent.linked(url=running.url, api_key=made.key or ""))

        async with AsyncExitStack() as stack:
            await linked(stack, "shop", "one")
            await linked(stack, "shop", "two")
            rows = await client.node_dids("shop")
            assert [row.linked for row in rows] == [1, 1]
            assert {row.admitted_by for row in rows} == {f"key:{made.id}"}
            with pytest.raises(NodeRefused) as caught:
                await linked(stack, "bakery", "three")
            assert caught.value.code == "node_scope"
            await client.revoke_key(made.id)
            await until(lambda: not running.hub.links())


def test_what_a_credential_admits() -> None:
    """Development mode and keys for nodes admit further keys; the key of the settings only the first one of a node id."""
    settings = Principal("key:settings", "key", ALL_SCOPES)
    nodes = Principal("key:1", "key", frozenset({"node"}))
    limited = Principal("key:2", "key", ALL_SCOPES, frozenset({"node:shop", "support:voice"}))
    assert [link_credential(each).admits for each in (LOCAL, settings, nodes, limited)] == [True, False, True, True]
    assert link_credential(limited).nodes == {"shop"}
    assert [link_credential(each).development for each in (LOCAL, settings)] == [True, False]
