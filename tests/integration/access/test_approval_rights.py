"""Who may decide an approval: a principal of its own, none that belongs to what asks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.errors import AgentFieldError, Forbidden
from agentfield.plugins import Registry
from agentfield.wire.access import KeyRequest
from agentfield.wire.rest import ApprovalView, DecisionRequest
from agentfield_server.access.webhook_signatures import HEADER, signature
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings
from support.waiting import until_async

KEY = "settings-key-0123456789"
SECRET = "webhook-secret-0123456789"
YES = DecisionRequest(decision="approved", by="the CFO")
NO = DecisionRequest(decision="rejected")


@asynccontextmanager
async def plane_at(home: Path, **settings: Any) -> AsyncIterator[ControlPlane]:
    made = Settings(home=home, port=0, webhook_secret=SecretStr(SECRET), **settings)
    async with control_plane(made, registry=Registry.of([]), environ={}) as plane:
        yield plane


async def key_of(plane: ControlPlane, *scopes: Any, tags: tuple[str, ...] = ()) -> str:
    async with ControlPlaneClient(plane.url, KEY) as operator:
        made = await operator.create_key(KeyRequest(scopes=scopes, tags=tags))
    assert made.key is not None
    return made.key


def bank(plane: ControlPlane, key: str | None) -> Agent:
    app = Agent("bank", url=plane.url, api_key=key, registry=Registry.of([]))

    @app.reasoner(tags=["money:move"])
    async def pay(amount: float) -> str:
        return (await app.pause(f"pay {amount}?")).status

    return app


async def pending(client: ControlPlaneClient) -> ApprovalView:
    """Return the approval that waits, once there is one."""
    found: list[ApprovalView] = []

    async def asked() -> bool:
        found[:] = await client.list_approvals("pending")
        return bool(found)

    await until_async(asked)
    return found[0]


async def code_of(work: Any) -> str:
    with pytest.raises(AgentFieldError) as caught:
        await work
    return caught.value.code


RULES = '[[rule]]\nfrom = ["tag:clerk", "node:bank"]\nto = ["tag:money:move"]\neffect = "allow"\n'


async def test_nobody_of_the_chain_decides(tmp_path: Path) -> None:
    """Neither who asked nor the node's key decides, whatever its scopes; the right to call implies no right to decide."""
    async with plane_at(tmp_path, api_key=SecretStr(KEY)) as plane:
        clerk_key = await key_of(plane, "caller", "approver", tags=("clerk",))
        node_key = await key_of(plane, "node", "approver", "operator")
        caller_key, chief_key = await key_of(plane, "caller"), await key_of(plane, "approver")
        async with (
            bank(plane, node_key),
            ControlPlaneClient(plane.url, KEY) as operator,
            ControlPlaneClient(plane.url, clerk_key) as clerk,
            ControlPlaneClient(plane.url, node_key) as node,
            ControlPlaneClient(plane.url, caller_key) as caller,
            ControlPlaneClient(plane.url, chief_key) as chief,
        ):
            await operator.set_policies(RULES)
            waiting = await clerk.execute_async("bank.pay", {"amount": 1000})
            approval = await pending(chief)
            assert await code_of(clerk.decide(approval.id, YES)) == "own_approval"
            assert await code_of(node.decide(approval.id, YES)) == "own_approval"
            assert await code_of(caller.decide(approval.id, YES)) == "scope_missing"
            assert (await chief.get_approval(approval.id)).status == "pending"
            decided = await chief.decide(approval.id, YES)
            assert (decided.status, decided.by) == ("approved", "the CFO")
            assert decided.principal is not None
            assert decided.principal.startswith("key:")
            assert (await clerk.wait_execution(waiting.id)).output == "approved"
            events = await plane.engine._store.read_events(waiting.run_id)
            [body] = [json.loads(event.body or b"{}") for event in events if event.type == "approval.decided"]
            assert (body["principal"], body["by"], "own" in body) == (decided.principal, "the CFO", False)


async def test_a_foreign_node_cannot_approve_its_own_payment(tmp_path: Path) -> None:
    """The attack: a node with the shared key calls a tagged target and approves as "the CFO"; the shared key is of its chain."""
    async with plane_at(tmp_path, api_key=SecretStr(KEY)) as plane:
        evil = Agent("evil", url=plane.url, api_key=KEY, registry=Registry.of([]))
        async with bank(plane, KEY), evil, ControlPlaneClient(plane.url, KEY) as shared:
            with pytest.raises(Forbidden):
                await evil.call("bank.pay", amount=1)
            await shared.set_policies(RULES.replace('"node:bank"', '"node:evil"'))
            call = asyncio.create_task(evil.call("bank.pay", amount=1))
            approval = await pending(shared)
            assert await code_of(shared.decide(approval.id, YES)) == "own_approval"
            chief_key = await key_of(plane, "approver")
            async with ControlPlaneClient(plane.url, chief_key) as chief:
                await chief.decide(approval.id, NO)
            assert await call == "rejected"


