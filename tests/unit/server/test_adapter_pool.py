"""Credential leases of the adapter pool: sessions are spread over a provider's keys, and refused beyond their limits."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield.errors import InvalidInput, LimitExceeded, Unavailable
from agentfield.plugins import Capabilities, Manifest, PairSpec, ProviderSpec, Registry, hookimpl
from agentfield_server.adapter_pool import AdapterPool, credential_name

ONE, TWO = "sk-canary-one", "sk-canary-two"


class Runtimes:
    """Records the runtimes with which adapters were entered and exited."""

    def __init__(self) -> None:
        self.entered: list[Any] = []
        self.left: list[Any] = []


seen: list[Runtimes] = []


@asynccontextmanager
async def factory(runtime: Any) -> AsyncIterator[Any]:
    """Yield an adapter that is its own runtime."""
    seen[-1].entered.append(runtime)
    yield runtime
    seen[-1].left.append(runtime)


@pytest.fixture(autouse=True)
def runtimes() -> Runtimes:
    seen[:] = [Runtimes()]
    return seen[-1]


def pool_of(
    home: Path,
    key: str | None = None,
    *,
    concurrency: Mapping[str, int] | None = None,
    own_limit: int | None = None,
    key_required: bool = True,
) -> tuple[AdapterPool, PairSpec, PairSpec]:
    """Return a pool with one provider, and its two pairs."""
    specs = tuple(
        PairSpec(
            provider="acme",
            transport=transport,
            factory=f"{__name__}:factory",
            media="bridged",
            capabilities=Capabilities(),
        )
        for transport in ("websocket", "webrtc")
    )
    info = ProviderSpec(
        name="acme", title="Acme", key_setting="ACME_KEY", key_required=key_required, concurrency=own_limit
    )

    @hookimpl
    def agentfield_manifest() -> Manifest:
        return Manifest(api=(2, 0), providers=(info,), pairs=specs)

    registry = Registry.of([SimpleNamespace(agentfield_manifest=agentfield_manifest)])
    environ = {} if key is None else {"ACME_KEY": key}
    return AdapterPool(registry, home=home, environ=environ, concurrency=concurrency or {}), *specs


def test_a_credential_name_is_a_fingerprint() -> None:
    """The name of a key is ten digits of its hash, and that of no key is empty."""
    assert credential_name(ONE) == hashlib.sha256(ONE.encode()).hexdigest()[:10]
    assert credential_name("") == ""


def test_sessions_are_spread_over_the_keys(tmp_path: Path) -> None:
    """Each session gets the key with the fewest sessions, over all pairs; spaces, blanks and repeated keys do not count."""
    pool, websocket, webrtc = pool_of(tmp_path, f" {ONE} , {TWO},, {ONE}")
    given_keys = [
        pool.lease_credential(pair, f"ses_{n}") for n, pair in enumerate((websocket, webrtc, websocket, webrtc))
    ]
    assert given_keys == [credential_name(ONE), credential_name(TWO)] * 2
    pool.release_credential("ses_1")
    assert pool.lease_credential(websocket, "ses_9") == credential_name(TWO)


def test_a_busy_provider_is_refused_with_the_settings_that_help(tmp_path: Path) -> None:
    """Beyond every key's limit a start is a 429 that names the settings and no key; a release frees a lease."""
    pool, pair, _ = pool_of(tmp_path, f"{ONE},{TWO}", concurrency={"acme": 1})
    pool.lease_credential(pair, "ses_1")
    pool.lease_credential(pair, "ses_2")
    with pytest.raises(LimitExceeded) as refused:
        pool.lease_credential(pair, "ses_3")
    assert (refused.value.status, refused.value.code) == (429, "provider_busy")
    assert str(refused.value) == (
        "Acme is busy: the control plane has with each of its 2 keys the 1 session that it may have at once.\n"
        "  hint: wait for a session to end, or set AGENTFIELD_PROVIDER_CONCURRENCY=acme=N to allow more, or put another "
        "key into ACME_KEY, behind a comma"
    )
    assert refused.value.data == {"provider": "acme", "limit": 1, "retry_after": 5}
    pool.release_credential("ses_1")
    pool.release_credential("ses_unknown")
    assert pool.lease_credential(pair, "ses_3") == credential_name(ONE)


@pytest.mark.parametrize(
    ("own_limit", "concurrency", "admitted"), [(None, {}, 20), (3, {}, 3), (3, {"acme": 5}, 5), (3, {"other": 5}, 3)]
)
def test_the_limit_is_the_providers_own_unless_set(
    tmp_path: Path, own_limit: int | None, concurrency: dict[str, int], admitted: int
) -> None:
    """The setting overrides the provider's declaration; without both there is no limit."""
    pool, pair, _ = pool_of(tmp_path, ONE, own_limit=own_limit, concurrency=concurrency)
    count = 0
    for n in range(20):
        try:
            pool.lease_credential(pair, f"ses_{n}")
        except LimitExceeded:
            break
        count += 1
    assert count == admitted


