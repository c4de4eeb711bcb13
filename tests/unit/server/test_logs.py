"""Logs of the server: what never appears in a line, and what each line has."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import string
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentfield.ids import new_id
from agentfield_server.logs import configure_logs, log_context
from agentfield_server.redaction import Redactor, known_secrets, redact

BODY = "Vt93kQe7LmXw20ZbR4"
JWT = f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIi{BODY}.sig{BODY}"
SHAPED = {
    "a provider's key": f"sk-proj-{BODY}",
    "another provider's": f"sk-or-v1-{BODY}",
    "a restricted key": f"rk_live_{BODY}",
    "an ephemeral key": f"ek_{BODY}",
    "a browser token": f"ek_af_{BODY}",
    "a one-time code": f"code_af_{BODY}",
    "a webhook secret": f"whsec_{BODY}",
    "a signed token": JWT,
}
"""What is known by its shape wherever it is."""
CARRIERS: dict[str, Callable[[str], str]] = {
    "alone": lambda key: key,
    "in a sentence": lambda key: f"Incorrect API key provided: {key}. Look it up.",
    "in a query": lambda key: f"GET https://host/v1?x=1&key={key}&y=2",
    "in a fragment": lambda key: f"http://host/call#code={key}",
    "in an encoded address": lambda key: f"next={quote(f'https://host/#code={key}', safe='')}",
    "as a user": lambda key: f"https://{key}:x@host/",
    "in a header": lambda key: f"Authorization: Bearer {key}\r\nAccept: */*",
    "in JSON": lambda key: json.dumps({"a": [{"api_key": key}]}),
    "in JSON in JSON": lambda key: json.dumps({"body": json.dumps({"value": f"x\n{key}\n"})}),
    "in a repr": lambda key: repr({"lines": f"one\n{key}\ttwo"}),
    "in bytes": lambda key: repr(f'{{"k":"{key}"}}'.encode()),
    "in a mapping": lambda key: str({"Authorization": f"Bearer {key}"}),
}
PLACED = {
    "a password of an address": f"connecting to https://user:{BODY}@host:8080/path",
    "basic credentials": f"authorization: Basic {base64.b64encode(f'user:{BODY}'.encode()).decode()}",
    "an odd scheme": f"{{'Authorization': 'Key {BODY} more', 'x': 1}}",
    "a cookie": f"Cookie: a=1; session={BODY}",
    "an ICE password": f"v=0\r\na=ice-ufrag:abcd\r\na=ice-pwd:{BODY}\r\ns=-",
    "an ICE password in JSON": json.dumps({"sdp": f"v=0\r\na=ice-pwd:{BODY}\r\na=x"}),
    "an ICE password by name": json.dumps({"icePwd": BODY}),
    "a fingerprint": f"a=fingerprint:sha-256 {BODY}",
    "a token of a query": f"wss://host/media?token={BODY}&x=1",
    "a token of an encoded query": f"u=https%3A%2F%2Fhost%3Faccess_token%3D{BODY}",
    "a key by name": f"OPENAI_API_KEY={BODY}",
    "a secret with spaces": json.dumps({"client_secret": f"two words {BODY}"}),
    "a code of an address": f"https://host/call#code={BODY}",
    "a long one without an end": '"password": "' + "x" * 10_000 + BODY,
}
KNOWN = f'no shape at all/ "{BODY}" %ü'


def lines(log: Callable[[logging.Logger], object], *, json_lines: bool = True, secrets: Any = ()) -> str:
    """Return the lines that a log call writes."""
    out = io.StringIO()
    root = logging.getLogger()
    before = list(root.handlers)
    try:
        configure_logs("DEBUG", json_lines=json_lines, stream=out, secrets=secrets)
        log(logging.getLogger("agentfield.test"))
    finally:
        root.handlers[:] = before
    text = out.getvalue()
    if json_lines:
        assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
    return text


def raises(text: str) -> None:
    """Raise an error with a cause; both texts contain the given one."""
    try:
        int(text)
    except ValueError as error:
        error.add_note(f"note: {text}")
        raise RuntimeError(f"because of {text}") from error


def everywhere(log: logging.Logger, text: str) -> None:
    """Log a text in every way that there is: message, argument, field, exception."""
    log.warning(text)
    log.warning("it was %s", text)
    log.warning("it was %r", {"deep": [text, {"deeper": (text,)}]})
    log.warning("it was %s", ValueError(text))
    log.info("an object", extra={"detail": text, "nested": {"list": [text, text.encode()]}})
    try:
        raises(text)
    except RuntimeError as error:
        log.exception("failed")
        log.warning("failed: %s", error, exc_info=error)
    with log_context(place=text):
        log.info("in a context", stack_info=True)


@pytest.mark.parametrize("json_lines", [True, False])
@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("shape", SHAPED)
def test_known_key_formats_are_redacted(shape: str, carrier: str, json_lines: bool) -> None:
    """Our keys and those of providers, in URLs, headers, JSON, errors with their causes, and fields."""
    text = CARRIERS[carrier](SHAPED[shape])
    written = lines(lambda log: everywhere(log, text), json_lines=json_lines)
    assert BODY not in written
    assert "[redacted]" in written


@pytest.mark.parametrize("json_lines", [True, False])
@pytest.mark.parametrize("place", PLACED)
def test_values_in_secret_positions_are_redacted(place: str, json_lines: bool) -> None:
    """Passwords, cookies and credentials have no format of their own; their position gives them away."""
    written = lines(lambda log: everywhere(log, PLACED[place]), json_lines=json_lines)
    assert BODY not in written


@pytest.mark.parametrize("json_lines", [True, False])
def test_configured_secrets_are_redacted(json_lines: bool) -> None:
    """The operator's key may be any text; it comes from the environment and may be escaped in URLs and JSON."""
    secrets = known_secrets({"AGENTFIELD_API_KEY": KNOWN, "HOME": "/home/ann", "SHORT_KEY": "abc"})
    for text in (KNOWN, quote(KNOWN), quote(KNOWN, safe=""), json.dumps({"x": KNOWN}), repr([KNOWN])):
        written = lines(lambda log, text=text: everywhere(log, text), json_lines=json_lines, secrets=secrets)
        assert BODY not in written
    assert "/home/ann" in lines(lambda log: log.info("at /home/ann, abc"), secrets=secrets)


