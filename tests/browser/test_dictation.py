"""Calls through the dictation page, from the microphone to the audible reply."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Page, expect

from agentfield_local.server import LocalServer
from support.browser.chromium import chromium, line, microphone_file, start_call, watched_page
from support.browser.installation import Installation
from support.waiting import until_async
from support.word_error_rate import word_error_rate

pytestmark = pytest.mark.realtime

SAID = "my name is maria and i live in new york"
MISSED = "the caller's connection was lost for 10 s"
TOOL = "voice-dictation.save_note"


async def _heard(page: Page, provider: LocalServer, key: str, folder: Path) -> str:
    """Save the page's recording of the call and return its transcript."""
    async with page.expect_download() as download:
        await page.get_by_role("link", name="Save what was heard").click()
    path = folder / "heard.webm"
    await (await download.value).save_as(path)
    form = aiohttp.FormData()
    form.add_field("file", path.read_bytes(), filename="heard.webm")
    form.add_field("model", "gpt-transcribe")
    async with (
        aiohttp.ClientSession(trust_env=False, headers={"Authorization": f"Bearer {key}"}) as http,
        http.post(f"{provider.base_url}/audio/transcriptions", data=form) as response,
    ):
        assert response.status == 200, await response.text()
        return str((await response.json())["text"])


async def test_a_call_is_transcribed_noted_answered_and_heard(
    openai_installation: Installation, provider: LocalServer, canary: str, tmp_path: Path
) -> None:
    """Speech at the microphone is transcribed, leads to a tool call and an audible reply, and the call ends cleanly."""
    async with chromium(microphone_file("synthetic/10.wav", tmp_path)) as browser:
        watched = await watched_page(await browser.new_context(), openai_installation.page)
        page = watched.page
        await start_call(page)
        await expect(page.locator(".af-badge")).to_have_text(
            "openai \N{MULTIPLICATION SIGN} webrtc \N{MULTIPLICATION SIGN} gpt-realtime-2"
        )
        await expect(line(page, "caller")).to_contain_text("Maria")
        said = await line(page, "caller").inner_text()
        assert word_error_rate([(SAID, said)]) <= 0.15

        tool = page.locator(".af-tool")
        await expect(tool).to_have_attribute("data-status", "succeeded")
        await expect(tool.locator(".af-tool-name")).to_have_text(TOOL)
        await expect(tool.locator(".af-tool-ms")).to_have_text(re.compile(r"^[\d.]+ m?s$"))
        await expect(tool).to_contain_text('"count": 1')
        await expect(page.locator("#notes li")).to_have_text(said)

        await expect(line(page, "agent")).to_contain_text("I noted")
        await expect(page.locator('[data-part="announcer"]')).to_contain_text("Agent: I noted")
        reply = await line(page, "agent").inner_text()
        session_id = await watched.session_id()
        await page.get_by_role("button", name="Hang up").click()
        await expect(page.locator(".af-pill")).to_have_text("Ended: you hung up")

        assert word_error_rate([(reply, await _heard(page, provider, canary, tmp_path))]) <= 0.15
        assert (await openai_installation.ended(session_id))["end_reason"] == "caller_hangup"
        await until_async(lambda: _states(provider), lambda states: states == ["ended"])
        await _check_tree(openai_installation, session_id, said)
        assert await watched.violations() == []
        assert watched.complaints == []


async def _check_tree(installation: Installation, session_id: str, said: str) -> None:
    executions = (await installation.get(f"/sessions/{session_id}/workflows"))["executions"]
    by_kind = {execution["kind"]: execution for execution in executions}
    assert [execution["kind"] for execution in executions] == ["session", "turn", "call"]
    assert by_kind["turn"]["parent_id"] == by_kind["session"]["id"]
    assert by_kind["call"]["parent_id"] == by_kind["turn"]["id"]
    assert by_kind["call"]["input"] == {"text": said}
    assert {execution["status"] for execution in executions} <= {"succeeded", "cancelled"}


@pytest.mark.parametrize("way", ["closed", "navigated"])
async def test_a_left_page_is_hung_up_at_the_provider(
    openai_installation: Installation, provider: LocalServer, tmp_path: Path, way: str
) -> None:
    """Closing the tab or navigating away in a call ends the session as the caller's hang-up, at the provider too."""
    async with chromium(microphone_file("synthetic/10.wav", tmp_path)) as browser:
        watched = await watched_page(await browser.new_context(), openai_installation.page)
        await start_call(watched.page)
        session_id = await watched.session_id()
        if way == "closed":
            await watched.page.close()
        else:
            await watched.page.goto("about:blank")
        view = await openai_installation.ended(session_id)
        assert view["end_reason"] == "caller_hangup"
        assert view["end_detail"] != MISSED  # the page reported its end; the timeout did not apply
        await until_async(lambda: _states(provider), lambda states: states == ["ended"])


