"""What the browser tests share: the programs of a whole installation, Chromium with a voice, and a reader of the page."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from playwright.async_api import Browser, BrowserContext, Locator, Page, async_playwright, expect

__all__ = [
    "CHROMIUM",
    "EXAMPLE",
    "House",
    "Watched",
    "chromium",
    "dev_house",
    "eventually",
    "house",
    "line",
    "microphone_file",
    "program",
    "start_call",
    "watched_page",
]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "voice_dictation"
SPEECH = ROOT / "tests" / "speech_fixtures"
CHROMIUM = "/usr/bin/chromium"
SECONDS = 45.0

_QUIET = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]

_WATCH = """
window.__violations = []; window.__channel = []; window.__errors = [];
addEventListener('securitypolicyviolation', (e) => window.__violations.push(`${e.violatedDirective} ${e.blockedURI}`));
const create = RTCPeerConnection.prototype.createDataChannel;
RTCPeerConnection.prototype.createDataChannel = function (...args) {
  const channel = create.apply(this, args);
  channel.addEventListener('message', (e) => window.__channel.push(String(e.data)));
  return channel;
};
"""

_Value = TypeVar("_Value")


async def eventually(
    look: Callable[[], Awaitable[_Value]], fits: Callable[[_Value], bool] = bool, seconds: float = SECONDS
) -> _Value:
    """Return what `look` returns as soon as it fits."""
    last: object = None
    try:
        async with asyncio.timeout(seconds):
            # what is waited for happens in other processes: there is nothing to be told by
            while True:
                last = value = await look()
                if fits(value):
                    return value
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s; last seen: {last!r}") from None


# ── programs ──────────────────────────────────────────────────────────────────


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("AGENTFIELD_", "OPENAI_", "DICTATION_"))}
    return {**own, "PYTHONUNBUFFERED": "1", **extra}


@asynccontextmanager
async def program(
    arguments: Sequence[str], *, env: Mapping[str, str], log: Path, cwd: Path = ROOT
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program until the block is left; all it prints is in `log`."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *arguments, env=_environment(env), cwd=cwd, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            try:
                async with asyncio.timeout(15):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


@dataclass(slots=True)
class House:
    """An installation that serves the dictation page: its address, its folder, what it printed."""

    url: str
    home: Path
    http: aiohttp.ClientSession
    logs: list[Path] = field(default_factory=list)

    async def get(self, path: str) -> Any:
        """Return what the REST interface answers, as the operator."""
        async with self.http.get(f"{self.url}/api/v1{path}") as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def session(self, session_id: str) -> dict[str, Any]:
        """Return a session as the operator sees it."""
        view: dict[str, Any] = await self.get(f"/sessions/{session_id}")
        return view

    async def ended(self, session_id: str) -> dict[str, Any]:
        """Return a session once it has ended."""
        return await eventually(lambda: self.session(session_id), lambda view: view["state"] == "ended")

    async def start(self, target: str = "voice-dictation.dictate") -> dict[str, Any]:
        """Start a session as `af session start` does."""
        async with self.http.post(f"{self.url}/api/v1/sessions", json={"target": target}) as response:
            assert response.status == 201, await response.text()
            body: dict[str, Any] = await response.json()
            return body

    async def events(self, session_id: str) -> list[dict[str, Any]]:
        """Return all recorded events of an ended session."""
        async with self.http.get(f"{self.url}/api/v1/sessions/{session_id}/events") as response:
            text = await response.text()
        return [json.loads(found) for found in re.findall(r"^data: (\{.*\})\r?$", text, re.MULTILINE)]

    async def targets(self) -> set[str]:
        """Return the sessions of the nodes that are linked."""
        nodes = [node for node in await self.get("/nodes") if node["connected"]]
        return {f"{node['node_id']}.{name}" for node in nodes for name in node["sessions"]}

    def everything(self) -> dict[str, bytes]:
        """Return all that the installation wrote: logs, store, state files."""
        files = [*self.logs, *(path for path in self.home.rglob("*") if path.is_file())]
        return {str(path): path.read_bytes() for path in files}


@asynccontextmanager
async def house(folder: Path, *, env: Mapping[str, str], agent_env: Mapping[str, str]) -> AsyncIterator[House]:
    """Run a control plane that serves the dictation page, and its agent, as two processes.

    Args:
        folder: Where everything is kept.
        env: The control plane's settings; the agent does not see them.
        agent_env: The agent's.
    """
    home, plane_log, agent_log = folder / "home", folder / "plane.log", folder / "agent.log"
    where = {"AGENTFIELD_HOME": str(home)}
    settings = {**where, "AGENTFIELD_PORT": "0", "AGENTFIELD_WEB_DIR": str(EXAMPLE / "web"), **env}
    server = [sys.executable, "-m", "agentfield_server"]
    agent = [sys.executable, str(EXAMPLE / "agent.py")]
    async with (
        aiohttp.ClientSession(trust_env=False) as http,
        program(server, env=settings, log=plane_log) as plane,
    ):
        it = House(await _announced(home, plane, plane_log), home, http, [plane_log, agent_log])
        async with program(agent, env={**where, **agent_env}, log=agent_log) as node:
            await _linked(it, node, agent_log)
            yield it


@asynccontextmanager
async def dev_house(folder: Path, *, env: Mapping[str, str]) -> AsyncIterator[House]:
    """Run `af dev examples/voice_dictation`, the one command of the example's README."""
    home, log = folder / "home", folder / "dev.log"
    af = [str(Path(sys.executable).with_name("af")), "dev", "examples/voice_dictation", "--port", "0"]
    async with (
        aiohttp.ClientSession(trust_env=False) as http,
        program(af, env={"AGENTFIELD_HOME": str(home), **env}, log=log) as dev,
    ):
        it = House(await _announced(home, dev, log), home, http, [log])
        await _linked(it, dev, log)
        yield it