def test_a_repeated_lease_changes_nothing(tmp_path: Path) -> None:
    """A session that leases twice has one key and counts once."""
    pool, pair, _ = pool_of(tmp_path, f"{ONE},{TWO}", concurrency={"acme": 1})
    first = pool.lease_credential(pair, "ses_1")
    assert pool.lease_credential(pair, "ses_1") == first
    assert pool.lease_credential(pair, "ses_1", credential_name(TWO)) == first
    assert pool.lease_credential(pair, "ses_2") != first


def test_a_session_leases_its_earlier_key_after_a_restart(tmp_path: Path) -> None:
    """A named key is leased and counted, and not refused by the limit."""
    pool, pair, _ = pool_of(tmp_path, f"{ONE},{TWO}", concurrency={"acme": 1})
    for n in range(3):
        assert pool.lease_credential(pair, f"ses_{n}", credential_name(TWO)) == credential_name(TWO)
    assert pool.lease_credential(pair, "ses_8") == credential_name(ONE)
    with pytest.raises(LimitExceeded):
        pool.lease_credential(pair, "ses_9")


async def test_a_removed_key_is_a_clear_error(tmp_path: Path) -> None:
    """A session whose key is not set any more is refused with the setting, and so is its adapter."""
    pool, pair, _ = pool_of(tmp_path, ONE)
    with pytest.raises(Unavailable, match="The session's key of Acme is not among those") as gone:
        pool.lease_credential(pair, "ses_1", credential_name(TWO))
    assert (gone.value.code, gone.value.hint) == (
        "credential_gone",
        "start the control plane with that key in ACME_KEY",
    )
    with pytest.raises(Unavailable) as unknown:
        await pool.get(pair, credential_name(TWO))
    assert unknown.value.code == "credential_gone"
    for text in (str(gone.value.to_problem()), str(unknown.value.to_problem())):
        assert ONE not in text
        assert TWO not in text


def test_a_missing_key_is_an_error_with_its_setting(tmp_path: Path) -> None:
    """No lease is given if the key is missing or consists of commas only."""
    for key in (None, "", " , "):
        pool, pair, _ = pool_of(tmp_path, key)
        with pytest.raises(InvalidInput, match="needs a key") as missing:
            pool.lease_credential(pair, "ses_1")
        assert missing.value.code == "key_missing"


async def test_each_pair_and_key_has_its_adapter(tmp_path: Path, runtimes: Runtimes) -> None:
    """Each pair and key has one adapter, entered on first use and exited at the end."""
    pool, websocket, webrtc = pool_of(tmp_path, f"{ONE},{TWO}")
    assert runtimes.entered == []
    adapters: list[Any] = [
        await pool.get(pair, credential_name(key)) for pair in (websocket, webrtc) for key in (ONE, TWO)
    ]
    assert len({id(adapter) for adapter in adapters}) == 4
    assert [adapter.key.get_secret_value() for adapter in adapters] == [ONE, TWO, ONE, TWO]
    assert await pool.get(websocket, credential_name(TWO)) is adapters[1]
    assert ONE not in repr(adapters)
    await pool.close()
    assert sorted(map(id, runtimes.left)) == sorted(map(id, adapters))  # they are exited at the same time
    with pytest.raises(Unavailable, match="shutting down"):
        await pool.get(websocket, credential_name(ONE))


async def test_a_provider_without_a_key(tmp_path: Path) -> None:
    """Without a required key the credential name is empty, and the limit still applies."""
    pool, pair, _ = pool_of(tmp_path, key_required=False, concurrency={"acme": 1})
    assert pool.lease_credential(pair, "ses_1") == ""
    adapter: Any = await pool.get(pair, "")
    assert adapter.key is None
    with pytest.raises(LimitExceeded, match="with its key the 1 session"):
        pool.lease_credential(pair, "ses_2")
    await pool.close()


@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60),
    keys=st.integers(1, 4),
    limit=st.integers(1, 3),
)
def test_no_key_has_more_than_its_limit(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, int]], keys: int, limit: int
) -> None:
    """For random leases and releases, no key exceeds its limit, and no lease is refused below it."""
    pool, pair, _ = pool_of(
        tmp_path_factory.getbasetemp(), ",".join(f"key-{n}" for n in range(keys)), concurrency={"acme": limit}
    )
    has: dict[str, str] = {}
    for comes, number in steps:
        session = f"ses_{number}"
        if not comes:
            pool.release_credential(session)
            has.pop(session, None)
            continue
        try:
            has[session] = pool.lease_credential(pair, session)
        except LimitExceeded:
            assert len(has) == keys * limit
            assert session not in has
    counts = [list(has.values()).count(key) for key in set(has.values())]
    assert max(counts, default=0) <= limit
