"""Requests, history and refusals: what the model and the router receive, and what no error shows."""

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

from agentfield.adapterkit.endpoint import ProviderEndpoint
from agentfield.errors import InvalidInput, ProviderError, ProviderUnavailable
from agentfield_openrouter.chunks import ToolCall
from agentfield_openrouter.error_classification import classify_error
from agentfield_openrouter.history import ConversationHistory, ReplyEntry, heard_text
from agentfield_openrouter.options import TurnsOptions
from agentfield_openrouter.refusals import refusal_error, unreachable_error
from agentfield_openrouter.request_builder import RequestBuilder
from support.providers.openrouter import CANARY, FLAGGED, body_misfit, config, error, pcm

PROVIDER = ProviderEndpoint("OpenRouter", "https://openrouter.ai/api/v1", SecretStr(CANARY), "OPENROUTER_API_KEY")


def sent(requests: RequestBuilder, body: dict[str, Any]) -> dict[str, Any]:
    """Return a body as the provider receives it, after a check against the official client's types."""
    data: dict[str, Any] = json.loads(requests.encode(body))
    if "messages" in data:
        assert body_misfit(data) is None, body_misfit(data)
    return data


def test_a_reply_request_pins_the_route_and_carries_the_conversation() -> None:
    """Model, voice, hashed user, session, routing without fallbacks, tools by wire names, the turn as WAV."""
    history = ConversationHistory()
    history.add_text("user", "My name is Ada.")
    history.add_turn("item_1", pcm(200))
    requests = RequestBuilder(
        config(tools=["voice-support.find_order"], options={"upstream": ["openai"], "title": "Shop"})
    )
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


def test_a_text_session_requests_no_audio() -> None:
    """Without audio among the modalities no voice is sent."""
    requests = RequestBuilder(config(modalities=("text",)))
    body = sent(requests, requests.reply(ConversationHistory().messages()))
    assert body["modalities"] == ["text"]
    assert "audio" not in body


def test_an_unpinned_session_sends_no_routing() -> None:
    """A server that does not route gets no routing, and any model name is accepted."""
    requests = RequestBuilder(config(model="openrouter/auto"), pinned=False)
    assert "provider" not in sent(requests, requests.reply([]))


@pytest.mark.parametrize(
    "model", ["openrouter/auto", "openai/gpt-audio:online", "openai/gpt-audio:nitro", "@preset/x", "~openai/gpt-latest"]
)
def test_routing_model_names_are_refused(model: str) -> None:
    """Routers, presets and routing variants would change the model silently and are refused."""
    with pytest.raises(InvalidInput, match="selects or changes the model itself") as refusal:
        RequestBuilder(config(model=model))
    assert refusal.value.code == "model_not_pinned"


def test_a_say_request_has_no_history_and_no_tools() -> None:
    """The text stands escaped between marks, in a conversation of its own."""
    requests = RequestBuilder(config(tools=["a.b"]))
    body = sent(requests, requests.say("1 < 2 & 3"))
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][1]["content"] == "<say>1 &lt; 2 &amp; 3</say>"
    assert "tools" not in body


def test_tools_are_offered_as_requested_and_undeclared_ones_refused() -> None:
    """None offers all tools, an empty tuple none; a history with tool calls is sent with its tools."""
    requests = RequestBuilder(config(tools=["a.b", "a.c"]))
    names = [tool["function"]["name"] for tool in requests.reply([], tools=("a.c",))["tools"]]
    assert names == ["a__c"]
    assert "tools" not in requests.reply([], tools=())
    kept = sent(requests, requests.reply([], tools=(), has_calls=True))
    assert (len(kept["tools"]), kept["tool_choice"]) == (2, "none")
    with pytest.raises(InvalidInput, match=r"a\.d"):
        requests.check_tools(("a.d",))


