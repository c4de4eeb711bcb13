"""The local provider: its manifest, and the supervisor that finds, starts, adopts and outlives a server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from agentfield.adapterkit.http import http_session
from agentfield.errors import AgentFieldError, InvalidInput, NotFound, ProviderUnavailable
from agentfield.plugins import Registry
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.provider import CallRef, DirectAdapter
from agentfield_local import adapters, plugin
from agentfield_local.adapters import LocalWebRtcAdapter
from agentfield_local.brain import ObedientBrain
from agentfield_local.process.state_file import write_state
from agentfield_local.process.supervisor import STATE_FILE, Supervisor
from agentfield_local.server import LocalServer
from agentfield_local.speech.synthetic import synthetic_engines
from support.providers.local_server import Caller
from support.providers.openai import Runtime, config
from support.waiting import until


def local_config() -> SessionConfig:
    return config(model="local-realtime-1", voice="tone", transcription="moonshine-tiny-en", provider="local")


@asynccontextmanager
async def supervising(runtime: Runtime) -> AsyncIterator[tuple[Supervisor, aiohttp.ClientSession]]:
    async with http_session() as http:
        supervisor = Supervisor(runtime, http, engines="synthetic", linger=30)
        try:
            yield supervisor, http
        finally:
            await supervisor.close()


def runtime_at(folder: Path) -> Runtime:
    return Runtime("", data_dir=folder, started=[])


@asynccontextmanager
async def running(
    folder: Path, *, key: str = "token-of-the-server", state_token: str | None = None
) -> AsyncIterator[LocalServer]:
    """Run a server in this process, with its state file."""
    async with LocalServer(synthetic_engines(), ObedientBrain(), key=key) as server:
        write_state(folder / STATE_FILE, port=server.port, url=server.url, token=state_token or key)
        yield server


def test_the_manifest_is_valid_and_its_names_are_complete() -> None:
    """The pairs need no key and have no prices, so no cost limit; models and voices are closed lists."""
    registry = Registry.of([plugin])
    assert [record.state for record in registry.plugins] == ["ok"]
    names = ["local/audio_turns", "local/webrtc", "local/websocket"]
    assert [pair.name for pair, _ in registry.pairs()] == names
    for pair, _ in registry.pairs():
        assert pair.capabilities.default_transcription == "moonshine-tiny-en"
        assert "cost" not in pair.capabilities.limits
        assert pair.capabilities.routing == "fixed"
    provider = registry.provider("local")
    assert (provider.models.default, provider.models.closed) == ("local-realtime-1", True)
    assert (provider.voices.default, provider.voices.closed) == ("joe", True)
    assert not provider.key_required


async def test_a_server_is_started_as_a_process_and_found_again(tmp_path: Path) -> None:
    """The first use starts it with this interpreter and no secret on its command line; the second finds it running."""
    runtime = runtime_at(tmp_path)
    async with supervising(runtime) as (supervisor, _):
        assert await supervisor.find() is None
        provider = await supervisor.ensure()
        again = await supervisor.ensure()
        assert again == provider
        assert runtime.started is not None
        (argv,) = runtime.started
        assert argv[:3] == [sys.executable, "-m", "agentfield_local"]
        state = json.loads((tmp_path / STATE_FILE).read_text())
        assert provider.key is not None
        assert provider.key.get_secret_value() == state["token"]
        assert state["token"] not in " ".join(argv)
        second = runtime_at(tmp_path)
        async with supervising(second) as (other, _):
            assert (await other.ensure()).base_url == provider.base_url
            assert second.started == []


async def test_a_call_starts_the_server_again_when_it_has_ended(tmp_path: Path) -> None:
    """If the server ends between calls, the next call starts it again; calls of the old one are not found."""
    runtime = runtime_at(tmp_path)
    async with supervising(runtime) as (supervisor, http):
        adapter = LocalWebRtcAdapter(supervisor, runtime, http)
        first = await _negotiate(adapter)
        pid = json.loads((tmp_path / STATE_FILE).read_text())["pid"]
        os.kill(pid, 15)
        await until(lambda: not (tmp_path / STATE_FILE).exists())
        with pytest.raises(NotFound):
            await adapter.attach(first, local_config())
        await adapter.hang_up(first)
        second = await _negotiate(adapter)
        assert len(runtime.started or ()) == 2
        session = await adapter.attach(second, local_config())
        await session.close()
        await adapter.hang_up(second)


async def _negotiate(adapter: DirectAdapter) -> CallRef:
    caller = Caller()
    try:
        return (await adapter.negotiate(await caller.offer(), local_config())).ref
    finally:
        await caller.close()


async def test_pairs_that_start_at_once_share_one_server(tmp_path: Path) -> None:
    """Each pair has a supervisor of its own on the same folder; one of them starts the server, the others find it."""
    runtimes = [runtime_at(tmp_path) for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        supervisors = [(await stack.enter_async_context(supervising(runtime)))[0] for runtime in runtimes]
        providers = await asyncio.gather(*(supervisor.ensure() for supervisor in supervisors))
        assert len({provider.base_url for provider in providers}) == 1
        assert sum(len(runtime.started or ()) for runtime in runtimes) == 1


async def test_a_running_server_is_adopted(tmp_path: Path) -> None:
    """A live server is adopted if it accepts the token of its state file."""
    runtime = runtime_at(tmp_path)
    async with running(tmp_path) as server, supervising(runtime) as (supervisor, _):
        provider = await supervisor.ensure()
        assert provider.base_url == server.base_url
        assert runtime.started == []


async def test_a_server_that_rejects_the_token_is_not_adopted(tmp_path: Path) -> None:
    """Another user's server on the same port is left alone."""
    async with running(tmp_path, state_token="another-token"), supervising(runtime_at(tmp_path)) as (supervisor, _):
        assert await supervisor.find() is None


