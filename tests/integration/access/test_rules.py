"""Rules of access on a running control plane: starts, calls, nested calls, nodes, tags, files, and their revocation."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.errors import AgentFieldError, Conflict, Forbidden, InvalidInput, NodeRefused
from agentfield.wire.access import ExplainRequest, KeyRequest, TagRequest
from agentfield.wire.rest import StartRequest
from agentfield_server.access.admission import UNREADABLE, AccessControl
from agentfield_server.access.keys import KeyService
from agentfield_server.access.policy_file import MAX_DOCUMENT
from agentfield_server.access.policy_source import PolicySource
from agentfield_server.access.tags import TagRegister
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings
from agentfield_server.store.sqlite.store import SqliteStore
from agentfield_server.testing.agent_files import load_agent
from support.paths import ROOT
from support.server.bad_input import af
from support.waiting import SECONDS, until_async

KEY = "settings-key-0123456789"
EXAMPLES = ROOT / "examples"


@asynccontextmanager
async def plane_at(home: Path, **settings: Any) -> AsyncIterator[ControlPlane]:
    environ = {"OPENAI_API_KEY": "sk-not-used-here"}
    async with control_plane(Settings(home=home, port=0, **settings), environ=environ) as plane:
        yield plane


@asynccontextmanager
async def keyed(home: Path, **settings: Any) -> AsyncIterator[tuple[ControlPlane, ControlPlaneClient]]:
    async with (
        plane_at(home, api_key=SecretStr(KEY), **settings) as plane,
        ControlPlaneClient(plane.url, KEY) as client,
    ):
        yield plane, client


async def key_of(operator: ControlPlaneClient, *scopes: Any, tags: tuple[str, ...] = ()) -> tuple[str, str]:
    made = await operator.create_key(KeyRequest(scopes=scopes, tags=tags))
    assert made.key is not None
    return f"key:{made.id}", made.key


def bank(plane: ControlPlane, key: str | None = KEY) -> Agent:
    app = Agent("bank", url=plane.url, api_key=key)

    @app.reasoner(tags=["money:move"])
    async def refund(amount: float) -> float:
        return amount

    @app.reasoner()
    async def hours() -> str:
        return "nine to five"

    return app


def shop(plane: ControlPlane, key: str | None = KEY) -> Agent:
    app = Agent("shop", url=plane.url, api_key=key)

    @app.reasoner(tags=["support"])
    async def sorry(amount: float) -> Any:
        return await app.call("bank.refund", amount=amount)

    return app


async def code_of(work: Any) -> str:
    """Return the code of the error that an awaitable raises."""
    with pytest.raises(AgentFieldError) as caught:
        await work
    return caught.value.code


async def test_the_example_of_the_promise(tmp_path: Path) -> None:
    """`tags=["support:voice"]`: on a keyed plane only whom the rules of examples/access let in starts the session."""
    agent = load_agent("voice_support/agent.py", [EXAMPLES])
    async with keyed(tmp_path, policies=EXAMPLES / "access" / "policies.toml") as (plane, operator):
        agent._url, agent._api_key = plane.url, KEY
        _, staff = await key_of(operator, "starter", tags=("support-desk",))
        other_id, other = await key_of(operator, "starter")
        async with agent, ControlPlaneClient(plane.url, staff) as may, ControlPlaneClient(plane.url, other) as may_not:
            request = StartRequest(target="voice-support.voice")
            started = await may.start_session(request)
            assert (await may.get_session(started.session_id)).state == "created"
            assert await code_of(may_not.start_session(request)) == "access_denied"
            assert await code_of(operator.start_session(request)) == "access_denied"
            assert await code_of(may_not.get_session(started.session_id)) == "unknown_session"
            assert [view.id for view in await may.list_sessions()] == [started.session_id]
            assert await may_not.list_sessions() == []
            created = await plane.engine._store.read_events(started.run_id)
            bodies = [json.loads(event.body) for event in created if event.type == "execution.created" and event.body]
            assert bodies[0]["access"] == {"version": 1, "rules": ["the desk takes calls"]}
            with pytest.raises(Forbidden) as caught:
                await may_not.start_session(request)
            said = caught.value
            assert (
                said.message
                == f"{other_id} may not call voice-support.voice: voice-support.voice is tagged, and no rule allows it."
            )
            assert said.hint == f"an operator sees why with: af access explain {other_id} voice-support.voice"


async def test_rules_are_written_over_rest_and_hold_at_once(tmp_path: Path) -> None:
    """Without a file REST writes the rules: each is a version; an untagged target needs the scope, a tagged one a rule."""
    async with keyed(tmp_path) as (plane, operator):
        name, key = await key_of(operator, "caller", tags=("clerk",))
        async with bank(plane), ControlPlaneClient(plane.url, key) as clerk:
            assert (await clerk.execute("bank.hours", {})).output == "nine to five"
            assert await code_of(clerk.execute("bank.refund", {"amount": 1})) == "access_denied"
            rule = '[[rule]]\nfrom = ["tag:clerk"]\nto = ["bank.refund"]\neffect = "allow"\nwhen = {amount = {at_most = 9}}\n'
            assert (await operator.set_policies(rule)).version == 1
            assert (await operator.set_policies(rule)).version == 1
            assert (await clerk.execute("bank.refund", {"amount": 9})).output == 9
            assert await code_of(clerk.execute("bank.refund", {"amount": 9.5})) == "access_denied"
            assert await code_of(operator.set_policies("[[rule]]")) == "bad_policies"
            denied = rule + f'[[rule]]\nid = "out"\nfrom = ["{name}"]\nto = ["*"]\neffect = "deny"\n'
            assert (await operator.set_policies(denied)).version == 2
            with pytest.raises(Forbidden) as caught:
                await clerk.execute("bank.hours", {})
            assert (caught.value.data["rule"], caught.value.data["policy_version"]) == ("out", 2)
    async with keyed(tmp_path) as (_, operator):
        assert (await operator.policies()).document == denied


async def test_a_nested_call_has_the_rights_of_its_chain(tmp_path: Path) -> None:
    """Every edge of the chain must be allowed, its first caller's included; a node's own call has the node's own rights."""
    rules = (
        '[[rule]]\nid = "in"\nfrom = ["tag:clerk"]\nto = ["tag:support"]\neffect = "allow"\n'
        '[[rule]]\nid = "pay"\nfrom = ["tag:support"]\nto = ["tag:money:move"]\neffect = "allow"\n'
        '[[rule]]\nid = "never"\nfrom = ["tag:trainee"]\nto = ["tag:money:move"]\neffect = "deny"\n'
    )
    async with keyed(tmp_path) as (plane, operator):
        await operator.set_policies(rules)
        _, clerk_key = await key_of(operator, "caller", tags=("clerk",))
        _, trainee_key = await key_of(operator, "caller", tags=("clerk", "trainee"))
        _, node_key = await key_of(operator, "node")
        async with (
            bank(plane, node_key),
            shop(plane, node_key) as node,
            ControlPlaneClient(plane.url, clerk_key) as clerk,
            ControlPlaneClient(plane.url, trainee_key) as trainee,
        ):
            # the tag of shop.sorry is only declared: it restricts, and gives no right
            with pytest.raises(Forbidden, match=r"shop\.sorry may not call bank\.refund"):
                await clerk.execute("shop.sorry", {"amount": 1})
            await operator.approve_tag(TagRequest(name="shop.sorry", tag="support"))
            assert (await clerk.execute("shop.sorry", {"amount": 1})).output == 1
            assert await code_of(clerk.execute("bank.refund", {"amount": 1})) == "access_denied"
            with pytest.raises(Forbidden, match="never"):
                await trainee.execute("shop.sorry", {"amount": 1})
            # outside of a reasoner the node's own tags and scopes decide
            with pytest.raises(Forbidden, match="node:shop may not call"):
                await node.call("bank.refund", amount=1)
            assert await code_of(node.call("bank.hours")) == "scope_missing"
            await operator.approve_tag(TagRequest(name="node:shop", tag="support"))
            assert await node.call("bank.refund", amount=2) == 2


