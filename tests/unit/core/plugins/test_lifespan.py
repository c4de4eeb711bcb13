"""Start and stop of plugins with hooks: order, settings, failures and deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentfield.errors import PluginBroken
from agentfield.plugins import HookRuntime
from agentfield.plugins.hooks.lifespan import PluginLifespans
from support.core.hooks import plugin, registry


def recording(name: str, told: list[str], **options: Any) -> Any:
    """Return a plugin that notes its start and stop."""

    @asynccontextmanager
    async def lifespan(runtime: HookRuntime) -> AsyncIterator[None]:
        told.append(f"{name} starts")
        try:
            yield
        finally:
            told.append(f"{name} stops")

    return plugin(name, lifespan=lifespan, **options)


def lifespans(home: Path, *plugins: object, environ: dict[str, str] | None = None, **seconds: float) -> PluginLifespans:
    return PluginLifespans(registry(*plugins), home=home, environ=environ or {}, **seconds)


async def test_plugins_start_by_name_and_stop_in_reverse(tmp_path: Path) -> None:
    """Plugins without the hook are left out."""
    told: list[str] = []
    async with lifespans(tmp_path, recording("b", told), plugin("c"), recording("a", told)):
        told.append("runs")
    assert told == ["a starts", "b starts", "runs", "b stops", "a stops"]


async def test_the_runtime_has_the_settings_of_the_manifest_and_a_folder(tmp_path: Path) -> None:
    """A setting is a secret; an empty one is not set; one that the manifest does not name is refused."""
    seen: list[HookRuntime] = []

    @asynccontextmanager
    async def lifespan(runtime: HookRuntime) -> AsyncIterator[None]:
        seen.append(runtime)
        yield

    made = plugin("../export", lifespan=lifespan, settings=("EXPORT_URL", "EXPORT_KEY", "EXPORT_X"))
    environ = {"EXPORT_URL": "https://a.example", "EXPORT_KEY": "", "OTHER": "x"}
    async with lifespans(tmp_path, made, environ=environ):
        (runtime,) = seen
        url = runtime.setting("EXPORT_URL")
        assert url is not None
        assert (url.get_secret_value(), str(url)) == ("https://a.example", "**********")
        assert (runtime.setting("EXPORT_KEY"), runtime.setting("EXPORT_X")) == (None, None)
        with pytest.raises(KeyError, match="OTHER"):
            runtime.setting("OTHER")
        assert runtime.data_dir == tmp_path / "plugins" / "___export"
        assert runtime.data_dir.is_dir()
        assert runtime.clock() > 1e9
        assert runtime.logger.name == "agentfield.plugin.../export"


async def test_a_task_group_may_span_the_lifespan(tmp_path: Path) -> None:
    """It is entered and exited in one task."""
    told: list[str] = []

    @asynccontextmanager
    async def lifespan(runtime: HookRuntime) -> AsyncIterator[None]:
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            flush = asyncio.Event()
            tasks.create_task(flush.wait())
            yield
            flush.set()
        told.append("flushed")

    async with lifespans(tmp_path, plugin("export", lifespan=lifespan)):
        pass
    assert told == ["flushed"]


@asynccontextmanager
async def raises(runtime: HookRuntime) -> AsyncIterator[None]:
    raise OSError("secret-4711")
    yield


@asynccontextmanager
async def exits(runtime: HookRuntime) -> AsyncIterator[None]:
    raise SystemExit(3)
    yield


@asynccontextmanager
async def hangs(runtime: HookRuntime) -> AsyncIterator[None]:
    await asyncio.Event().wait()
    yield


@pytest.mark.parametrize(
    ("lifespan", "why"),
    [
        (raises, "failed to start"),
        (exits, "failed to start"),
        (lambda: None, "failed to start"),
        (hangs, "did not start within 0.05 s"),
    ],
)
async def test_a_plugin_that_does_not_start_prevents_the_start(
    tmp_path: Path, lifespan: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The error names the plugin and the way out, not its cause; those that had started are stopped."""
    told: list[str] = []
    with pytest.raises(PluginBroken) as caught:
        async with lifespans(tmp_path, recording("a", told), plugin("b", lifespan=lifespan), enter=0.05):
            raise AssertionError
    assert caught.value.message == (
        f"The plugin 'b' {why}. The control plane does not start without it: its hooks would fail."
    )
    assert caught.value.hint == "see the control plane's log, or start it with AGENTFIELD_DISABLE_PLUGINS=b"
    assert told == ["a starts", "a stops"]


async def test_a_plugin_that_fails_or_hangs_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the others are stopped as well."""
    told: list[str] = []

    @asynccontextmanager
    async def fails(runtime: HookRuntime) -> AsyncIterator[None]:
        yield
        raise ValueError("late")

    @asynccontextmanager
    async def lingers(runtime: HookRuntime) -> AsyncIterator[None]:
        yield
        await asyncio.Event().wait()

    plugins = [recording("a", told), plugin("b", lifespan=fails), plugin("c", lifespan=lingers)]
    async with lifespans(tmp_path, *plugins, leave=0.05):
        pass
    assert told == ["a starts", "a stops"]
    assert "plugin.hook_failed plugin=b hook=agentfield_lifespan: ValueError" in caplog.text
    assert "plugin.hook_failed plugin=c hook=agentfield_lifespan: it did not stop within 0.05 s" in caplog.text
