"""Keys: development mode and its end, scopes, expiry and revocation, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.errors import AgentFieldError, Conflict, Forbidden, InvalidInput, NotFound
from agentfield.plugins import Registry
from agentfield.wire.access import KeyRequest
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings
from support.server.bad_input import af
from support.waiting import SECONDS, until

SETTINGS_KEY = "settings-key-0123456789"


@asynccontextmanager
async def plane_at(home: Path, **settings: Any) -> AsyncIterator[ControlPlane]:
    async with control_plane(Settings(home=home, port=0, **settings), registry=Registry.of([]), environ={}) as plane:
        yield plane


async def make(plane: ControlPlane, by: str | None, *scopes: Any, **fields: Any) -> tuple[str, str]:
    """Create a key; return its id and its text."""
    async with ControlPlaneClient(plane.url, by) as client:
        made = await client.create_key(KeyRequest(scopes=scopes, **fields))
    assert made.key is not None
    return made.id, made.key


async def status(
    plane: ControlPlane, path: str, key: str | None, method: str = "GET", **headers: str
) -> tuple[int, str]:
    """Return status and code of a request."""
    given = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        aiohttp.ClientSession(headers={**given, **headers}) as http,
        http.request(method, f"{plane.url}{path}", json={} if method == "POST" else None) as response,
    ):
        text = await response.text()
        problem = response.content_type == "application/problem+json"
        return response.status, json.loads(text)["code"] if problem else ""


async def ended(stream: aiohttp.ClientResponse) -> bool:
    """Read a stream to its end, or until its connection is lost."""
    try:
        async with asyncio.timeout(SECONDS):
            while await stream.content.readline():
                pass
    except aiohttp.ClientError:
        return True
    return True


def shop(plane: ControlPlane, key: str | None, name: str = "shop") -> Agent:
    app = Agent(name, url=plane.url, api_key=key, registry=Registry.of([]))

    @app.reasoner()
    async def half(n: int) -> int:
        return n // 2

    return app


async def test_the_first_key_ends_development_mode_for_good(tmp_path: Path) -> None:
    """Without a key everything is open on loopback; the first key, an operator's, ends that, also after its revocation."""
    async with plane_at(tmp_path) as plane:
        assert await status(plane, "/api/v1/nodes", None) == (200, "")
        with pytest.raises(Conflict, match="scope operator") as caught:
            await make(plane, None, "caller")
        assert caught.value.code == "first_key"
        key_id, key = await make(plane, None, "operator")
        assert await status(plane, "/api/v1/nodes", None) == (401, "unauthorized")
        assert await status(plane, "/api/v1/nodes", key) == (200, "")
    async with plane_at(tmp_path) as plane:  # a restart finds it
        assert await status(plane, "/api/v1/nodes", None) == (401, "unauthorized")
        async with ControlPlaneClient(plane.url, key) as client:
            assert (await client.revoke_key(key_id)).state == "revoked"
        assert await status(plane, "/api/v1/nodes", None) == (401, "unauthorized")
        assert await status(plane, "/api/v1/nodes", key) == (401, "key_revoked")
    with pytest.raises(InvalidInput) as refused:
        async with plane_at(tmp_path):
            pass
    assert refused.value.code == "key_required"
    assert "has keys, but no valid one with the scope operator" in refused.value.message
    async with plane_at(tmp_path, api_key=SecretStr(SETTINGS_KEY)) as plane:
        assert await status(plane, "/api/v1/nodes", None) == (401, "unauthorized")
        assert await status(plane, "/api/v1/nodes", SETTINGS_KEY) == (200, "")


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via"])
async def test_development_mode_refuses_what_a_proxy_forwards(tmp_path: Path, header: str) -> None:
    """A request with a header of a proxy is refused while no key is needed, and taken with a key."""
    async with plane_at(tmp_path) as plane:
        for path in ("/healthz", "/api/v1/nodes", "/call"):
            assert await status(plane, path, None, **{header: "203.0.113.9"}) == (403, "forwarded")
        _, key = await make(plane, None, "operator")
        assert await status(plane, "/api/v1/nodes", key, **{header: "203.0.113.9"}) == (200, "")


async def test_a_public_address_needs_a_key(tmp_path: Path) -> None:
    """With AGENTFIELD_PUBLIC_URL others can reach the control plane: it does not start without a key."""
    with pytest.raises(InvalidInput) as caught:
        async with plane_at(tmp_path, public_url="https://voice.example.com"):
            pass
    assert caught.value.code == "key_required"


