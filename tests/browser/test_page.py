"""The call page without a microphone, by keyboard, through a one-time address, and with hostile texts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.async_api import Route, expect

from agentfield_local.faults.behaviour import Behaviour
from agentfield_local.server import LocalServer
from support.browser.chromium import chromium, line, microphone_file, start_call, watched_page
from support.browser.installation import Installation

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script> {{7*7}} \u202e javascript:alert(3)"
RECORDING = "Recording: “My name is Maria and I live in New York.”"


@pytest.mark.realtime
async def test_without_a_microphone_a_recording_calls(openai_installation: Installation) -> None:
    """Without a microphone the page says what to do, and a recording makes the call instead."""
    async with chromium(None) as browser:
        watched = await watched_page(await browser.new_context(), openai_installation.page)
        page = watched.page
        await page.get_by_role("button", name="Start the call").click()
        error = page.get_by_role("alert").locator(".af-error")
        await expect(error).to_contain_text("There is no microphone.")
        await expect(error).to_contain_text("choose a recording as the caller")
        await expect(error.locator("code")).to_have_text("no_microphone")
        await expect(page.locator(".af-pill")).to_have_text("Ready")
        await error.get_by_role("button", name="Use a recording").click()
        await expect(line(page, "caller")).to_contain_text("Maria")
        await expect(line(page, "agent")).to_contain_text("I noted")
        await page.get_by_role("button", name="Say it again").click()
        await expect(page.locator("#notes li")).to_have_count(2)
        await expect(page.locator(".af-error")).to_have_count(0)
        assert watched.complaints == []


async def test_a_denied_microphone_is_explained(openai_installation: Installation, tmp_path: Path) -> None:
    """Without permission for the microphone the page names the permission, not a technical error."""
    async with chromium(microphone_file("synthetic/10.wav", tmp_path), allowed=False) as browser:
        watched = await watched_page(await browser.new_context(), openai_installation.page)
        await watched.page.get_by_role("button", name="Start the call").click()
        error = watched.page.get_by_role("alert").locator(".af-error")
        await expect(error.locator("code")).to_have_text("microphone_denied")


@pytest.mark.realtime
async def test_the_whole_call_by_keyboard(openai_installation: Installation, tmp_path: Path) -> None:
    """Start, mute, typing a turn, reading the events and hanging up need no mouse."""
    async with chromium(microphone_file("synthetic/10.wav", tmp_path, lead=300)) as browser:
        watched = await watched_page(await browser.new_context(), openai_installation.page)
        page = watched.page
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name="Start the call")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator(".af-pill")).to_have_attribute("data-state", "live")
        await expect(page.get_by_role("button", name="Hang up")).to_be_focused()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Space")
        await expect(page.get_by_role("button", name="Unmute")).to_have_attribute("aria-pressed", "true")
        typed = page.get_by_label("Type instead of speaking")
        while not await typed.evaluate("(element) => element === document.activeElement"):
            await page.keyboard.press("Tab")
        await page.keyboard.type("Buy two loaves of bread")
        await page.keyboard.press("Enter")
        await expect(line(page, "caller")).to_have_text("Buy two loaves of bread")
        await expect(typed).to_have_value("")
        await expect(page.locator("#notes li")).to_have_text("Buy two loaves of bread")
        summary = page.locator(".af-log > summary")
        while not await summary.evaluate("(element) => element === document.activeElement"):
            await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await page.get_by_label("Filter events").fill("turn.committed")
        await expect(page.locator(".af-event:visible")).to_have_count(1)
        await page.get_by_role("button", name="Hang up").focus()
        await page.keyboard.press("Enter")
        await expect(page.locator(".af-pill")).to_have_text("Ended: you hung up")


@pytest.mark.realtime
async def test_hostile_texts_stay_texts(openai_installation: Installation, tmp_path: Path) -> None:
    """Markup in transcripts, notes, answers and logs is shown as text; console and content policy report nothing."""
    async with chromium(microphone_file("synthetic/10.wav", tmp_path, lead=300)) as browser:
        watched = await watched_page(await browser.new_context(), openai_installation.page)
        page = watched.page
        await start_call(page)
        await page.get_by_label("Type instead of speaking").fill(HOSTILE)
        await page.get_by_role("button", name="Send").click()
        await expect(line(page, "caller")).to_have_text(HOSTILE)
        await expect(page.locator("#notes li")).to_have_text(HOSTILE)
        await expect(page.locator(".af-tool")).to_contain_text(json.dumps(HOSTILE, ensure_ascii=False))
        await expect(line(page, "agent")).to_contain_text("I noted")
        await page.locator(".af-log > summary").click()
        await page.locator('.af-event[data-type="turn.committed"] summary').click()
        await expect(page.locator('.af-event[data-type="turn.committed"] pre')).to_contain_text("onerror=alert(1)")
        assert await page.locator("main img, main script").count() == 0
        assert await watched.violations() == []
        assert watched.complaints == []


@pytest.mark.realtime
async def test_the_address_of_a_started_session_works_once(
    openai_installation: Installation, provider: LocalServer, tmp_path: Path
) -> None:
    """The page address of a session makes one call, drops its code at once, and is refused the second time."""
    started = await openai_installation.start()
    async with chromium(microphone_file("synthetic/10.wav", tmp_path)) as browser:
        context = await browser.new_context()
        watched = await watched_page(context, started["page_url"])
        await start_call(watched.page)
        assert watched.page.url == f"{openai_installation.url}/call"
        assert await watched.session_id() == started["session_id"]
        await expect(line(watched.page, "agent")).to_contain_text("I noted")

        second = await watched_page(await browser.new_context(), started["page_url"])
        error = second.page.get_by_role("alert").locator(".af-error")
        await expect(error.locator("code")).to_have_text("code_used")
        await expect(error).to_contain_text("af session start")
        assert len(provider.calls) == 1


@pytest.mark.realtime
async def test_the_call_page_lists_the_sessions_of_linked_nodes(openai_installation: Installation) -> None:
    """Opened without a code, the built-in page lists the sessions of linked nodes, and shows the chosen one as callers see it."""
    async with chromium(None) as browser:
        watched = await watched_page(await browser.new_context(), f"{openai_installation.url}/call")
        page = watched.page
        await expect(page.get_by_label("Session to call")).to_have_value("voice-dictation.dictate")
        await start_call(page, "Recording: “Yes, go ahead and send it.”")
        await expect(line(page, "caller")).to_contain_text("send it")
        await expect(page.locator(".af-tool-name")).to_have_text("voice-dictation.save_note")
        await expect(page.locator(".af-tool-status")).to_have_text("succeeded")
        assert await page.locator(".af-tool .af-json").count() == 0
        await expect(page.locator(".af-log")).to_be_hidden()
        await expect(page.locator(".af-session")).to_be_hidden()
        assert watched.complaints == []


@pytest.mark.realtime
async def test_a_call_that_the_operator_ends_says_so(openai_installation: Installation) -> None:
    """The page shows who ended the call and can call again at once."""
    async with chromium(None) as browser:
        watched = await watched_page(await browser.new_context(), openai_installation.page)
        page = watched.page
        await start_call(page, RECORDING)
        first = await watched.session_id()
        async with openai_installation.http.post(
            f"{openai_installation.url}/api/v1/sessions/{first}/end", json={"reason": "operator"}
        ) as response:
            assert response.status == 200
        await expect(page.locator(".af-pill")).to_have_text("Ended: the operator ended it")
        record = page.locator(".af-record")
        await expect(record).to_contain_text("events signed, complete")
        await expect(record).to_have_attribute("data-state", "held")
        await page.get_by_role("button", name="Call again").click()
        await expect(page.locator(".af-pill")).to_have_attribute("data-state", "live")
        assert await watched.session_id() != first


@pytest.mark.realtime
async def test_a_call_without_an_audio_path_says_so(openai_installation: Installation) -> None:
    """Without an audio path the call ends after ten seconds; the page says what may block it and can call again."""
    async with chromium(None) as browser:
        watched = await watched_page(await browser.new_context(), openai_installation.page)
        page = watched.page

        async def cut_off(route: Route) -> None:
            answer = await route.fetch()
            broken = re.sub(r"a=candidate:.*\r\n|a=ice-pwd:.*\r\n", "", await answer.text())
            await route.fulfill(
                response=answer, body=broken.replace("a=ice-ufrag", f"a=ice-pwd:{'x' * 22}\r\na=ice-ufrag")
            )

        await page.route("**/offer", cut_off)
        await page.get_by_label("Caller", exact=True).select_option(label=RECORDING)
        await page.get_by_role("button", name="Start the call").click()
        error = page.get_by_role("alert").locator(".af-error")
        await expect(error.locator("code")).to_have_text("ice_failed")
        await expect(error).to_contain_text("firewall")
        await expect(error).to_contain_text("websocket transport")
        await expect(page.locator(".af-pill")).to_have_attribute("data-reason", "ice_failed")
        assert await page.get_by_role("alert").locator(".af-error").count() == 1
        base = f"{openai_installation.url}/api/v1/sessions/{await watched.session_id()}"
        async with openai_installation.http.get(base) as response:
            assert (await response.json())["end_reason"] == "ice_failed"
        await page.unroute("**/offer")
        await start_call(page, RECORDING, button="Call again")
        await expect(line(page, "caller")).to_contain_text("Maria")


async def test_a_refusal_of_the_provider_is_shown(
    openai_installation: Installation, provider: LocalServer, canary: str
) -> None:
    """When the provider refuses the key, the page shows error and hint without the key."""
    provider.behaviour = Behaviour(refuse_calls=401)
    async with chromium(None) as browser:
        watched = await watched_page(await browser.new_context(), openai_installation.page)
        page = watched.page
        await page.get_by_label("Caller", exact=True).select_option(label=RECORDING)
        await page.get_by_role("button", name="Start the call").click()
        error = page.get_by_role("alert").locator(".af-error").first
        await expect(error.locator("code")).not_to_be_empty()
        await expect(error).to_contain_text("OPENAI_API_KEY")
        assert canary not in await page.content()
        for file, content in openai_installation.everything().items():
            assert canary.encode() not in content, file
