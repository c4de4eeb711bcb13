"""The page that verifies an export in Chromium: its verdicts are those of `af verify`."""

from __future__ import annotations

import base64
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Page, expect

from agentfield.identity import canonical
from agentfield.proof import parse_head, verify_export
from agentfield_server.api.pages import PageRoutes
from support.browser.chromium import chromium
from support.core.proof_runs import (
    PaperRun,
    call_of_a_session,
    call_without_session,
    fixed_key,
    signed_again,
)

SEED = 20261201
FLIPS = 300

_VERIFY = """
async (cases) => {
  const {verifyExport} = await import('/agentfield/proof/export.js');
  const {parseHead} = await import('/agentfield/proof/documents.js');
  const bytes = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const reports = [];
  for (const {file, issuer, nodes, revoked, heads} of cases) {
    const held = await Promise.all(heads.map(parseHead));
    reports.push(await verifyExport(bytes(file), {issuer, nodes, revoked, heads: held}));
  }
  return reports;
}
"""


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    app = web.Application()
    for route in PageRoutes(None).routes():
        app.router.add_route(route.method, route.path, route.handler)
    async with TestServer(app) as server, chromium(None) as browser:
        it = await browser.new_page()
        await it.goto(str(server.make_url("/verify.html")))
        yield it


Case = dict[str, Any]


def _case(lines: list[bytes], run: PaperRun, **options: Any) -> Case:
    return {"lines": lines, "issuer": run.plane.key.did, "nodes": [], "revoked": {}, "heads": [], **options}


def _cases() -> list[Case]:
    """Return exports that are whole, and attacks on them, with what the verifier holds."""
    run, lone, running = call_of_a_session(), call_without_session(), call_of_a_session(final=False)
    lines = run.export()
    longer = call_of_a_session(tools=6)
    forked = PaperRun()
    for _ in range(9):
        forked.execute("tool")
    forked.head(final=True)
    cases = [
        _case(lines, run, nodes=[run.node.did], heads=[run.heads[1], run.plane.head()]),
        _case(lines, run, issuer=None),
        _case(lines, run, issuer=fixed_key("another").did),
        _case(lines, run, nodes=[fixed_key("another node").did]),
        _case(lines, run, heads=[longer.heads[-1]]),
        _case(forked.export(), forked, heads=[run.heads[0]]),
        _case(run.export(bodies=False), run),
        _case(run.export(without=(3,)), run),
        _case(lone.export(), lone, nodes=[lone.node.did]),
        _case(running.export(), running),
        _case(lines, run, revoked={run.plane.key.did: 0}),
        _case(lines, run, revoked={run.plane.key.did: 1}),
        _case([], run),
        _case(lines[:-1], run),
        _case([*lines, lines[-1]], run),
        _case([*lines[:-1], lines[-1][:-1]], run),
    ]
    for kind in (b"event", b"head", b"credential", b"anchor", b"body"):
        at = next(number for number, line in enumerate(lines) if line.startswith(b'{"' + kind))
        cases.append(_case([*lines[:at], *lines[at + 1 :]], run))
        cases.append(_case([*lines[:at], lines[at], *lines[at:]], run))
        swapped = [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]
        cases += [
            _case(signed_again(changed, run.plane.key), run) for changed in ([*lines[:at], *lines[at + 1 :]], swapped)
        ]
    rotated = call_of_a_session(final=False)
    rotated.plane.rotate("second key")
    rotated.execute("tool", signed=False, status="timeout")
    rotated.head(final=True)
    rotated.plane.anchor(rotated.last or b"")
    cases += [_case(rotated.export(), rotated), _case(rotated.export(), rotated, issuer=run.plane.key.did)]
    late = call_of_a_session()
    late.plane.anchored.clear()
    late.plane.rotate("second key")
    cases.append(_case(late.export(), late))
    return cases


async def _reports(page: Page, cases: list[Case]) -> list[dict[str, Any]]:
    sent = [{**case, "lines": None, "file": base64.b64encode(b"".join(case["lines"])).decode()} for case in cases]
    reports: list[dict[str, Any]] = await page.evaluate(_VERIFY, sent)
    return reports


async def test_each_verdict_is_that_of_the_command(page: Page) -> None:
    """The report of each whole and each attacked file is that of the Python library: verdict, counts, first wrong item."""
    cases = _cases()
    for case, report in zip(cases, await _reports(page, cases), strict=True):
        options = {**case, "heads": [parse_head(head) for head in case["heads"]]}
        expected = verify_export(options.pop("lines"), **options).document()
        del expected["not_checked"], report["not_checked"]
        if expected["problem"] is not None:
            del expected["problem"]["why"], report["problem"]["why"]
            assert (report["verdict"], report["problem"]) == ("wrong", expected["problem"])
        else:
            assert report == expected