async def test_a_key_does_what_its_scopes_say(tmp_path: Path) -> None:
    """Each scope opens its own routes; the settings' key has all; a key is stored as a digest only."""
    async with plane_at(tmp_path, api_key=SecretStr(SETTINGS_KEY)) as plane:
        keys = {
            scope: (await make(plane, SETTINGS_KEY, scope))[1]
            for scope in ("operator", "starter", "caller", "approver", "node", "reader")
        }
        routes = {
            "/api/v1/keys": {"operator"},
            "/api/v1/nodes": {"operator", "reader"},
            "/api/v1/approvals": {"operator", "approver", "reader"},
            "/api/v1/sessions": {"operator", "starter", "reader"},
            "/metrics": {"operator", "reader"},
        }
        for path, scopes in routes.items():
            for scope, key in keys.items():
                expected = (200, "") if scope in scopes else (403, "scope_missing")
                assert await status(plane, path, key) == expected, (path, scope)
        async with shop(plane, keys["node"]), ControlPlaneClient(plane.url, keys["caller"]) as client:
            assert (await client.execute("shop.half", {"n": 4})).output == 2
            with pytest.raises(Forbidden) as refused:
                await client.nodes()
            assert "operator or reader" in str(refused.value)
            async with ControlPlaneClient(plane.url, keys["operator"]) as operator:
                with pytest.raises(Forbidden):
                    await operator.execute("shop.half", {"n": 4})
        raw = (tmp_path / "agentfield.db").read_bytes() + (tmp_path / "agentfield.db-wal").read_bytes()
        assert not any(key.encode() in raw for key in keys.values())


async def test_a_caller_sees_its_own_calls_only(tmp_path: Path) -> None:
    """Another key of the same scope gets the answer of a missing execution or run, and cannot name either as a parent."""
    async with plane_at(tmp_path, api_key=SecretStr(SETTINGS_KEY)) as plane:
        (_, one), (_, two) = [await make(plane, SETTINGS_KEY, "caller") for _ in range(2)]
        async with (
            shop(plane, SETTINGS_KEY),
            ControlPlaneClient(plane.url, one) as mine,
            ControlPlaneClient(plane.url, two) as other,
            ControlPlaneClient(plane.url, SETTINGS_KEY) as operator,
        ):
            done = await mine.execute("shop.half", {"n": 4})
            assert (await mine.get_execution(done.id)).output == 2
            assert (await operator.get_execution(done.id)).output == 2
            said: list[AgentFieldError] = []
            for execution_id in (done.id, "exe_" + "0" * 32):
                with pytest.raises(NotFound) as caught:
                    await other.get_execution(execution_id)
                said.append(caught.value)
            assert {error.code for error in said} == {"unknown_execution"}
            assert said[0].message.replace(done.id, "") == said[1].message.replace("exe_" + "0" * 32, "")
            found = await other.executions_status([done.id])
            assert (found.executions, found.unknown) == ((), (done.id,))
            assert await status(plane, f"/api/v1/workflows/{done.run_id}/dag", two) == (404, "unknown_run")
            for header, value in (("X-Run-ID", done.run_id), ("X-Parent-Execution-ID", done.id)):
                path = "/api/v1/execute/shop.half"
                assert await status(plane, path, two, "POST", **{header: value}) == (422, "foreign_parent")


async def test_a_key_expires(tmp_path: Path) -> None:
    """An expired key is refused with its own code."""
    async with plane_at(tmp_path, api_key=SecretStr(SETTINGS_KEY)) as plane:
        _, key = await make(plane, SETTINGS_KEY, "reader", expires_in=0.000001)
        assert await status(plane, "/api/v1/nodes", key) == (401, "key_expired")


async def test_a_store_key_in_the_settings_keeps_its_scopes(tmp_path: Path) -> None:
    """A key of the store that a control plane is started with gets no further scopes by that, and stays revoked."""
    async with plane_at(tmp_path, api_key=SecretStr(SETTINGS_KEY)) as plane:
        key_id, key = await make(plane, SETTINGS_KEY, "reader")
    async with plane_at(tmp_path, api_key=SecretStr(key)) as plane:
        assert await status(plane, "/api/v1/nodes", key) == (200, "")
        assert await status(plane, "/api/v1/keys", key) == (403, "scope_missing")
    async with (
        plane_at(tmp_path, api_key=SecretStr(SETTINGS_KEY)) as plane,
        ControlPlaneClient(plane.url, SETTINGS_KEY) as client,
    ):
        await client.revoke_key(key_id)
        with pytest.raises(NotFound) as caught:
            await client.revoke_key("0123456789ab")
        assert caught.value.code == "unknown_key"
    async with plane_at(tmp_path, api_key=SecretStr(key)) as plane:
        assert await status(plane, "/api/v1/nodes", key) == (401, "key_revoked")


