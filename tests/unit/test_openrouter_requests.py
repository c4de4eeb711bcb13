"""Requests, history, refusals: what the model is told, what the router is told, what is never told to anybody."""

from __future__ import annotations

import base64
import io
import json
import wave
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from agentfield.adapterkit.provider import Provider
from agentfield.errors import InvalidInput, ProviderError, ProviderUnavailable
from agentfield_openrouter.chat import Requests
from agentfield_openrouter.chunks import ToolCall
from agentfield_openrouter.faults import fault_of
from agentfield_openrouter.history import Answered, History, heard_part
from agentfield_openrouter.options import TurnsOptions
from agentfield_openrouter.refusals import refused, unreachable
from openrouter_kit import CANARY, FLAGGED, body_misfit, config, error, pcm

PROVIDER = Provider("OpenRouter", "https://openrouter.ai/api/v1", SecretStr(CANARY), "OPENROUTER_API_KEY")


def sent(requests: Requests, body: dict[str, Any]) -> dict[str, Any]:
    """Return a body as the provider reads it, after it was found to fit the official client's types."""
    data: dict[str, Any] = json.loads(requests.encode(body))
    if "messages" in data:
        assert body_misfit(data) is None, body_misfit(data)
    return data


def test_a_request_for_an_answer_pins_the_route_and_carries_the_whole_conversation() -> None:
    """Model, voice, hashed user, session, routing that allows no fallback, tools by safe names, the turn as WAV."""
    history = History()
    history.add_text("user", "My name is Ada.")
    history.add_turn("item_1", pcm(200))
    requests = Requests(config(tools=["voice-support.find_order"], options={"upstream": ["openai"], "title": "Shop"}))
    body = sent(requests, requests.reply(history.messages(), instructions="Be brief."))
    assert body["provider"] == {
        "allow_fallbacks": False,
        "require_parameters": True,
        "only": ["openai"],
        "order": ["openai"],
    }
    assert "models" not in body
    assert (body["model"], body["user"], body["session_id"]) == ("openai/gpt-audio", "hash-of-the-caller", "ses_1")
    assert (body["modalities"], body["audio"]) == (["text", "audio"], {"voice": "alloy", "format": "pcm16"})
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert body["tools"][0]["function"]["name"] == "voice-support__find_order"
    assert body["messages"][:2] == [
        {"role": "system", "content": "You help with orders.\n\nBe brief."},
        {"role": "user", "content": "My name is Ada."},
    ]
    sound = body["messages"][2]["content"][0]["input_audio"]
    with wave.open(io.BytesIO(base64.b64decode(sound["data"]))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        assert file.readframes(10**6) == pcm(200)
    assert requests.headers() == {"X-Title": "Shop"}


def test_a_session_of_text_asks_for_no_sound() -> None:
    """Without audio among the modalities there is no voice to name."""
    requests = Requests(config(modalities=("text",)))
    body = sent(requests, requests.reply(History().messages()))
    assert body["modalities"] == ["text"]
    assert "audio" not in body


def test_an_unpinned_session_says_nothing_about_routing() -> None:
    """A server that does not route is not told how, and may name its models as it likes."""
    requests = Requests(config(model="openrouter/auto"), pinned=False)
    assert "provider" not in sent(requests, requests.reply([]))


@pytest.mark.parametrize(
    "model", ["openrouter/auto", "openai/gpt-audio:online", "openai/gpt-audio:nitro", "@preset/x", "~openai/gpt-latest"]
)
def test_names_that_choose_a_model_by_themselves_are_refused(model: str) -> None:
    """Routers, presets and routing variants change the model silently; nothing is opened with them."""
    with pytest.raises(InvalidInput, match="by itself") as refusal:
        Requests(config(model=model))
    assert refusal.value.code == "model_not_pinned"


def test_saying_has_a_conversation_of_its_own_and_no_tools() -> None:
    """The text stands between marks, escaped, and nothing of the history is there to be answered."""
    requests = Requests(config(tools=["a.b"]))
    body = sent(requests, requests.say("1 < 2 & 3"))
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][1]["content"] == "<say>1 &lt; 2 &amp; 3</say>"
    assert "tools" not in body


def test_tools_are_offered_as_asked_and_undeclared_ones_refused() -> None:
    """None means all, an empty tuple none; a history with calls keeps its tools beside it."""
    requests = Requests(config(tools=["a.b", "a.c"]))
    names = [tool["function"]["name"] for tool in requests.reply([], tools=("a.c",))["tools"]]
    assert names == ["a__c"]
    assert "tools" not in requests.reply([], tools=())
    kept = sent(requests, requests.reply([], tools=(), has_calls=True))
    assert (len(kept["tools"]), kept["tool_choice"]) == (2, "none")
    with pytest.raises(InvalidInput, match=r"a\.d"):
        requests.check_tools(("a.d",))


def test_options_are_checked_by_name() -> None:
    """An unknown or impossible option is named."""
    assert TurnsOptions.of(config(options={"audio_history": 0})).audio_history == 0
    for options, name in (({"colour": 1}, "options.colour"), ({"upstream": ["Open AI"]}, "options.upstream.0")):
        with pytest.raises(InvalidInput, match=name):
            Requests(config(options=options))


