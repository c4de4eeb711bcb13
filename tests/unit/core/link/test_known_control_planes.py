"""What a node knows of its control plane, against control planes that state or prove another DID."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from agentfield.errors import InvalidInput, NodeRefused
from agentfield.identity import NodeKey, b64url
from agentfield.link import NodeLink
from agentfield.link.known_control_planes import KnownControlPlanes
from agentfield.link.state import LinkState
from agentfield.settings import control_plane_did
from agentfield.wire.frames import Result, Welcome
from support.core.control_plane import Plane, control_plane, invoke, salts

ONE, OTHER = NodeKey.generate().did, NodeKey.generate().did
URL = "https://voice.example.com/agents"


def test_the_first_one_of_an_address_is_remembered(tmp_path: Path) -> None:
    """For other processes too; another address may have another control plane."""
    known = KnownControlPlanes(tmp_path / "known")
    known.check(URL, ONE)
    known.remember(URL, ONE)
    for again in (known, KnownControlPlanes(tmp_path / "known")):
        again.check(URL, ONE)
        again.check("https://other.example.com/agents", OTHER)
        for stated in (OTHER, None):
            with pytest.raises(NodeRefused) as caught:
                again.check(URL, stated)
            assert caught.value.code == "control_plane_changed"
            assert not caught.value.data.get("retry")
    (file,) = (tmp_path / "known").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_written_remembers_for_this_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The link goes on, with a warning, and the process still refuses another one."""
    (tmp_path / "file").write_text("")
    known = KnownControlPlanes(tmp_path / "file" / "known")
    known._write = _refuse_to_write  # type: ignore[method-assign]
    known._read = lambda _url: None  # type: ignore[method-assign]
    known.remember(URL, ONE)
    assert "will be taken for new by the next process" in caplog.text
    with pytest.raises(NodeRefused):
        known.check(URL, OTHER)


def _refuse_to_write(url: str, did: str) -> None:
    raise PermissionError(f"{url} {did}")


def test_what_cannot_be_read_is_not_taken_for_unknown(tmp_path: Path) -> None:
    """A file that cannot be read is a refusal with the way out, not a first use."""
    known = KnownControlPlanes(tmp_path)
    known.remember(URL, ONE)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(NodeRefused, match="cannot be read") as caught:
        KnownControlPlanes(tmp_path).check(URL, ONE)
    assert caught.value.hint == f"rm '{file}'"


def test_the_number_of_remembered_addresses_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were learned first are forgotten."""
    monkeypatch.setattr("agentfield.link.known_control_planes._MAX_FILES", 5)
    known = KnownControlPlanes(tmp_path)
    for port in range(20):
        known.remember(f"http://127.0.0.1:{port}", ONE)
    assert len(list(tmp_path.iterdir())) == 5


def test_the_setting_must_be_a_did() -> None:
    """A value that is no did:key is refused at the start."""
    assert control_plane_did({}) is None
    assert control_plane_did({"AGENTFIELD_CONTROL_PLANE_DID": f" {ONE} "}) == ONE
    for value in ("did:web:example.com", "z6Mk", "did:key:z0OIl"):
        with pytest.raises(InvalidInput, match="AGENTFIELD_CONTROL_PLANE_DID"):
            control_plane_did({"AGENTFIELD_CONTROL_PLANE_DID": value})


def node(plane: Plane, known: KnownControlPlanes | None = None) -> NodeLink:
    return NodeLink(
        node_id="shop", key=NodeKey.generate(), reasoners={}, sessions={}, url=lambda: plane.url, known=known
    )


@pytest.mark.parametrize("signature", ["AAAA", b64url(bytes(64))])
async def test_a_control_plane_proves_the_did_that_it_states(signature: str) -> None:
    """One that only repeats a remembered DID is refused, and not remembered."""
    async with control_plane() as plane:
        plane.welcome = Welcome(signature=signature)
        known = KnownControlPlanes()
        with pytest.raises(NodeRefused, match="does not prove") as caught:
            await node(plane, known).run()
    assert caught.value.code == "bad_signature"
    known.check(plane.url, OTHER)


async def test_a_known_control_plane_is_not_replaced_by_one_of_version_1() -> None:
    """A control plane that hides its version and its DID is refused, where the DID is known."""
    async with control_plane() as plane:
        known = KnownControlPlanes()
        known.remember(plane.url, plane.key.did)
        plane.offered = ()
        with pytest.raises(NodeRefused, match="version 1 of the node link only") as caught:
            await node(plane, known).run()
    assert caught.value.code == "control_plane_changed"


def test_work_of_version_1_keeps_the_link_at_version_1() -> None:
    """An attempt without salts, running or reported and not acknowledged, can be reported in version 1 only."""
    state = LinkState()
    state.link_opened(Welcome())
    assert state.newest_protocol == 2
    old = invoke("fn", {}, execution_id="exe_old")
    given, ended = map(b64url, salts(old))
    state.receive_frame(replace(invoke("fn", {}), input_salt=given, output_salt=ended))
    assert state.newest_protocol == 2
    state.receive_frame(old)
    assert state.newest_protocol == 1
    result = Result(execution_id="exe_old", attempt=1, epoch=1, status="succeeded", input_digest="u", signature="s")
    state.attempt_finished(result)
    assert state.newest_protocol == 1
    state.link_opened(Welcome(ack=("exe_old",)))
    assert state.newest_protocol == 2