async def test_a_parent_named_over_rest_gives_no_right(tmp_path: Path) -> None:
    """A rule for a function lets its callers call through it only: to name its execution as the parent is not enough."""
    rules = """
    [[rule]]
    from = ["*"]
    to = ["shop.sorry"]
    effect = "allow"

    [[rule]]
    from = ["shop.sorry"]
    to = ["bank.refund"]
    effect = "allow"
    """
    async with keyed(tmp_path) as (plane, operator):
        await operator.set_policies(rules)
        name, key = await key_of(operator, "caller")
        async with (
            bank(plane),
            shop(plane),
            ControlPlaneClient(plane.url, key) as caller,
            aiohttp.ClientSession(plane.url, headers={"Authorization": f"Bearer {key}"}) as http,
        ):
            through = await caller.execute("shop.sorry", {"amount": 5})
            assert through.output == 5
            for target, status in (("bank.refund", 403), ("bank.hours", 200)):
                async with http.post(
                    f"/api/v1/execute/{target}",
                    json={"input": {"amount": 5000} if status == 403 else {}},
                    headers={"X-Parent-Execution-ID": through.id},
                ) as response:
                    body = await response.json()
                    assert response.status == status
                    assert status == 200 or (body["code"], body["caller"]) == ("access_denied", name)


