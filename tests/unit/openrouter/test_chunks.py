"""Chunks of a streamed completion: the result does not depend on how the bytes are split, and no chunk raises."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield.sse import EventParser
from agentfield_openrouter.chunks import (
    AudioDelta,
    CompletionAssembler,
    CompletionDelta,
    ServedBy,
    TextDelta,
    ToolCall,
    ToolCalls,
    usage_of,
)
from support.providers.openrouter import DONE, chunk, pcm, spoken, tool_chunk


def read(pieces: list[bytes]) -> tuple[CompletionAssembler, list[CompletionDelta]]:
    parser, completion, told = EventParser(), CompletionAssembler(), list[CompletionDelta]()
    for piece in [*pieces, b"\n\n"]:
        for event in parser.feed(piece):
            told += completion.feed(event.data)
    if not completion.cut_off:
        told += completion.close()
    return completion, told


def outcome(pieces: list[bytes]) -> tuple[object, ...]:
    completion, told = read(pieces)
    sound = b"".join(piece.data for piece in told if isinstance(piece, AudioDelta))
    rest = [piece for piece in told if not isinstance(piece, AudioDelta)]
    return sound, rest, completion.text, completion.finish, completion.usage, completion.fault, completion.done


STREAM = b"".join(
    [
        *spoken("Grüße aus Köln 🎧, gleich weiter.", 60, finish="tool_calls")[:-1],
        tool_chunk(0, "call_1", "a__b", '{"order'),
        tool_chunk(1, "call_2", "a__c", "{}"),
        tool_chunk(0, None, None, '_id":"ü"}'),
        DONE,
    ]
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=40), st.booleans())
def test_the_result_does_not_depend_on_the_split(cuts: list[int], crlf: bool) -> None:
    """Split lines, split characters and other line ends change nothing."""
    stream = STREAM.replace(b"\n", b"\r\n") if crlf else STREAM
    edges = sorted({0, len(stream), *cuts})
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert outcome(pieces) == outcome([STREAM])


def test_a_complete_answer_has_text_audio_calls_and_usage() -> None:
    """Text arrives in order, audio as whole samples, tool calls complete and together, usage with its cost."""
    sound, rest, text, finish, usage, fault, done = outcome([STREAM])
    assert sound == pcm(60)
    assert text == "Grüße aus Köln 🎧, gleich weiter."
    assert (finish, fault, done) == ("tool_calls", None, True)
    assert isinstance(rest, list)
    assert rest[0] == ServedBy("openai/gpt-audio", "OpenAI")
    assert rest[-1] == ToolCalls((ToolCall("call_1", "a__b", '{"order_id":"ü"}'), ToolCall("call_2", "a__c", "{}")))
    assert usage == usage_of(
        {
            "prompt_tokens": 120,
            "completion_tokens": 60,
            "prompt_tokens_details": {"audio_tokens": 100, "cached_tokens": 5},
            "completion_tokens_details": {"audio_tokens": 50},
            "cost": 0.0123,
        }
    )


@given(
    st.binary(max_size=600), st.lists(st.integers(1, 50), min_size=1, max_size=30), st.sampled_from(["", "=", "strip"])
)
def test_audio_is_decoded_with_any_padding(data: bytes, sizes: list[int], padding: str) -> None:
    """Each chunk is decoded on its own, padded or not; samples split between two chunks are joined."""
    completion, told, at = CompletionAssembler(), list[CompletionDelta](), 0
    for size in [*sizes, len(data) + 1]:
        encoded = base64.b64encode(data[at : at + size]).decode()
        at += size
        encoded = encoded.rstrip("=") if padding == "strip" else encoded
        told += completion.feed(json.dumps({"choices": [{"delta": {"audio": {"data": encoded}}}]}))
    whole = len(data) - len(data) % 2
    assert b"".join(piece.data for piece in told if isinstance(piece, AudioDelta)) == data[:whole]
    assert all(len(piece.data) % 2 == 0 for piece in told if isinstance(piece, AudioDelta))
    assert completion.fault is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "id",
                        "model",
                        "provider",
                        "choices",
                        "delta",
                        "audio",
                        "data",
                        "transcript",
                        "content",
                        "usage",
                        "tool_calls",
                        "index",
                        "function",
                        "arguments",
                        "error",
                        "code",
                        "message",
                        "finish_reason",
                    ]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=20,
    )
)
def test_no_chunk_raises(value: Any) -> None:
    """Any chunk gives a result or a fault, never an exception."""
    completion = CompletionAssembler()
    completion.feed(json.dumps(value))
    completion.feed(json.dumps({"choices": [value]}))
    completion.feed(json.dumps({"choices": [{"delta": value}]}))
    completion.close()
    assert completion.done or completion.fault is not None


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ("{", "invalid_answer"),
        ("[" * 100_000, "invalid_answer"),
        ("[1]", "invalid_answer"),
        ('{"choices":[{"delta":{"audio":{"data":"!!!"}}}]}', "invalid_answer"),
        ('{"choices":[{"delta":{"audio":{"data":"A"}}}]}', "invalid_answer"),
        ('{"error":{"code":429,"message":"slow","metadata":{"error_type":"rate_limit_exceeded"}},"choices":[]}',
         "rate_limit_exceeded"),
        ('{"choices":[{"delta":{},"finish_reason":"error","error":{"code":502,"message":"down"}}]}',
         "provider_unavailable"),
        ('{"choices":[{"delta":{},"finish_reason":"error"}]}', "provider_error"),
        ("[DONE]", "empty_answer"),
    ],
)  # fmt: skip
def test_an_unusable_chunk_is_a_named_fault(payload: str, code: str) -> None:
    """Broken JSON, broken audio and errors inside the stream each have a code."""
    completion = CompletionAssembler()
    completion.feed(payload)
    assert completion.fault is not None
    assert completion.fault.code == code
    assert completion.feed('{"choices":[{"delta":{"content":"more"}}]}') == []


def test_text_is_the_transcript_or_else_the_content() -> None:
    """With a transcript the content repeats it and is ignored; without one the content is the text."""
    both, text = CompletionAssembler(), CompletionAssembler()
    told = both.feed('{"choices":[{"delta":{"content":"Hi","audio":{"transcript":"Hi"}}}]}')
    told += both.feed('{"choices":[{"delta":{"content":" there"}}]}')
    assert told == [TextDelta("Hi")]
    assert text.feed('{"choices":[{"delta":{"content":"Hi"}}]}') == [TextDelta("Hi")]


@pytest.mark.parametrize("first", ["content", "transcript"])
def test_words_beside_audio_are_in_one_of_two_fields(first: str) -> None:
    """Words beside audio are taken from the content where the audio has no transcript, and never twice."""
    sound = {"data": base64.b64encode(pcm(10)).decode()}

    def words(field: str, text: str) -> bytes:
        if field == "content":
            return chunk({"content": text, "audio": sound})
        return chunk({"audio": {"transcript": text, **sound}})

    other = "transcript" if first == "content" else "content"
    pieces = [words(first, "Good "), words(first, "day."), words(other, "Good day."), chunk({}, "stop"), DONE]
    completion, told = read(pieces)
    assert (completion.text, completion.size) == ("Good day.", 3 * len(pcm(10)))
    assert [piece.text for piece in told if isinstance(piece, TextDelta)] == ["Good ", "day."]


def test_a_truncated_answer_has_no_tool_calls() -> None:
    """Incomplete arguments are not reported as a tool call."""
    _, told = read([tool_chunk(0, "c", "a__b", '{"x":'), chunk({}, "length"), DONE])
    assert [piece for piece in told if isinstance(piece, ToolCalls)] == []


def test_calls_with_the_same_index_are_distinguished_by_id() -> None:
    """Some upstream providers give every tool call the index 0."""
    _, told = read(
        [tool_chunk(0, "c1", "a__b", "{}"), tool_chunk(0, "c2", "a__c", "{}"), chunk({}, "tool_calls"), DONE]
    )
    assert told[-1] == ToolCalls((ToolCall("c1", "a__b", "{}"), ToolCall("c2", "a__c", "{}")))


def test_a_stream_may_end_without_done_but_not_without_a_finish_reason() -> None:
    """A finish reason completes the stream; text without one does not."""
    whole, _ = read([chunk({"content": "Hi"}), chunk({}, "stop")])
    cut, _ = read([chunk({"content": "Hi"})])
    assert (whole.done, whole.fault, cut.cut_off) == (True, None, True)


def test_a_change_of_the_serving_model_is_reported() -> None:
    """The first serving model is reported once, and each change of it."""
    completion = CompletionAssembler()
    lines = [chunk({}), chunk({}), chunk({}, provider="Azure"), chunk({}, model="openai/other")]
    told = [piece for line in lines for piece in completion.feed(line[6:].decode())]
    assert told == [
        ServedBy("openai/gpt-audio", "OpenAI"),
        ServedBy("openai/gpt-audio", "Azure"),
        ServedBy("openai/other", "OpenAI"),
    ]