async def test_a_wrong_key_locks_nobody_out(tmp_path: Path) -> None:
    """After many wrong keys, also with the id of a valid one, the valid key is taken at once."""
    async with plane_at(tmp_path, api_key=SecretStr(SETTINGS_KEY)) as plane:
        key_id, key = await make(plane, SETTINGS_KEY, "reader")
        for wrong in (f"sk_af_{key_id}_wrong", f"sk_af_{key_id}", "sk_af_", "é", key[:-1], key + "x") * 20:
            code, _ = await status(plane, "/api/v1/nodes", wrong)
            assert code in (401, 429)
        assert await status(plane, "/api/v1/nodes", key) == (200, "")


async def test_revoking_a_key_closes_its_streams_and_links(tmp_path: Path) -> None:
    """A stream that was opened with a key ends when the key is revoked, as does a node's link."""
    async with plane_at(tmp_path, api_key=SecretStr(SETTINGS_KEY)) as plane:
        node_id, node_key = await make(plane, SETTINGS_KEY, "node")
        caller_id, caller = await make(plane, SETTINGS_KEY, "caller")
        async with shop(plane, node_key), ControlPlaneClient(plane.url, SETTINGS_KEY) as operator:
            async with ControlPlaneClient(plane.url, caller) as client:
                done = await client.execute("shop.half", {"n": 4})
            async with (
                aiohttp.ClientSession(headers={"Authorization": f"Bearer {caller}"}) as http,
                http.get(f"{plane.url}/api/v1/workflows/{done.run_id}/events") as stream,
            ):
                assert await stream.content.readline()
                await operator.revoke_key(caller_id)
                assert await ended(stream)
            assert [view.connected for view in await operator.nodes()] == [True]
            await operator.revoke_key(node_id)
            await until(lambda: not plane.hub.links())


async def test_af_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`af keys` makes, lists and revokes keys; a key is shown once, and a refusal names the next step."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    monkeypatch.delenv("AGENTFIELD_API_KEY", raising=False)
    async with plane_at(tmp_path) as plane:
        code, out, _ = await af("keys", "list", "--url", plane.url)
        assert (code, out) == (0, "There are no keys: development mode, requests need none.\n")
        code, out, _ = await af(
            "keys", "create", "--scope", "operator", "--note", "for me", "--url", plane.url, "--json"
        )
        made = json.loads(out)
        assert (code, made["scopes"], made["state"]) == (0, ["operator"], "valid")
        code, _, err = await af("keys", "list", "--url", plane.url)
        assert (code, "af keys create" in err) == (2, True)
        monkeypatch.setenv("AGENTFIELD_API_KEY", made["key"])
        code, out, _ = await af(
            "keys", "create", "--scope", "starter", "--tag", "staff", "--expires", "30d", "--url", plane.url
        )
        assert code == 0
        assert "key        sk_af_" in out
        assert "tags       staff\n" in out
        with monkeypatch.context() as given:
            given.setenv("AGENTFIELD_API_KEY", out.split()[1])
            code, _, err = await af("nodes", "--url", plane.url)
            assert (code, "makes such a key with: af keys create --scope reader\n" in err) == (2, True)
        code, out, _ = await af("keys", "list", "--url", plane.url)
        assert code == 0
        assert "for me" in out
        assert "sk_af_" not in out
        code, _, err = await af("keys", "create", "--scope", "starter", "--expires", "soon", "--url", plane.url)
        assert (code, "--expires 12h, or 30d" in err) == (2, True)
        code, _, err = await af("keys", "create", "--scope", "boss", "--url", plane.url)
        assert (code, "scopes" in err) == (2, True)
        code, out, _ = await af("keys", "revoke", made["id"], "--url", plane.url)
        assert (code, out) == (0, f"{made['id']} was revoked\n")
        code, _, err = await af("keys", "list", "--url", plane.url)
        assert (code, "key_revoked" in err) == (2, True)
