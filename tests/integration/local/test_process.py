"""`python -m agentfield_local` as a process: ready line, state file, and end by signal or idle timeout."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agentfield_local", "--engines", "synthetic", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def ready(running: asyncio.subprocess.Process) -> dict[str, Any]:
    assert running.stdout is not None
    async with asyncio.timeout(60):
        line: dict[str, Any] = json.loads(await running.stdout.readline())
    return line


async def test_the_process_prints_a_ready_line_and_ends_on_a_signal(tmp_path: Path) -> None:
    """It prints one JSON line and writes a private state file with a token; SIGTERM ends it cleanly and removes the file."""
    state_file = tmp_path / "state" / "local.json"
    async with process("--state-file", str(state_file)) as running, aiohttp.ClientSession() as http:
        line = await ready(running)
        assert line == {"url": f"http://127.0.0.1:{line['port']}", "pid": running.pid, "port": line["port"]}
        state = json.loads(state_file.read_text())
        assert {name: state[name] for name in line} == line
        assert state_file.stat().st_mode & 0o777 == 0o600
        url = f"{line['url']}/v1/realtime/client_secrets"
        async with http.post(url, json={}) as response:
            assert response.status == 401
        async with http.post(url, json={}, headers={"Authorization": f"Bearer {state['token']}"}) as response:
            assert response.status == 200
        running.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            out, err = await running.communicate()
        assert (running.returncode, out) == (0, b"")
        assert state["token"].encode() not in err
        assert not state_file.exists()


async def test_the_process_ends_after_its_last_client(tmp_path: Path) -> None:
    """It runs while a socket is open, and ends after the linger time without a client."""
    async with process("--linger", "3") as running, aiohttp.ClientSession() as http:
        line = await ready(running)
        async with http.ws_connect(f"{line['url']}/v1/realtime?model=m") as connection:
            await connection.receive_json(timeout=10)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(4):
                    await running.wait()
        async with asyncio.timeout(60):
            assert await running.wait() == 0


async def test_start_errors_are_reported(tmp_path: Path) -> None:
    """A port in use, an empty token file, a public address without a key, invalid ports and an incomplete certificate lead to a problem document, an error text and exit status 1."""
    empty = tmp_path / "token"
    empty.write_text("\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        cases = {
            "in use": ("local_server_unusable", "--port", port),
            "is empty": ("invalid_input", "--token-file", str(empty)),
            "without a key": ("invalid_input", "--host", "0.0.0.0"),
            "udp_ports cannot be": ("invalid_input", "--udp-ports", "50100-50000"),
            "a certificate and its key": ("invalid_input", "--tls-cert", str(empty)),
        }
        for words, (code, *arguments) in cases.items():
            async with process(*arguments) as running, asyncio.timeout(60):
                out, err = await running.communicate()
                assert running.returncode == 1
                assert words in err.decode()
                assert "Traceback" not in err.decode()
                problem = json.loads(out)
                assert problem["code"] == code
                assert words in problem["detail"]