async def test_no_flipped_bit_is_accepted(page: Page) -> None:
    """Seeded bits of an export, flipped one at a time: each is refused, and none is an error of the page."""
    run, flips = call_of_a_session(tools=1), random.Random(SEED)
    data = b"".join(run.export())
    cases = []
    for bit in flips.sample(range(8 * len(data)), FLIPS):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        cases.append(_case([bytes(flipped)], run, issuer=None))
    assert {report["verdict"] for report in await _reports(page, cases)} == {"wrong"}


async def test_a_file_is_verified_by_the_form(page: Page, tmp_path: Path) -> None:
    """A reader picks a file, gives issuer, head and node, and reads the verdict; the file goes nowhere."""
    run, requests = call_of_a_session(), list[str]()
    export, head = tmp_path / "call.jsonl", tmp_path / "head.json"
    export.write_bytes(b"".join(run.export()))
    head.write_bytes(canonical(run.heads[0]) + b"\n")
    output = page.locator("output")
    await page.locator("[name=file]").set_input_files(export)
    page.on("request", lambda request: requests.append(request.url))
    await page.get_by_role("button", name="Verify").click()
    await expect(output.locator("h2")).to_have_text("consistent, issuer not pinned")
    await page.locator("[name=issuer]").fill(run.plane.key.did)
    await page.locator("[name=heads]").set_input_files(head)
    await page.locator("[name=nodes]").fill(run.node.did)
    await page.get_by_role("button", name="Verify").click()
    await expect(output).to_have_attribute("data-verdict", "complete")
    await expect(output).to_contain_text(f"{run.node.did} signed 3")
    assert await output.get_by_text("not checked").count() == 0
    lines = run.export()
    del lines[5]
    export.write_bytes(b"".join(lines))
    await page.locator("[name=file]").set_input_files(export)
    await page.get_by_role("button", name="Verify").click()
    await expect(output).to_have_attribute("data-verdict", "wrong")
    await expect(output).to_contain_text("event 4")
    await expect(output).to_contain_text("bad_sequence")
    assert requests == []


async def test_an_input_that_is_no_head_is_not_a_verdict(page: Page, tmp_path: Path) -> None:
    """A held head that is malformed or of another log is refused as input, with the reason, and no verdict is shown."""
    run = call_of_a_session()
    export, head = tmp_path / "call.jsonl", tmp_path / "head.json"
    export.write_bytes(b"".join(run.export()))
    output = page.locator("output")
    await page.locator("[name=file]").set_input_files(export)
    foreign = PaperRun(run_id="run_other")
    foreign.execute("tool")
    for data, reason in (
        (b"{}", "The document is malformed"),
        (canonical(foreign.head()), "The held head is of run_other"),
    ):
        head.write_bytes(data)
        await page.locator("[name=heads]").set_input_files(head)
        await page.get_by_role("button", name="Verify").click()
        await expect(output).to_have_attribute("data-verdict", "failed")
        await expect(output).to_contain_text(reason)


@pytest.mark.parametrize("field", ["issuer", "nodes"])
async def test_an_input_that_is_no_did_is_not_a_verdict(page: Page, tmp_path: Path, field: str) -> None:
    """A form with something else than DIDs is not sent: the browser marks the field, and no verdict is shown."""
    run = call_of_a_session(tools=1)
    export = tmp_path / "call.jsonl"
    export.write_bytes(b"".join(run.export()))
    await page.locator("[name=file]").set_input_files(export)
    await page.locator(f"[name={field}]").fill("did:web:voice.example.com")
    await page.get_by_role("button", name="Verify").click()
    assert await page.locator(f"[name={field}]:invalid").count() == 1
    assert await page.locator("output[data-verdict]").count() == 0
    did = {"issuer": f" {run.plane.key.did} ", "nodes": f"{run.node.did}, {run.plane.key.did} "}[field]
    await page.locator(f"[name={field}]").fill(did)
    await page.get_by_role("button", name="Verify").click()
    await expect(page.locator("output")).to_have_attribute(
        "data-verdict", "complete" if field == "issuer" else "consistent"
    )


async def test_a_page_without_webcrypto_says_so(page: Page, tmp_path: Path) -> None:
    """Where the browser allows no WebCrypto the page says what it needs."""
    export = tmp_path / "call.jsonl"
    export.write_bytes(b"".join(call_of_a_session(tools=1).export()))
    await page.evaluate("Object.defineProperty(globalThis.crypto, 'subtle', {value: undefined})")
    await page.locator("[name=file]").set_input_files(export)
    await page.get_by_role("button", name="Verify").click()
    await expect(page.locator("output")).to_contain_text("Open this page over HTTPS or from localhost")
