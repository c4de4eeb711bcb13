"""The offline speech server of the demo: started with its progress shown, asked afterwards for the words of a recording."""

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
from agentfield_cli.audio import FRAME, RATE, is_loud

if TYPE_CHECKING:
    from agentfield_cli.audio import Samples

__all__ = ["SpeechServer", "speech_server"]

_READY = 90.0
_STOP = 8.0
_WORDS = 60.0
_MARGIN = RATE // 4
_LOADING = re.compile(r"INFO agentfield_local: (?P<what>\D+?) (?P<done>\d+) %")


@dataclass(frozen=True, slots=True)
class SpeechServer:
    """A speech server that runs.

    Args:
        url: Its address, without a path.
        token: Its key, "" when it asks for none.
    """

    url: str
    token: str

    async def words(self, samples: Samples) -> str:
        """Return what is said in a recording of 48 kHz mono.

        Raises:
            ProviderUnavailable: The server did not answer.
        """
        form = aiohttp.FormData()
        form.add_field("file", _wav(_trimmed(samples)), filename="heard.wav", content_type="audio/wav")
        form.add_field("model", "whisper-1")
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        timeout = aiohttp.ClientTimeout(total=_WORDS)
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
async def speech_server(home: Path, tell: Callable[[str], None]) -> AsyncIterator[SpeechServer]:
    """Run a speech server where the control plane's `local` adapter finds it, and stop it at the end of the block.

    Args:
        home: The control plane's data folder.
        tell: Told what is being loaded.

    Raises:
        AgentFieldError: What it says when it cannot start, such as that there is no engine for this system.
        ProviderUnavailable: It did not get ready (code `speech_not_ready`).
    """
    url = os.environ.get("AGENTFIELD_LOCAL_URL")
    if url:
        yield SpeechServer(url.rstrip("/").removesuffix("/v1"), "")
        return
    state = home / "adapters" / "local" / "server.json"
    state.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    argv = ("-m", "agentfield_local", "--port", "0", "--state-file", str(state), "--log", "info")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *argv,
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},  # its inference library would report home otherwise
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    lines: deque[str] = deque(maxlen=20)
    reading = asyncio.create_task(_read(process, lines, tell))
    try:
        await _ready(process, lines)
        data = json.loads(await asyncio.to_thread(state.read_text))
        yield SpeechServer(str(data["url"]), str(data.get("token") or ""))
    finally:
        await _stop(process)
        await reading


async def _read(process: asyncio.subprocess.Process, lines: deque[str], tell: Callable[[str], None]) -> None:
    """Read what the server reports until it is gone."""
    if process.stderr is None:
        return
    while line := await process.stderr.readline():
        text = line.decode(errors="replace").rstrip()
        lines.append(text)
        if (loading := _LOADING.match(text)) is not None and loading["done"] == "0":
            tell(loading["what"])


async def _ready(process: asyncio.subprocess.Process, lines: deque[str]) -> None:
    """Wait for the line that says where the server is, or why it cannot start."""
    if process.stdout is None:
        raise ProviderUnavailable("The speech server has no output.", code="speech_not_ready")
    try:
        async with asyncio.timeout(_READY):
            said = json.loads(await process.stdout.readline())
    except (TimeoutError, ValueError):
        said = None
    match said:
        case {"url": str()}:
            return
        case {"code": str()}:
            raise error_from_problem(said)
        case _:
            raise ProviderUnavailable(
                f"The speech server did not get ready: {' | '.join(lines) or 'it said nothing'}.",
                code="speech_not_ready",
                hint="af local serve --log info",
            )


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(_STOP):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _trimmed(samples: Samples) -> Samples:
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