def test_older_turns_are_read_and_the_newest_is_heard() -> None:
    """As many of the newest turns as declared are sent as recorded; others as words, or as a remark."""
    history = History(recorded=1)
    for number in range(3):
        history.add_turn(f"item_{number}", pcm(100))
    history.transcribed("item_0", "First.")
    history.transcribed("item_2", "Third.")
    first, second, third = history.messages()
    assert first["content"] == "First."
    assert "could not be understood" in second["content"]
    assert third["content"][0]["type"] == "input_audio"
    words = History(recorded=0)
    words.add_turn("item_0", pcm(100))
    assert words.messages()[0]["content"][0]["type"] == "input_audio"
    words.transcribed("item_0", "First.")
    assert words.messages() == [{"role": "user", "content": "First."}]


def test_results_stand_behind_their_calls_whenever_they_come() -> None:
    """A call without result is told to be pending; what was said in between stays behind it; the first result counts."""
    history = History()
    history.add_reply("r1", Answered("Let me look.", 500, (ToolCall("c1", "a__b", "{}"), ToolCall("c2", "a__c", "{}"))))
    history.add_text("user", "Hurry.")
    history.add_result("c2", '{"ok":true}')
    history.add_result("c2", '{"ok":false}')
    told = history.messages()
    assert [message["role"] for message in told] == ["assistant", "tool", "tool", "user"]
    assert [message.get("content") for message in told[1:3]] == ['{"status":"pending"}', '{"ok":true}']
    requests = Requests(config(tools=["a.b", "a.c"]))
    sent(requests, requests.reply(told, has_calls=history.has_calls))


@pytest.mark.parametrize(
    ("heard", "left"),
    [
        (0, None),
        (500, "one two …"),
        (999, "one two three …"),
        (1000, "one two three four"),
        (None, "one two three four"),
    ],
)
def test_of_an_interrupted_answer_only_what_was_heard_is_kept(heard: int | None, left: str | None) -> None:
    """The share of the sound that was played is the share of the words that is kept."""
    history = History()
    history.add_reply("r1", Answered("one two three four", 1000))
    history.cut("r1", heard)
    assert history.messages() == ([] if left is None else [{"role": "assistant", "content": left}])


@given(st.text(max_size=200), st.integers(-10, 20_000), st.integers(0, 10_000))
def test_what_was_heard_is_the_beginning_of_what_was_said(text: str, heard: int, length: int) -> None:
    """Never more than was generated, never words from elsewhere."""
    assert text.startswith(heard_part(text, heard, length))


@pytest.mark.parametrize(
    ("status", "body", "code", "kind", "fatal", "retry"),
    [
        (400, error(400, "bad"), "invalid_request", ProviderError, False, False),
        (401, error(401, f"No auth: {CANARY}"), "invalid_api_key", ProviderError, True, False),
        (402, error(402, "credits", error_type="payment_required"), "payment_required", ProviderError, True, False),
        (403, error(403, f"flagged: {FLAGGED}", flagged_input=FLAGGED, reasons=["x"]), "forbidden", ProviderError, False,
         False),
        (403, error(403, "key may not"), "forbidden", ProviderError, True, False),
        (404, error(404, "No endpoints found"), "model_not_found", ProviderError, True, False),
        (408, error(408), "timeout", ProviderUnavailable, False, True),
        (413, error(413), "payload_too_large", ProviderError, False, False),
        (422, error(422), "unprocessable", ProviderError, False, False),
        (429, error(429, "slow"), "rate_limit_exceeded", ProviderError, False, True),
        (502, b"<html>Bad gateway " + CANARY.encode(), "provider_unavailable", ProviderUnavailable, False, True),
        (503, error(503, "x", error_type="provider_overloaded"), "provider_overloaded", ProviderUnavailable, False, True),
        (200, error(429, "inside"), "rate_limit_exceeded", ProviderError, False, True),
        (200, b"<html>", "invalid_answer", ProviderUnavailable, False, True),
        (302, b"", "http_302", ProviderError, False, False),
    ],
)  # fmt: skip
def test_a_refusal_has_a_code_a_class_and_no_secret(
    status: int, body: bytes, code: str, kind: type[Exception], fatal: bool, retry: bool
) -> None:
    """Every status is told by a name; keys, flagged words and raw bodies are not told at all."""
    found = refused(PROVIDER, "answer", status, body, retry_after="7")
    assert isinstance(found, kind)
    assert (found.fault.code, found.fault.fatal, found.fault.retry) == (code, fatal, retry)
    assert found.data["provider_code"] == code
    assert found.fault.retry_after in (7.0, None)
    everything = f"{found!r} {found} {json.dumps(found.to_problem())} {found.fault!r}"
    assert CANARY not in everything
    assert FLAGGED not in everything
    assert "<html>" not in everything


@given(st.dictionaries(st.sampled_from(["code", "message", "metadata", "type"]), st.integers() | st.text() | st.none()))
def test_no_error_object_breaks_the_classification(found: dict[str, Any]) -> None:
    """Whatever stands in an error, it has a code."""
    assert fault_of(found, status=500).code


def test_an_unreachable_provider_may_be_asked_again() -> None:
    """Of what went wrong only the kind is told; whether it took too long decides the code."""
    told = unreachable(PROVIDER, "answer", OSError("connect to http://user:secret@proxy failed"))
    assert "secret" not in str(told)
    assert (told.fault.code, told.fault.retry) == ("unreachable", True)
    assert unreachable(PROVIDER, "answer", TimeoutError()).fault.code == "timeout"