async def test_a_tag_once_seen_stays(tmp_path: Path) -> None:
    """A later hello without the tag, also after a restart, leaves the target closed until an operator removes the tag."""
    async with keyed(tmp_path) as (plane, operator), bank(plane):
        assert [(view.name, view.tag, view.approved) for view in await operator.tags()] == [
            ("bank.refund", "money:move", False)
        ]
    async with keyed(tmp_path) as (plane, operator):
        app = Agent("bank", url=plane.url, api_key=KEY)

        @app.reasoner()
        async def refund(amount: float) -> float:
            return amount

        async with app:
            assert await code_of(operator.execute("bank.refund", {"amount": 1})) == "access_denied"
            await operator.remove_tag("bank.refund", "money:move")
            assert (await operator.execute("bank.refund", {"amount": 1})).output == 1
            assert await code_of(operator.remove_tag("bank.refund", "money:move")) == "unknown_tag"


async def test_too_many_tags_are_refused(tmp_path: Path) -> None:
    """A hello whose target has too many or too long tags is refused; nothing of it is stored."""
    async with keyed(tmp_path) as (plane, operator):
        for tags in ([f"t{number}" for number in range(51)], ["t" * 101]):
            with pytest.raises(NodeRefused) as caught:
                await plane.hub._declared("bank", "key:a", [("bank.refund", tag) for tag in tags])
            assert caught.value.code == "bad_tags"
        assert await operator.tags() == []


async def test_development_mode_is_open_until_there_are_rules(tmp_path: Path) -> None:
    """`local` may call anything, tags included, and nothing is recorded of it; once rules are given, they hold."""
    async with (
        plane_at(tmp_path) as plane,
        ControlPlaneClient(plane.url) as client,
        bank(plane, None),
        shop(plane, None),
    ):
        assert (await client.execute("shop.sorry", {"amount": 1})).output == 1
        assert (await client.explain_access(ExplainRequest(caller="local", target="bank.refund"))).allowed
        await client.set_policies("")
        assert await code_of(client.execute("bank.refund", {"amount": 1})) == "access_denied"
        await client.set_policies('[[rule]]\nfrom = ["local"]\nto = ["*"]\neffect = "allow"\n')
        assert (await client.execute("bank.refund", {"amount": 1})).output == 1


async def test_a_file_of_rules_is_read_only_and_watched(tmp_path: Path) -> None:
    """With AGENTFIELD_POLICIES REST only reads; a change of the file is in force soon, and is a version of its own."""
    file = tmp_path / "policies.toml"
    file.write_text("")
    async with keyed(tmp_path, policies=file) as (plane, operator), bank(plane):
        with pytest.raises(Conflict) as caught:
            await operator.set_policies("")
        assert caught.value.code == "policies_in_file"
        assert await code_of(operator.execute("bank.refund", {"amount": 1})) == "access_denied"
        file.write_text('[[rule]]\nfrom = ["*"]\nto = ["*"]\neffect = "allow"\n')

        async def second() -> bool:
            return (await operator.policies()).version == 2

        await until_async(second)
        assert (await operator.execute("bank.refund", {"amount": 1})).output == 1
        file.write_text("[[rule")
        assert (await operator.execute("bank.refund", {"amount": 1})).output == 1
    with pytest.raises(InvalidInput) as refused:
        async with keyed(tmp_path, policies=file):
            pass
    assert refused.value.code == "bad_policies"


