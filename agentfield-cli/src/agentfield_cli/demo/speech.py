"""Offline speech server of the demo: starts it with progress, and transcribes what the caller heard."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import sys
import wave
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from agentfield.errors import ProviderUnavailable, error_from_problem
from agentfield.settings import child_environment, private_folder
from agentfield_cli.call.recordings import FRAME, RATE, is_loud

if TYPE_CHECKING:
    from agentfield_cli.call.recordings import Samples

__all__ = ["SpeechServer", "speech_server"]

_READY_TIMEOUT = 90.0
_STOP_TIMEOUT = 8.0
_TRANSCRIBE_TIMEOUT = 60.0
_MARGIN = RATE // 4
"""Samples of silence that are kept around the words."""
_LOADING = re.compile(r"INFO agentfield_local: (?P<engine>\D+?) (?P<done>\d+) %")


@dataclass(frozen=True, slots=True)
class SpeechServer:
    """A running speech server.

    Args:
        url: Its address, without a path.
        token: Its key, "" if it needs none.
    """

    url: str
    token: str

    async def transcribe(self, samples: Samples) -> str:
        """Return the transcript of a recording, 48 kHz mono.

        Raises:
            ProviderUnavailable: The server did not answer (code `not_transcribed`).
        """
        form = aiohttp.FormData()
        form.add_field("file", _wav(_trim_silence(samples)), filename="heard.wav", content_type="audio/wav")
        form.add_field("model", "whisper-1")
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        timeout = aiohttp.ClientTimeout(total=_TRANSCRIBE_TIMEOUT)
        try:
            async with (
                aiohttp.ClientSession(trust_env=False, timeout=timeout) as http,
                http.post(f"{self.url}/v1/audio/transcriptions", data=form, headers=headers) as response,
            ):
                response.raise_for_status()
                return str((await response.json())["text"])
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError) as error:
            raise ProviderUnavailable(
                f"The speech server at {self.url} did not transcribe the recording: {error}.", code="not_transcribed"
            ) from error


@asynccontextmanager
async def speech_server(home: Path, on_loading: Callable[[str], None]) -> AsyncIterator[SpeechServer]:
    """Run a speech server where the `local` adapter finds it, and stop it at the end of the block.

    If AGENTFIELD_LOCAL_URL is set, yield that server instead of starting one.

    Args:
        home: Data folder of the control plane.
        on_loading: Receives the name of each engine that is being loaded.

    Raises:
        AgentFieldError: The server reported why it cannot start, such as a missing engine for this system.
        ProviderUnavailable: The server was not ready in time (code `speech_not_ready`).
    """
    url = os.environ.get("AGENTFIELD_LOCAL_URL")
    if url:
        yield SpeechServer(url.rstrip("/").removesuffix("/v1"), "")
        return
    state = home / "adapters" / "local" / "server.json"
    private_folder(state.parent)
    argv = ("-m", "agentfield_local", "--port", "0", "--state-file", str(state), "--log", "info")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *argv,
        env={**child_environment(), "ORT_DISABLE_TELEMETRY": "1"},  # onnxruntime sends telemetry by default
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    lines: deque[str] = deque(maxlen=20)
    reading = asyncio.create_task(_read_log(process, lines, on_loading))
    try:
        await _wait_until_ready(process, reading, lines)
        data = json.loads(await asyncio.to_thread(state.read_text))
        yield SpeechServer(str(data["url"]), str(data.get("token") or ""))
    finally:
        await _stop(process)
        await reading


async def _read_log(process: asyncio.subprocess.Process, lines: deque[str], on_loading: Callable[[str], None]) -> None:
    """Read the log of the server until it exits; keep the last lines for an error message."""
    if process.stderr is None:
        return
    while line := await process.stderr.readline():
        text = line.decode(errors="replace").rstrip()
        lines.append(text)
        if (loading := _LOADING.match(text)) is not None and loading["done"] == "0":
            on_loading(loading["engine"])


async def _wait_until_ready(
    process: asyncio.subprocess.Process, reading: asyncio.Task[None], lines: deque[str]
) -> None:
    """Wait for the first output line: the address of the server, or the problem that kept it from starting."""
    if process.stdout is None:
        raise ProviderUnavailable("The speech server has no output.", code="speech_not_ready")
    try:
        async with asyncio.timeout(_READY_TIMEOUT):
            report = json.loads(await process.stdout.readline())
    except (TimeoutError, ValueError):
        report = None
    match report:
        case {"url": str()}:
            return
        case {"code": str()}:
            raise error_from_problem(report)
        case _:
            if process.stdout.at_eof():
                # the server has exited; its last log lines may arrive after the end of its output
                await asyncio.wait({reading}, timeout=_STOP_TIMEOUT)
            raise ProviderUnavailable(
                f"The speech server was not ready in time: {' | '.join(lines) or 'no output'}.",
                code="speech_not_ready",
                hint="af local serve --log info",
            )


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_TIMEOUT):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _trim_silence(samples: Samples) -> Samples:
    """Return a recording without the silence before and after the words."""
    whole = samples[: samples.size // FRAME * FRAME].reshape(-1, FRAME)
    loud = [number for number, frame in enumerate(whole) if is_loud(frame)]
    if not loud:
        return samples
    return samples[max(0, loud[0] * FRAME - _MARGIN) : (loud[-1] + 1) * FRAME + _MARGIN]


def _wav(samples: Samples) -> bytes:
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return data.getvalue()
