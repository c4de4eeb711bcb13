"""Bytes that are no proper request get a typed error of 4xx, one line in the log at most, and no traceback."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agentfield_server.app import control_plane
from agentfield_server.settings import Settings

HOST = b"Host: 127.0.0.1\r\n"
JSON = HOST + b"Content-Type: application/json\r\n"


def get(path: bytes, *headers: bytes, host: bytes = HOST) -> bytes:
    """Return a GET request."""
    return b"GET " + path + b" HTTP/1.1\r\n" + host + b"".join(each + b"\r\n" for each in headers) + b"\r\n"


def post(path: bytes, body: bytes, *headers: bytes) -> bytes:
    """Return a POST request."""
    lines = (*headers, b"Content-Length: %d" % len(body))
    return b"POST " + path + b" HTTP/1.1\r\n" + JSON + b"".join(each + b"\r\n" for each in lines) + b"\r\n" + body


START = b"/api/v1/sessions"
REQUESTS = {
    "a NUL in the path": (get(b"/%00"), 404, "unknown_path"),
    "a NUL in a file name": (get(b"/agentfield/a%00.js"), 404, "unknown_path"),
    "a file name of 300": (get(b"/agentfield/" + b"a" * 300 + b".js"), 404, "unknown_path"),
    "a session of 300": (get(START + b"/" + b"a" * 300), 404, "unknown_session"),
    "a target of 300": (post(b"/api/v1/execute/" + b"a" * 300 + b".b", b"{}"), 404, "unknown_target"),
    "a path above the root": (get(b"/..%2f..%2fetc/passwd"), 404, "unknown_path"),
    "bytes in the path": (get(b"/%ff%fe"), 404, "unknown_path"),
    "raw bytes in the path": (get(b"/\xed\xa0\x80"), 400, "malformed_request"),
    "half an address as host": (get(b"/healthz", host=b"Host: [\r\n"), 403, "foreign_host"),
    "half an address as target": (get(b"http://[/api/v1/sessions"), 400, "malformed_request"),
    "no host": (get(b"/healthz", host=b""), 400, "malformed_request"),
    "two hosts": (get(b"/healthz", b"Host: evil"), 400, "malformed_request"),
    "bytes as host": (get(b"/healthz", host=b"Host: \xff\xfe\r\n"), 422, "malformed_header"),
    "bytes as idempotency key": (post(b"/api/v1/execute/a.b", b"{}", b"Idempotency-Key: \xff"), 422, "invalid_input"),
    "bytes as last event": (get(b"/api/v1/workflows/run_x/events", b"Last-Event-ID: \xff"), 422, "invalid_input"),
    "bytes as expectation": (post(START, b"{}", b"Expect: \xff"), 400, "malformed_request"),
    "bytes as trace": (
        post(b"/api/v1/execute/a.b", b"{}", b"traceparent: \xff", b"baggage: \xff"),
        404,
        "unknown_target",
    ),
    "junk as gzip": (post(START, b"junk", b"Content-Encoding: gzip"), 422, "malformed_body"),
    "junk as deflate": (post(START, b"junk", b"Content-Encoding: deflate"), 400, "malformed_request"),
    "a compressed bomb": (
        post(START, gzip.compress(b"[" * 30_000_000), b"Content-Encoding: gzip"),
        413,
        "body_too_large",
    ),
    "an unknown coding": (post(START, b"junk", b"Content-Encoding: br"), 400, "malformed_request"),
    "a big integer": (post(START, b'{"target":' + b"9" * 5000 + b"}"), 422, "unrepresentable"),
    "50,000 levels": (post(START, b"[" * 50_000), 422, "unrepresentable"),
    "half a surrogate pair": (post(START, b'{"target":"a\\ud800.b"}'), 422, "unrepresentable"),
    "a huge length": (
        b"POST / HTTP/1.1\r\n" + JSON + b"Content-Length: 99999999999999999999\r\n\r\n",
        400,
        "malformed_request",
    ),
    "two lengths": (
        b"POST / HTTP/1.1\r\n" + JSON + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "malformed_request",
    ),
    "no chunk": (
        b"POST / HTTP/1.1\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        400,
        "malformed_request",
    ),
    "a broken method": (b"F\x00O / HTTP/1.1\r\n" + HOST + b"\r\n", 400, "malformed_request"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50) + b"\r\n\r\n", 400, "malformed_request"),
    "a header of 20,000": (get(b"/", b"X-Long: " + b"a" * 20_000), 400, "malformed_request"),
    "5,000 headers": (get(b"/", *(b"X-%d: a" % number for number in range(5000))), 400, "malformed_request"),
}


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    async with control_plane(Settings(_env_file=None, home=tmp_path / "home", port=0)) as plane:
        yield urlsplit(plane.url).port or 0


async def test_odd_requests_are_refused_by_type(port: int, caplog: pytest.LogCaptureFixture) -> None:
    """Each is refused with its code, and the next one is served."""
    caplog.set_level(logging.DEBUG)
    found = {}
    for name, (request, _status, _code) in REQUESTS.items():
        caplog.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        problem = json.loads(await reader.readexactly(int(length)))
        writer.close()
        lines = [record for record in caplog.records if record.levelno >= logging.INFO]
        assert len(lines) <= 1, (name, lines)
        assert not [record for record in caplog.records if record.exc_info], name
        assert all(record.getMessage().isprintable() for record in lines), name
        found[name] = (int(head.split()[1]), problem["code"])
    assert found == {name: (status, code) for name, (_, status, code) in REQUESTS.items()}
