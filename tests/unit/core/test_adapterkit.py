"""Helpers of adapters over HTTP: URLs, keys, refusals, unchecked JSON, options."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Literal

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, SecretStr

from agentfield.adapterkit import json_fields as fields
from agentfield.adapterkit.endpoint import ProviderEndpoint
from agentfield.adapterkit.http import http_session, read_body
from agentfield.adapterkit.options import read_options
from agentfield.adapterkit.redact import redact
from agentfield.adapterkit.refusals import refusal_error, retry_seconds, unreachable_error
from agentfield.adapterkit.urls import check_base_url, is_loopback, proxy_for, socket_url
from agentfield.errors import InvalidInput, ProviderError, ProviderUnavailable
from support.providers.openai import CANARY, config

PROVIDER = ProviderEndpoint("Example", "https://voice.test/v1", SecretStr(CANARY), "EXAMPLE_KEY", "EXAMPLE_URL")


def test_proxies_apply_except_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's proxy and its exceptions apply; loopback is connected directly."""
    for name in ("http", "https"):
        monkeypatch.setenv(f"{name}_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("no_proxy", "internal.test")
    assert proxy_for("https://voice.test/v1") == "http://proxy.test:3128"
    assert proxy_for("https://internal.test/v1") is None
    for host in ("127.0.0.1", "localhost", "[::1]"):
        assert proxy_for(f"http://{host}:8080/v1") is None
        assert is_loopback(f"http://{host}:8080/v1")


def test_a_malformed_url_is_not_loopback() -> None:
    """A URL without a valid host does not refer to this machine."""
    assert not is_loopback("http://[::1")


def test_insecure_base_urls_are_refused() -> None:
    """Plain HTTP is for loopback only; user, query and fragment are refused."""
    assert check_base_url("https://voice.test/v1/", None) == "https://voice.test/v1"
    assert socket_url(check_base_url("http://127.0.0.1:8000/v1", None)) == "ws://127.0.0.1:8000/v1"
    for url in (
        "http://voice.test/v1",
        "http://voice.localhost/v1",
        "ftp://x",
        "",
        "https://user:pass@x/v1",
        "https://x/v1?key=1",
        "http://[::1",
        "https://x:99999/v1",
    ):
        with pytest.raises(InvalidInput) as caught:
            check_base_url(url, "EXAMPLE_URL", example="https://voice.test/v1")
        assert "pass" not in str(caught.value)
        assert caught.value.hint == "set EXAMPLE_URL to an address such as https://voice.test/v1"


def test_keys_and_call_credentials_are_redacted() -> None:
    """Known secrets, key-like texts, SDP credentials and line breaks are removed."""
    text = redact("a s3cret sk-proj-AbCdEf123 and\r\nBearer xyz ek_af_0123456789 end", "s3cret")
    assert text == "a [redacted] [redacted] and [redacted] [redacted] end"
    assert redact("v=0\r\na=ice-pwd:hidden\r\ns=-") == "v=0 [redacted] s=-"
    assert len(redact("x" * 5000)) == 300


def test_a_missing_key_names_its_setting() -> None:
    """A key is sent if set; a provider without a key setting needs none; the key is never shown."""
    assert PROVIDER.bearer() == {"Authorization": f"Bearer {CANARY}"}
    assert ProviderEndpoint("Example", "http://127.0.0.1", None).bearer() == {}
    for nothing in (None, SecretStr("")):
        with pytest.raises(ProviderError, match="needs a key") as caught:
            ProviderEndpoint("Example", "https://x", nothing, "EXAMPLE_KEY").bearer()
        assert (caught.value.code, caught.value.hint) == ("key_missing", "set EXAMPLE_KEY")
    assert CANARY not in repr(PROVIDER)
    assert PROVIDER.clean(f"the key {CANARY} is wrong") == "the key [redacted] is wrong"


@pytest.mark.parametrize(
    ("status", "ours"), [(400, 502), (401, 502), (408, 504), (429, 502), (500, 502), (503, 502), (504, 504)]
)
def test_a_refusal_is_a_bad_gateway_unless_it_was_too_slow(status: int, ours: int) -> None:
    """The provider's failure is our 502; only its timeouts are our 504."""
    assert refusal_error(PROVIDER, "answer", status, "busy").to_problem()["status"] == ours


@pytest.mark.parametrize(("why", "ours"), [(TimeoutError(), 504), (ConnectionRefusedError(), 502)])
def test_an_unreachable_provider_is_a_timeout_only_if_it_was_one(why: BaseException, ours: int) -> None:
    """A refused connection is our 502, a slow one our 504."""
    assert unreachable_error(PROVIDER, "answer", why).to_problem()["status"] == ours


@pytest.mark.parametrize(("status", "kind"), [(400, ProviderError), (429, ProviderError), (503, ProviderUnavailable)])
def test_a_refusal_has_the_request_and_the_reason(status: int, kind: type[ProviderError]) -> None:
    """Status, code and seconds to wait are data of the error; temporary failures have their own class."""
    error = refusal_error(PROVIDER, "answer", status, "busy", reason="too many", hint="try again", retry_after=7.0)
    assert type(error) is kind
    assert error.message == f"Example refused to answer (HTTP {status}, busy): too many"
    assert error.data == {"provider_code": "busy", "provider_status": status, "retry_after": 7.0}
    assert (
        refusal_error(PROVIDER, "answer", status, "busy").message == f"Example refused to answer (HTTP {status}, busy)"
    )


@pytest.mark.parametrize(
    ("why", "told"),
    [
        (TimeoutError(), "did not answer in time"),
        (ConnectionRefusedError("10.0.0.1"), "nothing answers at its address"),
        (ConnectionResetError("10.0.0.1"), "broke the connection off"),
        (aiohttp.ServerDisconnectedError("10.0.0.1"), "broke the connection off"),
        (OSError("connect to http://user:secret@10.0.0.1 failed"), "could not be reached (OSError)"),
    ],
)
def test_an_unreachable_provider_is_reported_without_its_address(why: BaseException, told: str) -> None:
    """The message has the kind of failure and the setting to check."""
    error = unreachable_error(PROVIDER, "answer", why)
    assert told in error.message
    assert "10.0.0.1" not in repr(error) + str(error)
    assert "EXAMPLE_URL" in (error.hint or "")
    assert error.data["provider_code"] == "unreachable"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), (" 1.5 ", 1.5), (None, None), ("", None), ("soon", None), ("-1", None), ("99999999", 86_400.0),
     ("٣", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)],
)  # fmt: skip
def test_retry_after_is_parsed_and_bounded(header: str | None, seconds: float | None) -> None:
    """Seconds count up to a day; other values are ignored."""
    assert retry_seconds(header) == seconds


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from("ab"), ANYTHING))
def test_any_json_can_be_read(data: dict[str, Any]) -> None:
    """Values of other types count as absent; returned values can be encoded and counted."""
    assert (fields.text_at(data, "a") or "").encode() is not None
    assert fields.id_at(data, "a") != ""
    assert (fields.amount_at(data, "a") or 0) >= 0
    assert isinstance(fields.count_at(data, "a"), int | None)
    assert isinstance(fields.number_at(data, "a"), float | None)
    assert isinstance(fields.object_at(data, "a", "b"), dict)
    assert all(isinstance(each, dict) for each in fields.objects_at(data, "a"))