token = st.text(string.ascii_letters + string.digits + "_-", min_size=16, max_size=64)
kind = st.sampled_from(["sk-", "sk_", "ek_", "ek_af_", "rk_", "pk_", "sess-", "whsec_", "code_af_"])
around = st.text(string.punctuation.replace("_", "") + string.whitespace, max_size=4)


@given(kind, token, around, around)
@example("sk-", "A" * 16, "", "")
def test_any_key_is_redacted_between_any_characters(prefix: str, secret: str, before: str, after: str) -> None:
    """Whatever the key and the characters around it, no part of it is left."""
    assert secret not in redact(f"{before}{prefix}{secret}{after}")
    assert secret not in redact(json.dumps([f"{before}{prefix}{secret}{after}"]))


@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_every_line_is_json(value: Any) -> None:
    """Redaction never breaks a line: it is JSON for any input."""
    json.dumps(Redactor().value(value))


def test_ordinary_words_are_kept() -> None:
    """Text that only resembles a secret is not redacted."""
    for text in (
        "the task-scheduler of the help-desk-lookup_order took 5 s",
        "risk-assessment and disk_usage_of_the_store",
        "input_tokens=512 output_tokens: 7",
        "code: unknown_run",
        "look for evt_0198c0ffee00700080000000deadbeef in its log",
        "http://127.0.0.1:8080/api/v1/sessions?limit=5",
    ):
        assert redact(text) == text


async def test_lines_have_the_ids_of_their_context() -> None:
    """Ids in a message become fields; work for a node or session has the ids of that one only."""
    session, run, one, two = new_id("ses"), new_id("run"), new_id("exe"), new_id("exe")

    def log(logger: logging.Logger) -> None:
        logger.info("session %s failed", session)
        logger.info("%s and %s of %s", one, two, run)
        with log_context(session_id=session, node_id="shop"):
            logger.info("call %s failed", one)
        logger.info("nothing")

    said = [json.loads(line) for line in lines(log).splitlines()]
    ids = [{name: value for name, value in each.items() if name.endswith("_id")} for each in said]
    assert ids == [
        {"session_id": session},
        {"run_id": run},
        {"session_id": session, "node_id": "shop", "execution_id": one},
        {},
    ]

    async def work(name: str) -> None:
        with log_context(session_id=name):
            await asyncio.sleep(0)
            logging.getLogger("agentfield.test").info("at work")

    out = io.StringIO()
    root = logging.getLogger()
    before = list(root.handlers)
    configure_logs(json_lines=True, stream=out)
    try:
        await asyncio.gather(*(work(name) for name in ("a", "b", "c")))
    finally:
        root.handlers[:] = before
    assert sorted(json.loads(line)["session_id"] for line in out.getvalue().splitlines()) == ["a", "b", "c"]


HOSTILE = "a\x1b[2J\x1b]0;title\x07b\rc\nINFO forged\x9b31m\u202ed\u2066e\u061cf\u200fg\u2028h\x7f"


@pytest.mark.parametrize("json_lines", [True, False])
def test_characters_that_control_a_terminal_are_visible(json_lines: bool) -> None:
    """Escape sequences, line breaks and bidirectional controls from outside are escaped; a line stays one line."""
    text = lines(lambda log: everywhere(log, HOSTILE), json_lines=json_lines)
    assert set(filter(lambda char: not char.isprintable(), text)) <= {"\n"}
    whole = lines(lambda log: log.warning("it was %s", HOSTILE, extra={"detail": HOSTILE}), json_lines=json_lines)
    assert whole.count("\n") == 1
    if json_lines:
        assert json.loads(whole)["event"] == f"it was {HOSTILE}"