async def test_policies_are_a_regular_file_of_a_bounded_size(tmp_path: Path) -> None:
    """A pipe would block the start, and a device or a file without an end would take all memory."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"#" * (MAX_DOCUMENT + 2))
    for file, why in ((tmp_path / "pipe", "no regular file"), (Path("/dev/null"), "no regular file")):
        with pytest.raises(InvalidInput, match=why):
            async with keyed(tmp_path / "home", policies=file):
                pass
    with pytest.raises(InvalidInput, match=f"more than {MAX_DOCUMENT} characters"):
        async with keyed(tmp_path / "home", policies=tmp_path / "large"):
            pass


async def test_without_readable_policies_nothing_new_starts(tmp_path: Path) -> None:
    """When the file has been unreadable for 10 s, nothing is admitted; once it can be read again, all is as before."""
    now, file = [0.0], tmp_path / "policies.toml"
    file.write_text("")
    store = SqliteStore(tmp_path / "s.db", on_commit=lambda _rows: None, clock=lambda: now[0])
    await store.open()
    try:
        keys = KeyService(store, clock=lambda: now[0])
        control = AccessControl(store, keys, TagRegister(store, given={}), clock=lambda: now[0])
        source = PolicySource(store, control, file=file, changed=lambda: None)
        await source.load()
        file.unlink()
        now[0] += UNREADABLE
        control.admit_call("local", None, "a.b", {})
        now[0] += 0.1
        for admitted in (
            lambda: control.admit_call("local", None, "a.b", {}),
            lambda: control.admit_session("local", "a.b"),
        ):
            with pytest.raises(AgentFieldError) as caught:
                admitted()
            assert caught.value.code == "policies_unreadable"
        file.write_text("")
        await source.load()
        control.admit_call("local", None, "a.b", {})
    finally:
        await store.close()


async def test_a_revoked_rule_closes_what_it_opened(tmp_path: Path) -> None:
    """When the rule that let a session start is gone, its streams end and its token opens nothing more."""
    agent = load_agent("voice_support/agent.py", [EXAMPLES])
    rule = '[[rule]]\nfrom = ["tag:desk"]\nto = ["tag:support:voice"]\neffect = "allow"\n'
    async with keyed(tmp_path) as (plane, operator):
        agent._url, agent._api_key = plane.url, KEY
        await operator.set_policies(rule)
        _, staff = await key_of(operator, "starter", tags=("desk",))
        async with agent, ControlPlaneClient(plane.url, staff) as may:
            started = await may.start_session(StartRequest(target="voice-support.voice"))
            headers = {"Authorization": f"Bearer {started.token}"}
            path = f"{plane.url}/api/v1/sessions/{started.session_id}"
            async with aiohttp.ClientSession(headers=headers) as http:
                async with http.get(f"{path}/events") as stream:
                    assert await stream.content.readline()
                    await operator.set_policies("")
                    with contextlib.suppress(aiohttp.ClientError):
                        async with asyncio.timeout(SECONDS):
                            while await stream.content.readline():
                                pass
                for method, sub in (("GET", ""), ("GET", "/events"), ("POST", "/input"), ("POST", "/offer")):
                    async with http.request(method, path + sub, data=b"") as response:
                        assert (response.status, (await response.json())["code"]) == (403, "access_denied"), sub

            async def ended() -> bool:
                return (await operator.get_session(started.session_id)).end_reason == "operator"

            await until_async(ended)


async def test_af_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`af access` explains, tests, shows and sets rules, and approves and removes tags."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    monkeypatch.setenv("AGENTFIELD_API_KEY", KEY)
    file = EXAMPLES / "access" / "policies.toml"
    assert await af("access", "test", str(file)) == (0, "5 passed, 0 failed\n", "")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(file.read_text().replace("at_most = 50", "at_most = 10"))
    code, out, _ = await af("access", "test", str(wrong))
    assert code == 1
    assert "failed: test 3, key:desk -> voice-support.voice -> bank.refund: expected allow, but" in out
    code, _, err = await af("access", "test", str(tmp_path / "none.toml"))
    assert (code, "code: bad_policies" in err) == (2, True)
    async with keyed(tmp_path) as (plane, operator):
        name, _ = await key_of(operator, "caller", tags=("clerk",))
        url = ("--url", plane.url)
        async with bank(plane):
            assert (await af("access", "show", *url))[1] == "There are no rules: tagged targets are closed.\n"
            code, out, _ = await af("access", "explain", name, "bank.refund", *url)
            assert (code, out.splitlines()[0]) == (1, f"{name} -> bank.refund  refused  no rule")
            code, out, _ = await af("access", "explain", name, "bank.hours", *url)
            assert (code, out.splitlines()[-1]) == (0, "allowed: the target has no tags (policies version 0)")
            rules = tmp_path / "rules.toml"
            rules.write_text('[[rule]]\nid = "r"\nfrom = ["tag:clerk"]\nto = ["bank.*"]\neffect = "allow"\n')
            code, out, _ = await af("access", "set", str(rules), *url)
            assert (code, out) == (0, rules.read_text())
            code, out, _ = await af("access", "explain", name, "bank.refund", *url)
            assert (code, out.splitlines()[-1]) == (0, "allowed: the rule 'r' allows it (policies version 1)")
            code, out, _ = await af("access", "explain", "key:none", "bank.refund", *url)
            assert code == 1
            assert "no key, node, transport or target that has rights" in out
            starter, _ = await key_of(operator, "starter", tags=("clerk",))
            code, out, _ = await af("access", "explain", starter, "bank.refund", *url)
            assert (code, "has no scope caller" in out) == (1, True)
            assert (await af("access", "approve", "bank.refund", "money:move", *url))[0] == 0
            code, out, _ = await af("access", "tags", *url)
            assert (code, "key:settings" in out) == (0, True)
            assert (await af("access", "remove", "bank.refund", "money:move", *url))[0] == 0
            code, _, err = await af("access", "explain", name, "bank.nothing", *url)
            assert (code, "unknown_target" in err) == (2, True)
