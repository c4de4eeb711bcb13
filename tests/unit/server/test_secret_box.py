"""Stored secrets are encrypted with a data key that only the issuer's key opens, and a rotation keeps them readable."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agentfield.client import ControlPlaneClient
from agentfield.errors import Unavailable
from agentfield.identity import NodeKey
from agentfield.wire.rest import WebhookRequest
from agentfield_server.app import control_plane
from agentfield_server.proof.issuer_key import did_document
from agentfield_server.proof.own_log import OwnLog
from agentfield_server.proof.secret_box import SecretBox
from agentfield_server.settings import Settings
from agentfield_server.store.records import Webhook
from agentfield_server.store.sqlite.store import SqliteStore


async def test_a_secret_opens_only_with_the_key_and_at_its_place(tmp_path: Path) -> None:
    """The stored form tells nothing, another place or data key does not open it, and earlier plain secrets are still read."""
    store = SqliteStore(tmp_path / "a.db", on_commit=lambda _: None, clock=lambda: 1.0)
    await store.open()
    try:
        old, new = NodeKey.generate(), NodeKey.generate()
        box = await SecretBox.open(store, old)
        sealed = box.seal("whk_1", "whsec_canary")
        assert "canary" not in sealed
        assert (await SecretBox.open(store, old)).open_text("whk_1", sealed) == "whsec_canary"
        assert box.open_text("whk_2", "whsec_plain") == "whsec_plain"
        with pytest.raises(Unavailable, match="cannot be opened") as refused:
            box.open_text("whk_2", sealed)
        assert refused.value.code == "secret_unreadable"
        with pytest.raises(Unavailable) as changed:
            await SecretBox.open(store, new)
        assert changed.value.code == "issuer_changed"
        rotated = await SecretBox.open(store, new, before=old)
        assert rotated.open_text("whk_1", sealed) == "whsec_canary"
        assert (await SecretBox.open(store, new)).open_text("whk_1", sealed) == "whsec_canary"
    finally:
        await store.close()


async def test_the_secret_of_a_webhook_is_not_in_the_store(tmp_path: Path) -> None:
    """A new secret is stored encrypted, and one that an earlier version stored in plain at the next start."""
    path = tmp_path / "agentfield.db"
    store = SqliteStore(path, on_commit=lambda _: None, clock=lambda: 1.0)
    await store.open()
    await store.add_webhook(Webhook(id="whk_1", url="https://x/", events=("*",), secret="whsec_canary", created_at=1.0))
    await store.close()
    async with control_plane(Settings(home=tmp_path, port=0)) as plane, ControlPlaneClient(plane.url) as client:
        added = await client.add_webhook(WebhookRequest(url="https://example.com/", events=("*",)))
    with closing(sqlite3.connect(path)) as connection:
        stored = [secret for (secret,) in connection.execute("SELECT secret FROM webhooks")]
    assert [secret.startswith("box1.") for secret in stored] == [True, True]
    assert added.secret not in stored


async def test_a_rotation_is_an_entry_of_the_own_log(tmp_path: Path) -> None:
    """Another key is refused without the one that it replaces; with it, both sign an entry that ends the old one."""
    old, new = NodeKey.generate(), NodeKey.generate()
    store = SqliteStore(tmp_path / "a.db", on_commit=lambda _: None, clock=lambda: 1.0)
    await store.open()
    try:
        await OwnLog.open(store, old, clock=lambda: 1.0)
        for before in (None, NodeKey.generate()):
            with pytest.raises(Unavailable) as refused:
                await OwnLog.open(store, new, clock=lambda: 1.0, before=before)
            assert refused.value.code == "issuer_changed"
        log = await OwnLog.open(store, new, clock=lambda: 1.0, before=old)
        (rotation,) = log.rotations
        assert (rotation["from"], rotation["to"], rotation["size"]) == (old.did, new.did, 1)
        again = await OwnLog.open(store, new, clock=lambda: 1.0, before=old)
        assert (again.size, again.rotations) == (1, log.rotations)
        await store.put_secret("issuer", old.did.encode())  # a crash between the entry and the name
        with pytest.raises(Unavailable, match="was replaced"):
            await OwnLog.open(store, old, clock=lambda: 1.0)
        resumed = await OwnLog.open(store, new, clock=lambda: 1.0, before=old)
        assert (resumed.size, await store.secret("issuer")) == (1, new.did.encode())
        with pytest.raises(Unavailable, match="was replaced") as refused:  # the keys of an export are all different
            await OwnLog.open(store, old, clock=lambda: 1.0, before=new)
        assert refused.value.code == "issuer_changed"
    finally:
        await store.close()


async def test_the_key_of_the_issuer_may_be_a_file(tmp_path: Path) -> None:
    """`AGENTFIELD_IDENTITY_KEY` names it; a missing file is refused with the command that makes one."""
    NodeKey.load_or_create(tmp_path / "issuer.pem")
    settings = Settings(home=tmp_path / "home", port=0, identity_key=tmp_path / "issuer.pem")
    async with control_plane(settings) as plane:
        assert plane.issuer.did == NodeKey.load(tmp_path / "issuer.pem").did
    assert not (tmp_path / "home" / "control_plane.pem").exists()
    with pytest.raises(Unavailable, match="cannot be read") as refused:
        async with control_plane(Settings(home=tmp_path / "home", port=0, identity_key=tmp_path / "none.pem")):
            pass
    assert refused.value.code == "key_unreadable"
    assert "openssl genpkey -algorithm ed25519" in str(refused.value.hint)


def test_the_did_document_is_an_alias() -> None:
    """The `did:web` of the address has the key of the `did:key`, and names it."""
    did = NodeKey.generate().did
    document = did_document(did, "http://127.0.0.1:8080")
    assert document["id"] == "did:web:127.0.0.1%3A8080"
    assert document["alsoKnownAs"] == [did]
    (method,) = document["verificationMethod"]
    assert f"did:key:{method['publicKeyMultibase']}" == did
    assert document["assertionMethod"] == [method["id"]]
