"""Lifetime of adapters in the pool: entered once with their own settings, exited at the end; their child processes."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentfield.errors import InvalidInput, PluginBroken, ProviderUnavailable
from agentfield.plugins import Capabilities, Manifest, PairSpec, ProviderSpec, Registry, hookimpl
from agentfield_server import adapter_lifetime, adapter_pool
from agentfield_server.adapter_pool import AdapterPool

entered: list[Any] = []
left: list[Any] = []


@asynccontextmanager
async def factory(runtime: Any) -> AsyncIterator[Any]:
    """Yield an adapter that is its own runtime."""
    entered.append(runtime)
    yield runtime
    left.append(runtime)


@asynccontextmanager
async def raises(runtime: Any) -> AsyncIterator[Any]:
    """Raise before it is entered."""
    yield 1 / 0


@asynccontextmanager
async def exits(runtime: Any) -> AsyncIterator[Any]:
    """Ask the process to exit."""
    yield sys.exit(3)


@asynccontextmanager
async def hangs(runtime: Any) -> AsyncIterator[Any]:
    """Never yield."""
    await asyncio.Event().wait()
    yield runtime


@asynccontextmanager
async def empty(runtime: Any) -> AsyncIterator[Any]:
    """Yield no adapter."""
    yield None


async def bare(runtime: Any) -> AsyncIterator[Any]:
    """Lack the decorator."""
    yield runtime


@asynccontextmanager
async def stays(runtime: Any) -> AsyncIterator[Any]:
    """Refuse to exit, and each cancellation until `entered` is empty again."""
    entered.append(runtime)
    yield runtime
    while entered:
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            left.append("cancelled")


@asynccontextmanager
async def same_task(runtime: Any) -> AsyncIterator[Any]:
    """Enter a task group, which must be exited in the same task."""
    async with asyncio.TaskGroup():
        entered.append(runtime)
        yield runtime
        left.append(runtime)


def registry(use: str = "factory", **provider: Any) -> Registry:
    @hookimpl
    def agentfield_manifest() -> Manifest:
        pair = PairSpec(
            provider="acme",
            transport="webrtc",
            factory=f"{__name__}:{use}",
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


@pytest.mark.parametrize(
    ("use", "says"),
    [
        ("raises", "its factory raised ZeroDivisionError"),
        ("exits", "the factory asked to exit (3)"),
        ("bare", "returns a async generator, not an async context manager"),
        ("empty", "test_adapter_lifetime:empty yields nothing"),
        ("missing", "could not be imported: AttributeError"),
    ],
)
async def test_a_broken_factory_is_reported_with_its_plugin(tmp_path: Path, use: str, says: str) -> None:
    """The error names the pair, the plugin and the fault, and the next use tries again."""
    plugins = registry(use, key_required=False)
    pool = AdapterPool(plugins, home=tmp_path, environ={})
    pair = plugins.resolve("acme", "webrtc")
    for _ in range(2):
        with pytest.raises(PluginBroken) as broken:
            await pool.get(pair, "")
        assert broken.value.message.startswith(f"The adapter of acme/webrtc ({plugins.pair_plugin(pair).label})")
        assert says in broken.value.message
        assert "af plugins check" in str(broken.value.hint)
    await pool.close()


async def test_a_factory_that_hangs_is_reported_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the plugin, and the factory is cancelled."""
    monkeypatch.setattr(adapter_pool, "_ENTER_TIMEOUT", 0.05)
    plugins = registry("hangs", key_required=False)
    pool = AdapterPool(plugins, home=tmp_path, environ={})
    with pytest.raises(ProviderUnavailable, match=r"The adapter of acme/webrtc \(.+\) did not get ready") as late:
        await pool.get(plugins.resolve("acme", "webrtc"), "")
    assert late.value.code == "adapter_not_ready"
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("adapter ")]


async def test_an_adapter_that_does_not_exit_cannot_block_the_shutdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is cancelled, then abandoned, and the log names its plugin; other adapters are exited."""
    monkeypatch.setattr(adapter_lifetime, "_EXIT_WAIT", 0.05)
    monkeypatch.setattr(adapter_lifetime, "_CANCEL_WAIT", 0.05)
    plugins = registry("stays", key_required=False)
    pool = AdapterPool(plugins, home=tmp_path, environ={})
    await pool.get(plugins.resolve("acme", "webrtc"), "")
    with caplog.at_level(logging.WARNING, logger="agentfield.adapters"):
        await pool.close()
    assert left == ["cancelled"]
    assert "did not exit within" in caplog.text
    assert "ignores its cancellation and is left running" in caplog.text
    entered.clear()


async def test_an_adapter_is_entered_and_exited_in_one_task(tmp_path: Path) -> None:
    """A factory may use a task group, whoever uses and closes the pool."""
    plugins = registry("same_task", key_required=False)
    pool = AdapterPool(plugins, home=tmp_path, environ={})
    await asyncio.create_task(pool.get(plugins.resolve("acme", "webrtc"), ""))
    await asyncio.create_task(pool.close())
    assert len(entered) == len(left) == 1