async def _announced(home: Path, process: asyncio.subprocess.Process, log: Path) -> str:
    current = home / "current.json"

    async def look() -> str:
        _check_alive(process, log)
        return str(json.loads(current.read_text())["url"]) if current.exists() else ""

    return await eventually(look)


async def _linked(it: House, process: asyncio.subprocess.Process, log: Path) -> None:
    async def look() -> bool:
        _check_alive(process, log)
        return "voice-dictation.dictate" in await it.targets()

    await eventually(look)


def _check_alive(process: asyncio.subprocess.Process, log: Path) -> None:
    assert process.returncode is None, log.read_text()


# ── Chromium ──────────────────────────────────────────────────────────────────


def microphone_file(recording: str, folder: Path, *, lead: float = 2.0, tail: float = 1.0) -> Path:
    """Return a file for Chromium's microphone: silence while the call is set up, then the recording."""
    with wave.open(str(SPEECH / recording)) as source:
        rate, speech = source.getframerate(), source.readframes(source.getnframes())
        assert (source.getnchannels(), source.getsampwidth()) == (1, 2)
    assert any(speech)  # a silent or missing file would make Chromium send silence without a word
    path = folder / f"microphone-{Path(recording).stem}.wav"
    with wave.open(str(path), "wb") as target:
        target.setparams((1, 2, rate, 0, "NONE", ""))
        target.writeframes(b"\0\0" * int(rate * lead) + speech + b"\0\0" * int(rate * tail))
    return path


@asynccontextmanager
async def chromium(microphone: Path | None, *, allowed: bool = True) -> AsyncIterator[Browser]:
    """Run Debian's Chromium.

    Args:
        microphone: What its microphone hears; None leaves it without one, as on a machine without a sound card.
        allowed: What the user answers when a page asks for the microphone.
    """
    voice: list[str] = []
    if microphone is not None:
        voice = [
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream" + ("" if allowed else "=deny"),
            f"--use-file-for-fake-audio-capture={microphone}%noloop",
        ]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*_QUIET, *voice])
        try:
            yield browser
        finally:
            await browser.close()


@dataclass(slots=True)
class Watched:
    """A page and what it complained of."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    async def violations(self) -> list[str]:
        """Return what the content policy stopped."""
        found: list[str] = await self.page.evaluate("window.__violations")
        return found

    async def channel(self) -> list[str]:
        """Return all messages that came over data channels."""
        found: list[str] = await self.page.evaluate("window.__channel")
        return found

    async def session_id(self) -> str:
        """Return the id of the session that the page shows."""
        return str(await self.page.locator(".af-session").get_attribute("data-session-id"))


async def watched_page(context: BrowserContext, url: str) -> Watched:
    """Open an address with everything watched that may go wrong in a page."""
    await context.add_init_script(_WATCH)
    page = await context.new_page()
    watched = Watched(page)
    page.on("console", lambda message: watched.complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: watched.complaints.append(f"uncaught: {error}"))
    page.on("dialog", lambda dialog: watched.complaints.append(f"dialog: {dialog.message}"))
    await page.goto(url)
    return watched


async def start_call(page: Page, recording: str | None = None, *, button: str = "Start the call") -> None:
    """Press start and wait until the call is live."""
    if recording is not None:
        await page.get_by_label("Caller", exact=True).select_option(label=recording)
    await page.get_by_role("button", name=button).click()
    await expect(page.locator(".af-pill")).to_have_attribute("data-state", "live", timeout=SECONDS * 1000)


def line(page: Page, role: str, nth: int = 0) -> Locator:
    """Return the words of the nth finished line of one side."""
    return page.locator(f'.af-line[data-role="{role}"][data-state="final"] .af-words').nth(nth)
