"""The switches of chat completions: everything a real service may do one way or another, in one frozen record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

__all__ = ["CHAT_BEHAVIOURS", "ChatBehaviour", "Refused"]

Refused = Literal[400, 401, 402, 403, 404, 408, 413, 422, 429, 500, 502, 503]
"""A status with which a request may be refused."""

_NUMBERS: Mapping[str, float] = MappingProxyType(
    {"refuse_count": 1, "retry_after": 2, "stall_seconds": 0.2, "comment_seconds": 0.02, "generation_speed": 50.0}
)
_FAULTS = frozenset({"refuse", "stream_error", "ending", "stall", "switches"})


@dataclass(frozen=True, slots=True)
class ChatBehaviour:
    """How chat completions behave where services differ, surprise or fail; the defaults are the ordinary case.

    Args:
        comments: Where comments stand that clients must ignore: before the first event, before every event, nowhere.
            Whatever this says, comments keep the line alive while the engines work.
        comment_seconds: Seconds without data after which a comment keeps the line alive.
        newline: How the lines of the stream end.
        writes: How the bytes are cut into writes: whole events, in the middle of every line, or inside every character
            that has more than one byte.
        audio_cut: Size of the pieces of audio: whole samples whose base64 needs no padding (but the last one's), whole
            samples with padded base64, or an odd number of bytes with padded base64.
        transcript: Where the words are: before the audio of their clause, in one chunk with it, or after all audio.
        content: What `delta.content` is beside audio or tool calls: an empty string, null, or absent.
        role: Whether `delta.role` is in the first chunk or in every one.
        arguments: Whether the arguments of a call come in two pieces or in one.
        expires_at: Whether the audio's end of life is told.
        usage: The last chunk: with empty choices, with a choice that says nothing, or absent although it was asked for.
        usage_cost: Whether it tells a cost.
        unknown_fields: Whether chunks carry fields that no client knows.
        refuse: HTTP status with which requests are refused.
        refuse_at: Which requests those are.
        refuse_count: How many are refused before they are accepted again; None refuses all.
        refuse_message: What the refusal says; None is the usual sentence.
        refuse_html: Whether the refusal is a page for people, as a proxy in front of a service sends it.
        retry_after: Seconds that the refusal's `Retry-After` names; None sends no such header.
        stream_error: Code of an error that ends the answer in the middle, followed by `[DONE]`.
        ending: Whether the stream ends with `[DONE]`, without it, or breaks off in the middle.
        stall: Where the answer stops for long, with nothing but comments.
        stall_seconds: For how long; None is until the client goes away.
        switches: What is suddenly another one: the upstream's name, or the model.
        switches_at: From the second answer of a conversation on, or in the middle of every answer.
        generation_speed: Speed of the audio as a multiple of real time; None is as fast as it can be.
    """

    comments: Literal["before", "between", "never"] = "before"
    comment_seconds: float = 5.0
    newline: Literal["lf", "crlf"] = "lf"
    writes: Literal["events", "split_lines", "split_characters"] = "events"
    audio_cut: Literal["whole", "padded", "odd"] = "whole"
    transcript: Literal["before_audio", "with_audio", "after_audio"] = "before_audio"
    content: Literal["empty", "null", "absent"] = "empty"
    role: Literal["first", "every"] = "first"
    arguments: Literal["halves", "whole"] = "halves"
    expires_at: bool = True
    usage: Literal["empty_choices", "silent_choice", "absent"] = "empty_choices"
    usage_cost: bool = True
    unknown_fields: bool = False
    refuse: Refused | None = None
    refuse_at: Literal["chat", "transcriptions"] = "chat"
    refuse_count: int | None = None
    refuse_message: str | None = None
    refuse_html: bool = False
    retry_after: int | None = None
    stream_error: Literal[402, 403, 408, 429, 502, 503] | None = None
    ending: Literal["done", "silent", "broken"] = "done"
    stall: Literal["before", "middle"] | None = None
    stall_seconds: float | None = None
    switches: Literal["provider", "model"] | None = None
    switches_at: Literal["next_answer", "mid_answer"] = "next_answer"
    generation_speed: float | None = None

    @property
    def harmless(self) -> bool:
        """Whether every answer is complete and true, so that a client must not notice anything."""
        return all(getattr(self, name) == getattr(_DEFAULT, name) for name in _FAULTS)


_DEFAULT = ChatBehaviour()
_WITH: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "refuse_at": {"refuse": 503},
        "refuse_count": {"refuse": 503},
        "refuse_message": {"refuse": 401},
        "refuse_html": {"refuse": 502},
        "retry_after": {"refuse": 429},
        "stall_seconds": {"stall": "middle"},
        "comment_seconds": {"stall": "before", "stall_seconds": 0.2},
        "switches_at": {"switches": "provider"},
    }
)


def _positions() -> Iterator[tuple[str, ChatBehaviour]]:
    """Yield every switch in every position that is not its default, with what it needs to be seen."""
    hints = get_type_hints(ChatBehaviour)
    for switch in fields(ChatBehaviour):
        for value in _values(switch.name, hints[switch.name]):
            if value != switch.default:
                settings = {**_WITH.get(switch.name, {}), switch.name: value}
                yield f"{switch.name}={value}", ChatBehaviour(**settings)


def _values(name: str, hint: Any) -> Iterator[Any]:
    if name in _NUMBERS:
        yield _NUMBERS[name]
    elif name == "refuse_message":
        yield "No."
    elif hint is bool:
        yield from (False, True)
    elif get_origin(hint) is Literal:
        yield from get_args(hint)
    else:
        for choice in get_args(hint):
            yield from get_args(choice)


CHAT_BEHAVIOURS: Mapping[str, ChatBehaviour] = MappingProxyType(dict(_positions()))
"""Every switch in every position that is not its default, by name, such as `newline=crlf`."""
