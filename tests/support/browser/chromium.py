"""Chromium with a fake microphone, and pages that record what goes wrong in them."""

from __future__ import annotations

import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.async_api import Browser, BrowserContext, Locator, Page, async_playwright, expect

from support.paths import SPEECH_FIXTURES
from support.waiting import SECONDS

__all__ = ["CHROMIUM", "Watched", "chromium", "line", "microphone_file", "start_call", "watched_page"]

CHROMIUM = "/usr/bin/chromium"

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


def microphone_file(recording: str, folder: Path, *, lead: float = 2.0, tail: float = 1.0) -> Path:
    """Write a WAV file for Chromium's microphone: `lead` seconds of silence while the call is set up, the recording, silence."""
    with wave.open(str(SPEECH_FIXTURES / recording)) as source:
        rate, speech = source.getframerate(), source.readframes(source.getnframes())
        assert (source.getnchannels(), source.getsampwidth()) == (1, 2)
    assert any(speech)  # for a silent or missing file Chromium would send silence without an error
    path = folder / f"microphone-{Path(recording).stem}.wav"
    with wave.open(str(path), "wb") as target:
        target.setparams((1, 2, rate, 0, "NONE", ""))
        target.writeframes(b"\0\0" * int(rate * lead) + speech + b"\0\0" * int(rate * tail))
    return path


@asynccontextmanager
async def chromium(microphone: Path | None, *, allowed: bool = True) -> AsyncIterator[Browser]:
    """Run Debian's Chromium.

    Args:
        microphone: The audio of its microphone; None leaves it without one, as on a machine without a sound card.
        allowed: The answer of the user when a page asks for the microphone.
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
    """A page, with its console messages, uncaught errors and dialogs."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    async def violations(self) -> list[str]:
        """Return the violations of the content security policy."""
        found: list[str] = await self.page.evaluate("window.__violations")
        return found

    async def channel(self) -> list[str]:
        """Return all messages of data channels."""
        found: list[str] = await self.page.evaluate("window.__channel")
        return found

    async def session_id(self) -> str:
        """Return the id of the session that the page shows."""
        return str(await self.page.locator(".af-session").get_attribute("data-session-id"))


async def watched_page(context: BrowserContext, url: str) -> Watched:
    """Open an address and record everything that goes wrong in the page."""
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
    """Return the words of the nth final transcript line of a role."""
    return page.locator(f'.af-line[data-role="{role}"][data-state="final"] .af-words').nth(nth)
