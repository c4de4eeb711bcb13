"""Chunks of a streamed completion: any way of cutting the same bytes gives the same answer, and nothing breaks it."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield.sse import EventParser
from agentfield_openrouter.chunks import Called, Completion, Echo, Piece, Sound, ToolCall, Words, usage_of
from openrouter_kit import DONE, chunk, pcm, spoken, tool_chunk


def read(pieces: list[bytes]) -> tuple[Completion, list[Piece]]:
    parser, completion, told = EventParser(), Completion(), list[Piece]()
    for piece in [*pieces, b"\n\n"]:
        for event in parser.feed(piece):
            told += completion.feed(event.data)
    if not completion.cut_off:
        told += completion.close()
    return completion, told


def outcome(pieces: list[bytes]) -> tuple[object, ...]:
    completion, told = read(pieces)
    sound = b"".join(piece.data for piece in told if isinstance(piece, Sound))
    rest = [piece for piece in told if not isinstance(piece, Sound)]
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
def test_the_same_bytes_give_the_same_answer_however_they_are_cut(cuts: list[int], crlf: bool) -> None:
    """Split lines, split characters and other line ends change nothing."""
    stream = STREAM.replace(b"\n", b"\r\n") if crlf else STREAM
    edges = sorted({0, len(stream), *cuts})
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert outcome(pieces) == outcome([STREAM])


def test_a_whole_answer_has_words_sound_calls_and_usage() -> None:
    """Words in order, sound without the odd bytes between its pieces, calls complete and together, usage with its cost."""
    sound, rest, text, finish, usage, fault, done = outcome([STREAM])
    assert sound == pcm(60)
    assert text == "Grüße aus Köln 🎧, gleich weiter."
    assert (finish, fault, done) == ("tool_calls", None, True)
    assert isinstance(rest, list)
    assert rest[0] == Echo("openai/gpt-audio", "OpenAI")
    assert rest[-1] == Called((ToolCall("call_1", "a__b", '{"order_id":"ü"}'), ToolCall("call_2", "a__c", "{}")))
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
def test_sound_is_decoded_chunk_by_chunk_whatever_the_padding(data: bytes, sizes: list[int], padding: str) -> None:
    """Every chunk is base64 of its own, padded or not; samples that are split between two are put together."""
    completion, told, at = Completion(), list[Piece](), 0
    for size in [*sizes, len(data) + 1]:
        encoded = base64.b64encode(data[at : at + size]).decode()
        at += size
        encoded = encoded.rstrip("=") if padding == "strip" else encoded
        told += completion.feed(json.dumps({"choices": [{"delta": {"audio": {"data": encoded}}}]}))
    whole = len(data) - len(data) % 2
    assert b"".join(piece.data for piece in told if isinstance(piece, Sound)) == data[:whole]
    assert all(len(piece.data) % 2 == 0 for piece in told if isinstance(piece, Sound))
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
def test_no_chunk_breaks_the_decoder(value: Any) -> None:
    """Whatever a chunk holds, there is an answer or a fault, never an exception."""
    completion = Completion()
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
def test_a_chunk_that_cannot_be_used_is_a_named_fault(payload: str, code: str) -> None:
    """Broken JSON, broken sound and errors inside of the stream have a name each."""
    completion = Completion()
    completion.feed(payload)
    assert completion.fault is not None
    assert completion.fault.code == code
    assert completion.feed('{"choices":[{"delta":{"content":"more"}}]}') == []


def test_words_are_the_transcript_and_text_only_where_nothing_is_spoken() -> None:
    """Content beside a transcript is the same words again; content alone are the words."""
    both, text = Completion(), Completion()
    told = both.feed('{"choices":[{"delta":{"content":"Hi","audio":{"transcript":"Hi"}}}]}')
    told += both.feed('{"choices":[{"delta":{"content":" there"}}]}')
    assert told == [Words("Hi")]
    assert text.feed('{"choices":[{"delta":{"content":"Hi"}}]}') == [Words("Hi")]


def test_calls_of_an_answer_that_was_cut_off_are_none() -> None:
    """Half the arguments of a call are not the call."""
    _, told = read([tool_chunk(0, "c", "a__b", '{"x":'), chunk({}, "length"), DONE])
    assert [piece for piece in told if isinstance(piece, Called)] == []


def test_calls_that_share_an_index_are_told_apart_by_their_ids() -> None:
    """Some upstreams give every call the index 0."""
    _, told = read(
        [tool_chunk(0, "c1", "a__b", "{}"), tool_chunk(0, "c2", "a__c", "{}"), chunk({}, "tool_calls"), DONE]
    )
    assert told[-1] == Called((ToolCall("c1", "a__b", "{}"), ToolCall("c2", "a__c", "{}")))


def test_a_stream_may_end_without_its_last_line_but_not_in_the_middle() -> None:
    """A finish reason is an end; words without one are not."""
    whole, _ = read([chunk({"content": "Hi"}), chunk({}, "stop")])
    cut, _ = read([chunk({"content": "Hi"})])
    assert (whole.done, whole.fault, cut.cut_off) == (True, None, True)


def test_a_change_of_who_answers_is_told() -> None:
    """The first echo is told once, and each change of it."""
    completion = Completion()
    lines = [chunk({}), chunk({}), chunk({}, provider="Azure"), chunk({}, model="openai/other")]
    told = [piece for line in lines for piece in completion.feed(line[6:].decode())]
    assert told == [
        Echo("openai/gpt-audio", "OpenAI"),
        Echo("openai/gpt-audio", "Azure"),
        Echo("openai/other", "OpenAI"),
    ]