def test_options_are_checked_by_name() -> None:
    """An unknown or invalid option is named."""
    assert TurnsOptions.of(config(options={"audio_history": 0})).audio_history == 0
    for options, name in (({"colour": 1}, "options.colour"), ({"upstream": ["Open AI"]}, "options.upstream.0")):
        with pytest.raises(InvalidInput, match=name):
            RequestBuilder(config(options=options))


def test_older_turns_are_sent_as_text_and_the_newest_as_audio() -> None:
    """The declared number of newest turns is sent as recordings, older ones as transcripts or a remark."""
    history = ConversationHistory(recorded=1)
    for number in range(3):
        history.add_turn(f"item_{number}", pcm(100))
    history.set_transcript("item_0", "First.")
    history.set_transcript("item_2", "Third.")
    first, second, third = history.messages()
    assert first["content"] == "First."
    assert "could not be understood" in second["content"]
    assert third["content"][0]["type"] == "input_audio"
    words = ConversationHistory(recorded=0)
    words.add_turn("item_0", pcm(100))
    assert words.messages()[0]["content"][0]["type"] == "input_audio"
    words.set_transcript("item_0", "First.")
    assert words.messages() == [{"role": "user", "content": "First."}]


def test_results_follow_their_calls() -> None:
    """A call without a result is sent as pending; later messages stay behind it; only the first result counts."""
    history = ConversationHistory()
    history.add_reply(
        "r1", ReplyEntry("Let me look.", 500, (ToolCall("c1", "a__b", "{}"), ToolCall("c2", "a__c", "{}")))
    )
    history.add_text("user", "Hurry.")
    history.add_result("c2", '{"ok":true}')
    history.add_result("c2", '{"ok":false}')
    told = history.messages()
    assert [message["role"] for message in told] == ["assistant", "tool", "tool", "user"]
    assert [message.get("content") for message in told[1:3]] == ['{"status":"pending"}', '{"ok":true}']
    requests = RequestBuilder(config(tools=["a.b", "a.c"]))
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
def test_an_interrupted_reply_keeps_its_heard_part(heard: int | None, left: str | None) -> None:
    """The kept share of the text equals the played share of the audio."""
    history = ConversationHistory()
    history.add_reply("r1", ReplyEntry("one two three four", 1000))
    history.truncate("r1", heard)
    assert history.messages() == ([] if left is None else [{"role": "assistant", "content": left}])


@given(st.text(max_size=200), st.integers(-10, 20_000), st.integers(0, 10_000))
def test_the_heard_text_is_a_prefix(text: str, heard: int, length: int) -> None:
    """The heard text is never longer than the text and always a prefix of it."""
    assert text.startswith(heard_text(text, heard, length))


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
    """Every status has a code; keys, flagged words and raw bodies are never shown."""
    found = refusal_error(PROVIDER, "answer", status, body, retry_after="7")
    assert isinstance(found, kind)
    assert (found.fault.code, found.fault.fatal, found.fault.retry) == (code, fatal, retry)
    assert found.data["provider_code"] == code
    assert found.fault.retry_after in (7.0, None)
    everything = f"{found!r} {found} {json.dumps(found.to_problem())} {found.fault!r}"
    assert CANARY not in everything
    assert FLAGGED not in everything
    assert "<html>" not in everything


@given(st.dictionaries(st.sampled_from(["code", "message", "metadata", "type"]), st.integers() | st.text() | st.none()))
def test_any_error_object_is_classified(found: dict[str, Any]) -> None:
    """Any error object gets a code."""
    assert classify_error(found, status=500).code


def test_an_unreachable_provider_is_retryable() -> None:
    """Only the kind of the failure is reported; a timeout has its own code."""
    told = unreachable_error(PROVIDER, "answer", OSError("connect to http://user:secret@proxy failed"))
    assert "secret" not in str(told)
    assert (told.fault.code, told.fault.retry) == ("unreachable", True)
    assert unreachable_error(PROVIDER, "answer", TimeoutError()).fault.code == "timeout"
