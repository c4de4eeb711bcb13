"""Who may use which key: sessions are spread over a provider's keys, and refused before the provider is called."""

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
from agentfield.plugins import Capabilities, Manifest, PairSpec, ProviderInfo, Registry, hookimpl
from agentfield_server.adapters import AdapterPool, credential_name

ONE, TWO = "sk-canary-one", "sk-canary-two"


class Runtimes:
    """The runtimes that adapters were entered and left with."""

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
    info = ProviderInfo(
        name="acme", title="Acme", key_setting="ACME_KEY", key_required=key_required, concurrency=own_limit
    )

    @hookimpl
    def agentfield_manifest() -> Manifest:
        return Manifest(api=(1, 0), providers=(info,), pairs=specs)

    registry = Registry.of([SimpleNamespace(agentfield_manifest=agentfield_manifest)])
    environ = {} if key is None else {"ACME_KEY": key}
    return AdapterPool(registry, home=home, environ=environ, concurrency=concurrency or {}), *specs


def test_a_credentials_name_is_a_fingerprint() -> None:
    """The name of a key is ten digits of its hash, and that of no key is empty."""
    assert credential_name(ONE) == hashlib.sha256(ONE.encode()).hexdigest()[:10]
    assert credential_name("") == ""


def test_sessions_are_spread_over_the_keys(tmp_path: Path) -> None:
    """Each session gets the key with the fewest sessions, over all pairs; spaces, blanks and repeated keys do not count."""
    pool, websocket, webrtc = pool_of(tmp_path, f" {ONE} , {TWO},, {ONE}")
    given_keys = [pool.admit(pair, f"ses_{n}") for n, pair in enumerate((websocket, webrtc, websocket, webrtc))]
    assert given_keys == [credential_name(ONE), credential_name(TWO)] * 2
    pool.release("ses_1")
    assert pool.admit(websocket, "ses_9") == credential_name(TWO)


def test_a_busy_provider_is_refused_with_the_settings_that_help(tmp_path: Path) -> None:
    """When each key has its limit the next session is a 429 that names the settings and no key; a release makes room."""
    pool, pair, _ = pool_of(tmp_path, f"{ONE},{TWO}", concurrency={"acme": 1})
    pool.admit(pair, "ses_1")
    pool.admit(pair, "ses_2")
    with pytest.raises(LimitExceeded) as refused:
        pool.admit(pair, "ses_3")
    assert (refused.value.status, refused.value.code) == (429, "provider_busy")
    assert str(refused.value) == (
        "Acme is busy: the control plane has with each of its 2 keys the 1 session that it may have at once.\n"
        "  hint: wait for a session to end, or set AGENTFIELD_PROVIDER_CONCURRENCY=acme=N to allow more, or put another "
        "key into ACME_KEY, behind a comma"
    )
    assert refused.value.data == {"provider": "acme", "limit": 1, "retry_after": 5}
    pool.release("ses_1")
    pool.release("ses_unknown")
    assert pool.admit(pair, "ses_3") == credential_name(ONE)


@pytest.mark.parametrize(
    ("own_limit", "concurrency", "admitted"), [(None, {}, 20), (3, {}, 3), (3, {"acme": 5}, 5), (3, {"other": 5}, 3)]
)
def test_the_limit_is_the_providers_own_unless_set(
    tmp_path: Path, own_limit: int | None, concurrency: dict[str, int], admitted: int
) -> None:
    """The setting goes over what the provider declares; with neither there is no limit."""
    pool, pair, _ = pool_of(tmp_path, ONE, own_limit=own_limit, concurrency=concurrency)
    count = 0
    for n in range(20):
        try:
            pool.admit(pair, f"ses_{n}")
        except LimitExceeded:
            break
        count += 1
    assert count == admitted


def test_admitting_again_changes_nothing(tmp_path: Path) -> None:
    """A session that is admitted twice has one key and counts once."""
    pool, pair, _ = pool_of(tmp_path, f"{ONE},{TWO}", concurrency={"acme": 1})
    first = pool.admit(pair, "ses_1")
    assert pool.admit(pair, "ses_1") == first
    assert pool.admit(pair, "ses_1", credential_name(TWO)) == first
    assert pool.admit(pair, "ses_2") != first


def test_a_session_comes_back_to_its_key_after_a_restart(tmp_path: Path) -> None:
    """A named key is the one that is given, counted, and not refused for the number of sessions."""
    pool, pair, _ = pool_of(tmp_path, f"{ONE},{TWO}", concurrency={"acme": 1})
    for n in range(3):
        assert pool.admit(pair, f"ses_{n}", credential_name(TWO)) == credential_name(TWO)
    assert pool.admit(pair, "ses_8") == credential_name(ONE)
    with pytest.raises(LimitExceeded):
        pool.admit(pair, "ses_9")


async def test_a_key_that_is_gone_is_a_clear_error(tmp_path: Path) -> None:
    """A session whose key is set no more is refused with the setting, and so is its adapter."""
    pool, pair, _ = pool_of(tmp_path, ONE)
    with pytest.raises(Unavailable, match="The session's key of Acme is not among those") as gone:
        pool.admit(pair, "ses_1", credential_name(TWO))
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


def test_a_key_that_is_needed_and_missing_is_named(tmp_path: Path) -> None:
    """Nobody is admitted where the key is missing or nothing but commas."""
    for key in (None, "", " , "):
        pool, pair, _ = pool_of(tmp_path, key)
        with pytest.raises(InvalidInput, match="needs a key") as missing:
            pool.admit(pair, "ses_1")
        assert missing.value.code == "key_missing"


async def test_each_pair_and_key_has_its_adapter(tmp_path: Path, runtimes: Runtimes) -> None:
    """One adapter for a pair and a key, with that key, entered on first use and left at the end."""
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
    assert runtimes.left == adapters[::-1]
    with pytest.raises(Unavailable, match="shutting down"):
        await pool.get(websocket, credential_name(ONE))


async def test_a_provider_without_a_key(tmp_path: Path) -> None:
    """Where no key is needed and none is set, the credential is empty and the limit counts all the same."""
    pool, pair, _ = pool_of(tmp_path, key_required=False, concurrency={"acme": 1})
    assert pool.admit(pair, "ses_1") == ""
    adapter: Any = await pool.get(pair, "")
    assert adapter.key is None
    with pytest.raises(LimitExceeded, match="with its key the 1 session"):
        pool.admit(pair, "ses_2")
    await pool.close()


@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60),
    keys=st.integers(1, 4),
    limit=st.integers(1, 3),
)
def test_no_key_has_more_than_its_limit(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, int]], keys: int, limit: int
) -> None:
    """Whatever comes and goes: no key is over its limit, and nobody is refused while a key has room."""
    pool, pair, _ = pool_of(
        tmp_path_factory.getbasetemp(), ",".join(f"key-{n}" for n in range(keys)), concurrency={"acme": limit}
    )
    has: dict[str, str] = {}
    for comes, number in steps:
        session = f"ses_{number}"
        if not comes:
            pool.release(session)
            has.pop(session, None)
            continue
        try:
            has[session] = pool.admit(pair, session)
        except LimitExceeded:
            assert len(has) == keys * limit
            assert session not in has
    counts = [list(has.values()).count(key) for key in set(has.values())]
    assert max(counts, default=0) <= limit
