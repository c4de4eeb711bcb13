"""Lifetime of adapters in the pool: entered once with their own settings, exited at the end; their child processes."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentfield.errors import InvalidInput, ProviderUnavailable
from agentfield.plugins import Capabilities, Manifest, PairSpec, ProviderSpec, Registry, hookimpl
from agentfield_server.adapter_pool import AdapterPool

entered: list[Any] = []
left: list[Any] = []


@asynccontextmanager
async def factory(runtime: Any) -> AsyncIterator[Any]:
    """Yield an adapter that is its own runtime."""
    entered.append(runtime)
    yield runtime
    left.append(runtime)


def registry(**provider: Any) -> Registry:
    @hookimpl
    def agentfield_manifest() -> Manifest:
        pair = PairSpec(
            provider="acme",
            transport="webrtc",
            factory=f"{__name__}:factory",
            media="direct",
            capabilities=Capabilities(client_leg="watched"),
        )
        info = ProviderSpec(name="acme", title="Acme", default_url="https://acme.example/v1/", **provider)
        return Manifest(api=(2, 0), providers=(info,), pairs=(pair,))

    return Registry.of([SimpleNamespace(agentfield_manifest=agentfield_manifest)])


@pytest.fixture(autouse=True)
def _fresh() -> None:
    entered.clear()
    left.clear()


async def test_an_adapter_is_entered_once_and_exited_at_the_end(tmp_path: Path) -> None:
    """A second `get` returns the same adapter; `close` exits it."""
    plugins = registry(key_setting="ACME_KEY", url_setting="ACME_URL")
    pool = AdapterPool(plugins, home=tmp_path, environ={"ACME_KEY": "sk-canary", "ACME_URL": "https://other.example/"})
    pair = plugins.resolve("acme", "webrtc")
    credential = pool.lease_credential(pair, "ses_1")
    runtime: Any = await pool.get(pair, credential)
    assert await pool.get(pair, credential) is runtime
    assert (runtime.base_url, runtime.key.get_secret_value()) == ("https://other.example", "sk-canary")
    assert "sk-canary" not in repr(runtime)
    assert runtime.data_dir.is_relative_to(tmp_path)
    await pool.close()
    assert (len(entered), len(left)) == (1, 1)


async def test_a_missing_key_is_an_error_with_its_setting(tmp_path: Path) -> None:
    """Without its key a provider is refused with the variable to set."""
    plugins = registry(key_setting="ACME_KEY")
    pool = AdapterPool(plugins, home=tmp_path, environ={})
    with pytest.raises(InvalidInput, match="Acme needs a key") as refused:
        await pool.get(plugins.resolve("acme", "webrtc"), "")
    assert refused.value.code == "key_missing"
    assert "ACME_KEY" in str(refused.value.hint)


async def test_a_key_may_be_optional(tmp_path: Path) -> None:
    """A provider with an optional key gets the key if it is set."""
    plugins = registry(key_setting="ACME_KEY", key_required=False)
    for environ, wanted in (({}, None), ({"ACME_KEY": "token"}, "token")):
        pool = AdapterPool(plugins, home=tmp_path, environ=environ)
        pair = plugins.resolve("acme", "webrtc")
        runtime: Any = await pool.get(pair, pool.lease_credential(pair, "ses_1"))
        assert runtime.base_url == "https://acme.example/v1"
        assert (runtime.key.get_secret_value() if runtime.key else None) == wanted
        await pool.close()


async def test_a_child_process_becomes_ready_or_fails_clearly(tmp_path: Path) -> None:
    """The first line of a child is returned; a child that exits or stays silent is an error that names its log."""
    plugins = registry()
    pool = AdapterPool(plugins, home=tmp_path, environ={})
    runtime: Any = await pool.get(plugins.resolve("acme", "webrtc"), "")
    async with runtime.child([sys.executable, "-c", "print('here I am')"]) as child:
        assert child.first_line == "here I am"
    with pytest.raises(ProviderUnavailable, match="exit code 3") as ended:
        async with runtime.child([sys.executable, "-c", "raise SystemExit(3)"]):
            pass
    assert "child.log" in str(ended.value.hint)
    # the child is the one that never gets ready: it sleeps until it is killed
    with pytest.raises(ProviderUnavailable, match="not ready"):
        async with runtime.child([sys.executable, "-c", "import time; time.sleep(60)"], ready_timeout=0.3):
            pass
    await pool.close()
