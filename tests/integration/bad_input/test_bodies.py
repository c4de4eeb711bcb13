"""Invalid requests (malformed, too large, too slow, wrong caller) get a typed error with a hint, and other requests are served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.plugins import Registry
from agentfield.wire.rest import StartRequest
from agentfield_cli.call.webrtc import place_webrtc_call
from agentfield_server.api.http import bodies as http
from support.server.bad_input import Installation, af_refused, raised_by, refusal, run_installation

START = "it takes: target, provider, transport, model, voice, caller, metadata, details"
SDP = "send the localDescription.sdp of a peer connection with one audio track and the data channel 'oai-events'"
SMALLER = "send less: keep large data elsewhere and send where it is"
JSON = "send one JSON object in UTF-8"
KEY = "operator-key-0123456789"


@pytest.fixture
async def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Installation]:
    """A running installation; on exit it must still serve valid requests."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    async with run_installation(tmp_path) as it:
        yield it


@pytest.mark.parametrize(
    ("body", "status", "code", "detail", "hint"),
    [
        (
            b'{"target"',
            422,
            "malformed_json",
            "The body is not valid JSON: Expecting ':' delimiter: line 1 column 10 (char 9).",
            JSON,
        ),
        (
            b'{"target": "a", "target": "b"}',
            422,
            "malformed_json",
            "The body is not valid JSON: a name occurs twice in one object.",
            JSON,
        ),
        (
            b'{"metadata": NaN}',
            422,
            "unrepresentable",
            "metadata is nan, which JSON cannot hold.",
            "Give a finite number, null, or a string.",
        ),
        (
            b'{"metadata": ' + b"[" * 40 + b"]" * 40 + b"}",
            422,
            "unrepresentable",
            f"metadata{'[0]' * 31} is nested deeper than 32 levels, or contains itself.",
            "Nest the value less, or give the inner part as a string.",
        ),
        (b"\xff\xfe{}", 422, "malformed_body", "The body is not UTF-8.", "encode it as UTF-8"),
        (b"[]", 422, "invalid_input", "The body does not fit: input should be an object.", START),
        (b"{}", 422, "invalid_input", "The body does not fit: target: is missing.", START),
        (
            b'{"target": 7}',
            422,
            "invalid_input",
            "The body does not fit: target: input should be a valid string.",
            START,
        ),
        (
            b'{"target": "shop.here", "colour": "red"}',
            422,
            "invalid_input",
            "The body does not fit: colour: is not a parameter.",
            START,
        ),
        (
            b'{"target": "shop.here", "caller": "' + b"x" * 257 + b'"}',
            422,
            "invalid_input",
            "The body does not fit: caller: string should have at most 256 characters.",
            START,
        ),
        (
            b'{"target": "shop.here", "metadata": {"a": "' + b"x" * 65_536 + b'"}}',
            413,
            "body_too_large",
            "The body is larger than 65536 bytes.",
            SMALLER,
        ),
        (
            b'{"target": "shop.here", "metadata": {"a": "' + b"x" * 8_000_000 + b'"}}',
            413,
            "body_too_large",
            "The body is larger than 65536 bytes.",
            SMALLER,
        ),
    ],
    ids=lambda value: value[:30].decode(errors="replace") if isinstance(value, bytes) else None,
)
async def test_an_invalid_body_is_refused(
    installation: Installation, body: bytes, status: int, code: str, detail: str, hint: str
) -> None:
    """A start with malformed JSON, invalid parameters or an oversized body is refused, and no session starts."""
    said = await installation.refused("/sessions", body)
    assert (said.status, said.code, said.detail, said.hint) == (status, code, detail, hint)
    assert await installation.client.list_sessions() == []


async def test_an_unsupported_media_type_is_refused(installation: Installation) -> None:
    """A form-encoded body gets 415, and the hint names the required header."""
    said = await installation.refused("/sessions", b"target=shop.here", media_type="application/x-www-form-urlencoded")
    assert (said.text(), said.status) == (
        """\
error: This route takes application/json, not application/x-www-form-urlencoded.
hint: send it with the header 'Content-Type: application/json'
code: unsupported_media_type
""",
        415,
    )


async def test_an_oversized_input_from_the_command_line_and_python_is_refused(installation: Installation) -> None:
    """An oversized input gets the same error from `af` and Python, also while the body is still being sent."""
    large = "x" * 5_000_000
    code, printed = await af_refused(
        "execute", "shop.echo", "--input", json.dumps({"word": large}), "--url", installation.url
    )
    assert (code, printed.status, printed.code, printed.hint) == (2, 413, "body_too_large", SMALLER)
    assert printed == await raised_by(installation.client.execute("shop.echo", {"word": large}))
    started = await raised_by(
        installation.client.start_session(StartRequest(target="shop.here", metadata={"a": large}))
    )
    assert (started.code, started.detail) == ("body_too_large", "The body is larger than 65536 bytes.")


