"""The handshake of protocol 2: a hello counts for one control plane, one nonce and as a whole; nodes know their control plane."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentfield import Agent
from agentfield.errors import NodeRefused
from agentfield.identity import NodeKey
from agentfield.link.greetings import Greeter
from agentfield.link.known_control_planes import KnownControlPlanes
from agentfield.wire.frames import Challenge, Hello, Refused, Welcome, decode_server_frame
from agentfield.wire.framing import split_frames
from support.server.engine import Plane, RawNode, plane
from support.waiting import until


@pytest.fixture
async def cp(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path / "a.db") as running:
        yield running


async def said(cp: Plane, hello: Any) -> Any:
    """Open a link, send what `hello` makes of the challenge, and return the answer."""
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{cp.url}/api/v1/nodes/link") as socket:
        challenge = decode_server_frame(await socket.receive_str())
        assert isinstance(challenge, Challenge)
        assert challenge.did == cp.key.did
        await socket.send_str(hello(challenge))
        return decode_server_frame(split_frames(await socket.receive_str())[0])


def hello(key: NodeKey, challenge: Challenge, protocol: int = 2, **fields: Any) -> str:
    frame = Hello(protocol=protocol, node_id="shop", instance_id="one", did=key.did, signature="", nonce="n", **fields)
    return Greeter(key, KnownControlPlanes()).hello(frame, challenge, "http://plane")


def changed(field: str, value: Any) -> Any:
    return lambda challenge: challenge.model_copy(update={field: value})


@pytest.mark.parametrize(
    ("challenge", "edit"),
    [
        (changed("did", NodeKey.generate().did), None),
        (changed("nonce", "another"), None),
        (None, ('"concurrency":7', '"concurrency":8')),
        (None, ('"node_id":"shop"', '"node_id":"shop2"')),
        (None, ('"protocol":2', '"protocol":1')),
        (None, ('"draining":false', '"draining":true')),
        (None, ('"type":"hello"', '"type":"hello","future":1')),
    ],
    ids=["audience", "nonce", "concurrency", "node_id", "protocol", "draining", "added"],
)
async def test_a_hello_counts_as_a_whole_for_one_control_plane(
    cp: Plane, challenge: Any, edit: tuple[str, str] | None
) -> None:
    """A hello for another control plane or nonce, and one that was changed on the way, is refused; the original is not."""
    key = NodeKey.generate()
    for forged in (True, False):

        def sent(given: Challenge, forged: bool = forged) -> str:
            text = hello(key, challenge(given) if challenge and forged else given, concurrency=7)
            if edit and forged:
                assert edit[0] in text
                text = text.replace(*edit)
            return text

        answer = await said(cp, sent)
        if forged:
            assert isinstance(answer, Refused)
            assert (answer.problem["code"], answer.retry) == ("bad_signature", False)
        else:
            assert isinstance(answer, Welcome)


@pytest.mark.parametrize(("signed", "stated"), [(1, 2), (2, 1)])
async def test_the_version_is_what_the_hello_is_signed_as(cp: Plane, signed: int, stated: int) -> None:
    """A signature of version 1 is refused on a link of version 2, and the reverse."""
    key = NodeKey.generate()
    answer = await said(cp, lambda c: hello(key, c, signed).replace(f'"protocol":{signed}', f'"protocol":{stated}'))
    assert isinstance(answer, Refused)
    assert answer.problem["code"] == "bad_signature"


async def test_a_node_refuses_another_control_plane_at_the_same_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is remembered in a file, also by a later process; deleting the file accepts the new one."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path / "node"))
    async with plane(tmp_path / "a.db") as first:
        port, url = int(first.url.rpartition(":")[2]), first.url
        async with Agent("shop", url=url):
            await until(first.hub.links)
    (file,) = (tmp_path / "node" / "control_planes").iterdir()
    assert file.name == f"127.0.0.1:{port}"
    assert file.read_text(encoding="utf-8").strip() == first.key.did
    async with plane(tmp_path / "a.db", port=port) as again, Agent("shop", url=url):  # the same one after a restart
        await until(again.hub.links)
    async with plane(tmp_path / "b.db", port=port) as other:
        with pytest.raises(NodeRefused) as caught:
            async with Agent("shop", url=url):
                pass
        assert caught.value.code == "control_plane_changed"
        assert first.key.did in caught.value.message
        assert other.key.did in caught.value.message
        assert caught.value.hint == f"if the control plane was set up anew, forget the old one: rm '{file}'"
        assert other.hub.links() == []
        file.unlink()
        async with Agent("shop", url=url):
            await until(other.hub.links)


async def test_the_setting_names_the_only_control_plane(
    cp: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AGENTFIELD_CONTROL_PLANE_DID nothing is learned: the right one is accepted, any other one refused."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path / "node"))
    monkeypatch.setenv("AGENTFIELD_CONTROL_PLANE_DID", NodeKey.generate().did)
    with pytest.raises(NodeRefused) as caught:
        async with Agent("shop", url=cp.url):
            pass
    assert caught.value.code == "control_plane_changed"
    assert "AGENTFIELD_CONTROL_PLANE_DID" in str(caught.value)
    monkeypatch.setenv("AGENTFIELD_CONTROL_PLANE_DID", cp.key.did)
    async with Agent("shop", url=cp.url):
        await until(cp.hub.links)
    assert not (tmp_path / "node" / "control_planes").exists()


async def test_a_raw_node_of_version_1_is_welcomed_without_a_signature(cp: Plane) -> None:
    """A node of version 1 does not know the DID of the control plane."""
    for protocol in (1, 2):
        node = RawNode(protocol=protocol)
        async with node.linked(cp):
            assert node.welcome is not None
            assert (node.welcome.signature is None) == (protocol == 1)