@pytest.mark.parametrize("flaw", ["open to all", "dead", "elsewhere", "broken", "no token", "silent"])
async def test_an_untrusted_state_file_is_ignored(tmp_path: Path, flaw: str) -> None:
    """No adoption if the file is readable by others, is not JSON, has no token, or names a dead process, another machine or a closed port."""
    file = tmp_path / STATE_FILE
    async with running(tmp_path) as server, supervising(runtime_at(tmp_path)) as (supervisor, _):
        state = json.loads(file.read_text())
        changes: dict[str, dict[str, Any]] = {
            "dead": {"pid": 2**22 + 1},
            "elsewhere": {"url": "http://example.com:80"},
            "no token": {"token": None},
            "silent": {"url": "http://127.0.0.1:9"},
        }
        file.write_text("{" if flaw == "broken" else json.dumps({**state, **changes.get(flaw, {})}))
        file.chmod(0o644 if flaw == "open to all" else 0o600)
        assert await supervisor.find() is None
        assert server.port


class _PrintingRuntime(Runtime):
    """A runtime whose child prints one line and ends."""

    def child(self, argv: Sequence[str], *, ready_timeout: float = 60.0) -> Any:
        line = json.dumps({"code": "speech_unavailable", "detail": "No engines here.", "hint": "install them"})
        text = line if "synthetic" in argv else "hello"
        return super().child([sys.executable, "-c", f"print({text!r})"], ready_timeout=ready_timeout)


async def test_the_error_of_a_child_is_raised(tmp_path: Path) -> None:
    """A problem document on the child's first line becomes the same error."""
    async with supervising(_PrintingRuntime("", data_dir=tmp_path)) as (supervisor, _):
        with pytest.raises(AgentFieldError, match="No engines here") as caught:
            await supervisor.ensure()
    assert (caught.value.code, caught.value.hint) == ("speech_unavailable", "install them")


async def test_a_child_with_another_first_line_is_unusable(tmp_path: Path) -> None:
    """A first line without an address is a typed error."""
    async with http_session() as http:
        supervisor = Supervisor(_PrintingRuntime("", data_dir=tmp_path), http, engines="synthetic ")
        with pytest.raises(ProviderUnavailable) as caught:
            await supervisor.ensure()
        await supervisor.close()
    assert caught.value.code == "local_server_unusable"


async def test_a_configured_address_is_used_and_no_server_is_started(tmp_path: Path) -> None:
    """With AGENTFIELD_LOCAL_URL the adapter uses that server, with or without /v1 in the address."""
    async with LocalServer(synthetic_engines(), ObedientBrain()) as server:
        for url in (server.url, server.base_url):
            runtime = Runtime(url, SecretStr("any"), data_dir=tmp_path, started=[])
            async with adapters.webrtc(runtime) as adapter:
                await adapter.hang_up(await _negotiate(adapter))
            assert runtime.started == []
        assert len(server.calls) == 2


async def test_an_invalid_address_is_refused(tmp_path: Path) -> None:
    """The error names the setting."""
    with pytest.raises(InvalidInput, match="AGENTFIELD_LOCAL_URL"):
        async with adapters.webrtc(Runtime("http://example.com", data_dir=tmp_path)):
            pass


def test_the_state_folder_is_private(tmp_path: Path) -> None:
    """A folder that is created for the state file, and the file itself, are accessible to their owner only."""
    file = tmp_path / "home" / "local.json"
    write_state(file, port=1, url="http://127.0.0.1:1", token="secret")
    assert (file.parent.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