async def test_a_slow_body_times_out(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that does not arrive in time gets 408, and other requests are served meanwhile."""
    patient = http.read_text.__kwdefaults__
    assert patient is not None
    monkeypatch.setitem(patient, "timeout", 0.3)
    host, _, port = installation.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        head = f"POST /api/v1/sessions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        writer.write(f'{head}Content-Length: 100\r\n\r\n{{"target"'.encode())
        await installation.still_works()
        async with asyncio.timeout(60):
            status = await reader.readline()
            headers = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in headers.split(b"\r\n") if line.lower().startswith(b"content-length"))
            body = await reader.readexactly(int(length.partition(b":")[2]))
    finally:
        writer.close()
    assert b" 408 " in status
    assert refusal(json.loads(body)).text() == (
        "error: The body did not arrive within 0.3 s.\nhint: send it again, at once\ncode: body_too_slow\n"
    )


@pytest.mark.parametrize(
    ("offer", "code", "detail", "hint"),
    [
        (b"", "bad_sdp", "The SDP offer is refused: it does not begin with v=0.", SDP),
        (b"<html>hello</html>", "bad_sdp", "The SDP offer is refused: it does not begin with v=0.", SDP),
        (
            b"v=0\r\n",
            "bad_sdp",
            "The SDP offer is refused: it must have one audio section and at most one data channel section.",
            SDP,
        ),
        (
            b"v=0\r\nm=audio 9 RTP/AVP 0\r\n",
            "bad_sdp",
            "The SDP offer is refused: its audio section is not protected by DTLS.",
            SDP,
        ),
        (
            b"v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n",
            "bad_sdp",
            "The SDP offer is refused: it has no sha-256 fingerprint.",
            SDP,
        ),
        (b"v=0\r\n" + b"a=x\r\n" * 14_000, "body_too_large", "The body is larger than 65536 bytes.", SMALLER),
    ],
)
async def test_an_invalid_sdp_offer_is_refused(
    installation: Installation, offer: bytes, code: str, detail: str, hint: str
) -> None:
    """An invalid SDP offer is refused before the provider is called, and the session stays in `created`."""
    started = await installation.client.start_session(StartRequest(target="shop.voice"))
    path = f"/sessions/{started.session_id}/offer"
    said = await installation.refused(path, offer, media_type="application/sdp", token=started.token)
    assert (said.code, said.detail, said.hint) == (code, detail, hint)
    assert said == await raised_by(installation.client.offer(started.session_id, offer.decode(), started.token))
    assert (await installation.client.get_session(started.session_id)).state == "created"
    assert installation.provider.calls == []


async def test_a_browser_token_is_valid_for_one_session_until_it_ends(installation: Installation) -> None:
    """Refused: the token of another session, an operator's route, an unknown token, a token of an ended session."""
    one, two = [await installation.client.start_session(StartRequest(target="shop.voice")) for _ in range(2)]
    other = "error: The browser token belongs to another session.\nhint: use the token that came with this session's start\ncode: token_scope\n"
    for path, how in (("/offer", {"media_type": "application/sdp"}), ("/input", {}), ("/end", {})):
        said = await installation.refused(f"/sessions/{one.session_id}{path}", b"{}", token=two.token, **how)
        assert (said.text(), said.status) == (other, 403)
    for path in ("", "/events", "/workflows"):
        said = await installation.refused(f"/sessions/{one.session_id}{path}", method="GET", token=two.token)
        assert (said.text(), said.status) == (other, 403)
    said = await installation.refused("/sessions", {"target": "shop.here"}, token=one.token)
    assert (said.text(), said.status) == (
        (
            "error: A browser token opens its own session only.\n"
            "hint: use a key here (AGENTFIELD_API_KEY)\ncode: token_scope\n"
        ),
        403,
    )
    said = await installation.refused(f"/sessions/{one.session_id}", method="GET", token="ek_af_unknown")
    assert (said.text(), said.status) == (
        (
            "error: The browser token is unknown or has expired.\n"
            "hint: start a new session: af session start TARGET\ncode: token_expired\n"
        ),
        401,
    )
    await installation.client.end_session(one.session_id)
    over = (
        "error: Session ses_ID is over: operator.\nhint: start another one: af session start shop.voice\n"
        "code: session_ended\n"
    )
    said = await installation.refused(f"/sessions/{one.session_id}/input", {"text": "hello?"}, token=one.token)
    assert (said.text(), said.status) == (over, 410)
    async with AsyncExitStack() as stack:
        late = place_webrtc_call(lambda sdp: installation.client.offer(one.session_id, sdp, one.token), loopback=True)
        assert (await raised_by(stack.enter_async_context(late))).text() == over
    assert (await installation.client.get_session(two.session_id)).state == "created"


async def test_a_one_time_code_is_refused_the_second_time(installation: Installation) -> None:
    """A page URL works once; a used code and an unknown code get the same error."""
    started = await installation.client.start_session(StartRequest(target="shop.here"))
    code = started.page_url.partition("#code=")[2]
    assert (await installation.client.exchange(code)).session_id == started.session_id
    again, never = (
        await installation.refused("/sessions/exchange", {"code": code}),
        await raised_by(installation.client.exchange("code_af_never")),
    )
    assert again == never
    assert (again.text(), again.status) == (
        (
            "error: This page address was used before, or has expired.\n"
            "hint: start a new session: af session start TARGET\ncode: code_used\n"
        ),
        401,
    )


@pytest.mark.parametrize(
    ("path", "how", "status", "text"),
    [
        (
            "/sessions/ses_nope",
            {"method": "GET"},
            404,
            "error: There is no session 'ses_nope'.\nhint: af session list\ncode: unknown_session\n",
        ),
        (
            "/executions/exe_nope",
            {"method": "GET"},
            404,
            (
                "error: There is no execution 'exe_nope'.\n"
                "hint: an id begins with exe_; af session workflows SESSION shows them\ncode: unknown_execution\n"
            ),
        ),
        (
            "/workflows/run_nope/dag",
            {"method": "GET"},
            404,
            (
                "error: There is no run 'run_nope'.\n"
                "hint: an id begins with run_; af session show SESSION has it\ncode: unknown_run\n"
            ),
        ),
        (
            "/sessions?limit=many",
            {"method": "GET"},
            422,
            "error: limit is a whole number from 1 to 1000.\nhint: limit=200\ncode: invalid_input\n",
        ),
        (
            "/nothing",
            {"method": "GET"},
            404,
            (
                "error: There is no route GET DIR/nothing.\n"
                "hint: the routes are listed at DIR/openapi.json\ncode: unknown_path\n"
            ),
        ),
        (
            "/nodes",
            {"method": "POST"},
            405,
            "error: Method Not Allowed: POST DIR/nodes.\nhint: this path accepts GET\ncode: method_not_allowed\n",
        ),
    ],
)
async def test_unknown_ids_and_routes_are_refused(
    installation: Installation, path: str, how: dict[str, Any], status: int, text: str
) -> None:
    """An unknown id, route or method, or an invalid query, gets an error with a hint."""
    said = await installation.refused(path, **how)
    assert (said.text(), said.status) == (text, status)


async def test_text_before_the_call_is_refused(installation: Installation) -> None:
    """Typed text requires a live call and at least one character."""
    started = await installation.client.start_session(StartRequest(target="shop.voice"))
    path = f"/sessions/{started.session_id}/input"
    assert (await installation.refused(path, {"text": "hello"})).text() == (
        "error: session ses_ID is created; text can be typed once the call is live.\n"
        "hint: make the call first: send the SDP offer\ncode: not_live\n"
    )
    assert (await installation.refused(path, {"text": ""})).text() == (
        "error: The body does not fit: text: string should have at least 1 character.\n"
        "hint: it takes: text\ncode: invalid_input\n"
    )


async def test_a_missing_or_wrong_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing or wrong operator's key is refused over HTTP, in `af`, in Python and for a node."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    hint = "set AGENTFIELD_API_KEY to a key of it; af keys list shows those that were made"
    wrong = f"error: That is not a key of this control plane.\nhint: {hint}\ncode: unauthorized\n"
    async with run_installation(tmp_path, api_key=KEY) as installation:
        code, said = await af_refused("nodes", "--url", installation.url)
        assert (code, said.status) == (2, 401)
        assert said.text() == (
            "error: This control plane requires a key.\nhint: set AGENTFIELD_API_KEY to a key of it; an operator makes one "
            "with: af keys create\ncode: unauthorized\n"
        )
        with monkeypatch.context() as given:
            given.setenv("AGENTFIELD_API_KEY", "another-key-987654321")
            code, said = await af_refused("session", "start", "shop.here", "--url", installation.url)
            assert (code, said.text()) == (2, wrong)
        assert (await installation.refused("/sessions", {"target": "shop.here"}, token="another")).text() == wrong
        async with ControlPlaneClient(installation.url, "another") as client:
            assert (await raised_by(client.nodes())).text() == wrong
        stranger = Agent("stranger", url=installation.url, api_key="another", registry=Registry.of([]))
        refused = await raised_by(stranger.__aenter__())
        assert refused.text() == (
            "error: The control plane at URL does not accept this node's API key.\n"
            "hint: set AGENTFIELD_API_KEY to a key with the scope node; an operator makes one with: af keys create --scope node\n"
            "code: node_refused\n"
        )
        assert [node.node_id for node in await installation.client.nodes()] == ["shop"]
