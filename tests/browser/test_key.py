"""The provider's key in a real call reaches neither the browser nor logs, events or files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.async_api import expect

from agentfield_local.server import LocalServer
from support.browser.chromium import Watched, chromium, line, microphone_file, start_call, watched_page
from support.browser.installation import Installation

pytestmark = pytest.mark.realtime

_STORED = """
async () => JSON.stringify([
  {...localStorage}, {...sessionStorage}, document.cookie, location.href, document.documentElement.outerHTML,
  await indexedDB.databases(), await caches.keys(), performance.getEntries().map((entry) => entry.name),
])
"""


async def _call(watched: Watched) -> str:
    """Make a whole call and return everything that the page stores at its end."""
    page = watched.page
    await start_call(page)
    await expect(line(page, "agent")).to_contain_text("I noted")
    await page.locator(".af-log > summary").click()
    live: str = await page.evaluate(_STORED)
    await page.get_by_role("button", name="Hang up").click()
    await expect(page.locator(".af-pill")).to_have_text("Ended: you hung up")
    ended: str = await page.evaluate(_STORED)
    return live + ended


async def test_the_provider_key_never_leaves_the_control_plane(
    openai_installation: Installation, provider: LocalServer, canary: str, tmp_path: Path
) -> None:
    """In a call over `openai` only the provider sees the key."""
    har = tmp_path / "call.har"
    async with chromium(microphone_file("synthetic/10.wav", tmp_path)) as browser:
        context = await browser.new_context(record_har_path=har, record_har_content="embed")
        watched = await watched_page(context, openai_installation.page)
        held = await _call(watched)
        channel = await watched.channel()
        session_id = await watched.session_id()
        await context.close()

    traffic = har.read_text()
    assert "/offer" in traffic
    assert "a=fingerprint" in traffic
    assert "session.created" in "".join(channel)
    assert [request.authorized for request in provider.requests].count(True) >= 2
    events = await openai_installation.events(session_id)
    assert {"session.created", "turn.committed", "speech.ended"} <= {event["type"] for event in events}

    seen = {"traffic": traffic, "page": held, "data channel": "".join(channel), "events": json.dumps(events)}
    seen |= {
        "session": json.dumps(await openai_installation.session(session_id)),
        "console": "".join(watched.complaints),
    }
    for place, text in seen.items():
        assert canary not in text, place
    for file, content in openai_installation.everything().items():
        assert canary.encode() not in content, file


async def test_the_browser_token_is_kept_in_memory_only(openai_installation: Installation, tmp_path: Path) -> None:
    """The session's token travels in headers and one response; it is in no URL, storage, markup or log."""
    har = tmp_path / "call.har"
    async with chromium(microphone_file("synthetic/10.wav", tmp_path)) as browser:
        context = await browser.new_context(record_har_path=har, record_har_content="embed")
        watched = await watched_page(context, openai_installation.page)
        held = await _call(watched)
        channel = "".join(await watched.channel())
        await context.close()
    entries = json.loads(har.read_text())["log"]["entries"]
    tokens = {
        header["value"].removeprefix("Bearer ")
        for entry in entries
        for header in entry["request"]["headers"]
        if header["name"].lower() == "authorization"
    }
    assert len(tokens) == 1
    token = tokens.pop()
    assert token.startswith("ek_af_")
    assert token not in held + channel
    assert not [entry for entry in entries if token in entry["request"]["url"]]
    for file, content in openai_installation.everything().items():
        assert token.encode() not in content, file