def test_fields_are_read_and_absent_ones_are_none() -> None:
    """Each reader returns its type, or None for an absent field."""
    data = fields.parse_object(
        b'{"n": -1.5, "c": 3.9, "t": "x", "flag": true, "deep": {"er": {"k": 1}}, "list": [1, {"k": 2}]}'
    )
    assert data is not None
    assert (fields.number_at(data, "n"), fields.amount_at(data, "n"), fields.count_at(data, "c")) == (-1.5, None, 3)
    assert (fields.number_at(data, "flag"), fields.text_at(data, "n"), fields.id_at(data, "t")) == (None, None, "x")
    assert (fields.object_at(data, "deep", "er"), fields.object_at(data, "t")) == ({"k": 1}, {})
    assert fields.objects_at(data, "list") == [{"k": 2}]
    for raw in ("[1]", "{", "[" * 100_000, b"\xff"):
        assert fields.parse_object(raw) is None


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    pace: Literal["slow", "fast"] = "slow"


def test_invalid_options_are_named() -> None:
    """An unknown or out-of-range option is named, with the known options."""
    assert read_options(_Options, config(options={"pace": "fast"})).pace == "fast"
    for options, name in (({"pace": "rapid"}, "options.pace"), ({"colour": 1}, "options.colour")):
        with pytest.raises(InvalidInput, match=name) as caught:
            read_options(_Options, config(options=options))
        assert (caught.value.data["field"], caught.value.hint) == (name, "options of this pair: pace")


async def test_bodies_are_bounded_and_cookies_are_not_kept() -> None:
    """A body above the limit is cut off detectably; cookies are not sent again."""
    cookies: list[str | None] = []

    async def page(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        return web.Response(body=bytes(int(request.query["size"])), headers={"Set-Cookie": "who=me; Path=/"})

    app = web.Application()
    app.router.add_get("/", page)
    async with TestServer(app) as server, http_session(2) as http:
        for size, least, most in ((0, 0, 0), (1000, 1000, 1000), (1_000_000, 1001, 1000 + 64 * 1024)):
            async with http.get(server.make_url(f"/?size={size}")) as response:
                assert least <= len(await read_body(response.content, 1000)) <= most
    assert cookies == [None, None, None]


def test_importing_the_package_imports_no_module() -> None:
    """Each module imports only what it needs."""
    code = "import sys, agentfield.adapterkit.json_fields; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", "import json;" + code], check=True, capture_output=True, text=True
    ).stdout
    assert not {"aiohttp", "pydantic", "agentfield.adapterkit.endpoint"} & set(json.loads(out))