async def test_speaking_over_the_agent_is_marked(openai_installation: Installation, tmp_path: Path) -> None:
    """An interrupted reply shows its heard and its unheard part; the new turn is answered."""
    async with chromium(None) as browser:
        watched = await watched_page(await browser.new_context(), openai_installation.page)
        page = watched.page
        await start_call(page, "Recording: “My name is Maria and I live in New York.”")
        await expect(page.locator('.af-line[data-role="agent"]')).to_have_count(1)
        await page.wait_for_selector('.af-meter[aria-label="Level: Agent"]:not([aria-valuenow="0"])')
        await page.get_by_role("button", name="Say it again").click()
        cut = page.locator('.af-line[data-role="agent"][data-state="final"]').first
        await expect(cut.locator(".af-mark").first).to_contain_text("interrupted")
        await expect(cut.locator(".af-unheard")).to_contain_text("New York")
        await expect(page.locator("#notes li")).to_have_count(2)
        await expect(line(page, "agent", 1)).to_contain_text("I noted")


async def test_a_killed_browser_is_hung_up_at_the_provider(
    openai_installation: Installation, provider: LocalServer, tmp_path: Path
) -> None:
    """Ten seconds after a page vanished without hanging up, the call is hung up."""
    async with chromium(microphone_file("synthetic/10.wav", tmp_path)) as browser:
        watched = await watched_page(await browser.new_context(), openai_installation.page)
        await start_call(watched.page)
        session_id = await watched.session_id()
        devtools = await watched.page.context.new_cdp_session(watched.page)
        async with watched.page.expect_event("crash"):
            crash = asyncio.ensure_future(devtools.send("Page.crash"))
        view = await openai_installation.ended(session_id)
        assert (view["end_reason"], view["end_detail"]) == ("caller_hangup", MISSED)
        await until_async(lambda: _states(provider), lambda states: states == ["ended"])
        crash.cancel()  # a crashed page does not answer
        await asyncio.gather(crash, return_exceptions=True)


async def test_a_second_offer_replaces_the_first_call(
    openai_installation: Installation, provider: LocalServer, tmp_path: Path
) -> None:
    """A page that connects again keeps its session; the first call ends at the provider and the second one works."""
    async with chromium(microphone_file("synthetic/10.wav", tmp_path)) as browser:
        watched = await watched_page(await browser.new_context(), openai_installation.page)
        page = watched.page
        await start_call(page)
        await expect(line(page, "agent")).to_contain_text("I noted")
        session_id = await watched.session_id()
        await page.evaluate(
            "async (audio) => document.querySelector('agentfield-call').call.connect({audio})",
            "/recordings/appointment.wav",
        )
        await expect(page.locator(".af-pill")).to_have_attribute("data-state", "live")
        await expect(line(page, "caller", 1)).to_contain_text("Friday")
        await expect(page.locator("#notes li")).to_have_count(2)
        assert await watched.session_id() == session_id
        await until_async(lambda: _states(provider), lambda states: states == ["ended", "live"])
        assert (await openai_installation.session(session_id))["state"] == "live"


async def test_the_one_command_serves_the_page_on_the_local_provider(
    local_installation: Installation, tmp_path: Path
) -> None:
    """`af dev examples/voice_dictation` works without key or setting: the page calls, the note is saved and confirmed."""
    async with chromium(microphone_file("synthetic/05.wav", tmp_path)) as browser:
        watched = await watched_page(await browser.new_context(), local_installation.page)
        page = watched.page
        await start_call(page)
        badge = "local \N{MULTIPLICATION SIGN} webrtc \N{MULTIPLICATION SIGN} local-realtime-1"
        await expect(page.locator(".af-badge")).to_have_text(badge)
        await expect(page.locator("#notes li")).to_contain_text("appointment on Friday")
        await expect(line(page, "agent")).to_contain_text("I noted")
        await page.get_by_role("button", name="Hang up").click()
        await expect(page.locator(".af-pill")).to_have_text("Ended: you hung up")
        assert watched.complaints == []


async def _states(provider: LocalServer) -> list[str]:
    return [call.state for call in provider.calls]