async def test_a_node_that_left_does_not_decide_either(tmp_path: Path) -> None:
    """A key with which a node of the chain was linked cannot decide after the node left, also not after a restart."""
    async with plane_at(tmp_path, api_key=SecretStr(KEY)) as plane:
        evil_key = await key_of(plane, "node", "caller", "approver")
        evil = Agent("evil", url=plane.url, api_key=evil_key, registry=Registry.of([]))
        async with ControlPlaneClient(plane.url, KEY) as operator, ControlPlaneClient(plane.url, evil_key) as thief:
            await operator.set_policies(RULES.replace('"node:bank"', '"node:evil"'))
            async with bank(plane, KEY):
                async with evil:
                    call = asyncio.create_task(evil.call("bank.pay", amount=1))
                    approval = await pending(operator)
                    call.cancel()
                assert await code_of(thief.decide(approval.id, YES)) == "own_approval"
    async with plane_at(tmp_path, api_key=SecretStr(KEY)) as plane, ControlPlaneClient(plane.url, evil_key) as thief:
        assert await code_of(thief.decide(approval.id, YES)) == "own_approval"


async def test_an_approval_does_not_outlive_its_rule(tmp_path: Path) -> None:
    """Once the rule is gone that let the execution start, it cannot be approved, only rejected."""
    async with plane_at(tmp_path, api_key=SecretStr(KEY)) as plane:
        clerk_key, chief_key = await key_of(plane, "caller", tags=("clerk",)), await key_of(plane, "approver")
        async with (
            bank(plane, KEY),
            ControlPlaneClient(plane.url, KEY) as operator,
            ControlPlaneClient(plane.url, clerk_key) as clerk,
            ControlPlaneClient(plane.url, chief_key) as chief,
        ):
            await operator.set_policies(RULES)
            waiting = await clerk.execute_async("bank.pay", {"amount": 1000})
            approval = await pending(chief)
            await operator.set_policies("")
            assert await code_of(chief.decide(approval.id, YES)) == "access_denied"
            assert (await chief.decide(approval.id, NO)).status == "rejected"
            assert (await clerk.wait_execution(waiting.id)).output == "rejected"


async def test_a_signed_request_decides_as_its_secret(tmp_path: Path) -> None:
    """A signed request needs no key; the record has the principal of the secret, and its name as an unverified note."""
    async with plane_at(tmp_path, api_key=SecretStr(KEY)) as plane:
        clerk_key = await key_of(plane, "caller", tags=("clerk",))
        async with (
            bank(plane, KEY),
            ControlPlaneClient(plane.url, KEY) as operator,
            ControlPlaneClient(plane.url, clerk_key) as clerk,
        ):
            await operator.set_policies(RULES)
            waiting = await clerk.execute_async("bank.pay", {"amount": 1})
            approval = await pending(operator)
            text = json.dumps({"approval_id": approval.id, "decision": "approved", "by": "the CFO"})
            signed = signature(SecretStr(SECRET), text.encode(), at=time.time())
            headers = {HEADER: signed, "Content-Type": "application/json"}
            async with (
                aiohttp.ClientSession() as http,
                http.post(f"{plane.url}/api/v1/webhooks/approvals", data=text, headers=headers) as response,
            ):
                view = await response.json()
            assert (response.status, view["principal"], view["by"]) == (200, "webhook:settings", "the CFO")
            assert (await clerk.wait_execution(waiting.id)).output == "approved"


async def test_development_mode_records_that_one_decides_alone(tmp_path: Path) -> None:
    """In development mode who asked may decide; the log says that it was its own."""
    async with plane_at(tmp_path) as plane, bank(plane, None), ControlPlaneClient(plane.url) as client:
        waiting = await client.execute_async("bank.pay", {"amount": 1})
        approval = await pending(client)
        assert (await client.decide(approval.id, YES)).principal == "local"
        assert (await client.wait_execution(waiting.id)).output == "approved"
        events = await plane.engine._store.read_events(waiting.run_id)
        [body] = [json.loads(event.body or b"{}") for event in events if event.type == "approval.decided"]
        assert (body["principal"], body["own"]) == ("local", True)
