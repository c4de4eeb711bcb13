"""Behaviour of chat completions where services differ, surprise or fail, as one frozen record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

__all__ = ["CHAT_VARIANTS", "ChatBehaviour", "RefusalStatus"]

RefusalStatus = Literal[400, 401, 402, 403, 404, 408, 413, 422, 429, 500, 502, 503]
"""An HTTP status with which requests can be refused."""

_SAMPLE_NUMBERS: Mapping[str, float] = MappingProxyType(
    {"refuse_count": 1, "retry_after": 2, "stall_seconds": 0.2, "comment_seconds": 0.02, "generation_speed": 50.0}
)
_FAULTS = frozenset({"refuse", "stream_error", "ending", "stall", "switches"})


@dataclass(frozen=True, slots=True)
class ChatBehaviour:
    """Behaviour of chat completions; the defaults are the ordinary case.

    Args:
        comments: Position of comments, which clients must ignore: before the first event, before every event, nowhere.
            Keep-alive comments while the engines work are independent of it.
        comment_seconds: Seconds without data after which a keep-alive comment is sent.
        newline: Line ends of the stream.
        writes: Split of the bytes into writes: whole events, in the middle of every line, or inside every character of
            more than one byte.
        audio_split: Size of the pieces of audio: whole samples whose base64 needs no padding (except the last), whole
            samples with padded base64, or an odd number of bytes with padded base64.
        transcript: Position of the words: before the audio of their clause, in one chunk with it, or after all audio.
        content: Value of `delta.content` beside audio or tool calls: an empty string, null, absent, or the words of the
            speech, whose audio then has no transcript.
        role: Whether `delta.role` is in the first chunk or in every one.
        arguments: Whether the arguments of a tool call are sent in two pieces or in one.
        expires_at: Whether the expiry of the audio id is sent.
        usage: The last chunk: with empty choices, with an empty choice, or absent although it was requested.
        usage_cost: Whether it contains a cost.
        unknown_fields: Whether chunks carry unknown fields.
        refuse: HTTP status with which requests are refused.
        refuse_at: The endpoint that refuses.
        refuse_count: Number of requests that are refused; later ones are accepted. None refuses all.
        refuse_message: Message of the refusal; None is the usual one.
        refuse_html: Whether the refusal is an HTML page, as of a proxy in front of the service.
        retry_after: Seconds in the `Retry-After` header of the refusal; None sends none.
        stream_error: Code of an error in the middle of the completion, followed by `[DONE]`.
        ending: Whether the stream ends with `[DONE]`, without it, or breaks off in the middle.
        stall: Position of a long pause with nothing but comments.
        stall_seconds: Length of the pause; None lasts until the client disconnects.
        switches: Field that changes its value: the provider's name, or the model.
        switches_at: When it changes: from the second completion of a conversation on, or in the middle of each.
        generation_speed: Speed of audio generation as a multiple of real time; None is unlimited.
    """

    comments: Literal["before", "between", "never"] = "before"
    comment_seconds: float = 5.0
    newline: Literal["lf", "crlf"] = "lf"
    writes: Literal["events", "split_lines", "split_characters"] = "events"
    audio_split: Literal["whole", "padded", "odd"] = "whole"
    transcript: Literal["before_audio", "with_audio", "after_audio"] = "before_audio"
    content: Literal["empty", "null", "absent", "words"] = "empty"
    role: Literal["first", "every"] = "first"
    arguments: Literal["halves", "whole"] = "halves"
    expires_at: bool = True
    usage: Literal["empty_choices", "silent_choice", "absent"] = "empty_choices"
    usage_cost: bool = True
    unknown_fields: bool = False
    refuse: RefusalStatus | None = None
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
        """Whether every completion is whole and correct: clients must behave as with the defaults."""
        return all(getattr(self, name) == getattr(_DEFAULT, name) for name in _FAULTS)


_DEFAULT = ChatBehaviour()
_REQUIRED_SETTINGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
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


def _variants() -> Iterator[tuple[str, ChatBehaviour]]:
    """Yield each field at each value that is not its default, with the settings that it requires to have an effect."""
    hints = get_type_hints(ChatBehaviour)
    for setting in fields(ChatBehaviour):
        for value in _values(setting.name, hints[setting.name]):
            if value != setting.default:
                settings = {**_REQUIRED_SETTINGS.get(setting.name, {}), setting.name: value}
                yield f"{setting.name}={value}", ChatBehaviour(**settings)


def _values(name: str, hint: Any) -> Iterator[Any]:
    if name in _SAMPLE_NUMBERS:
        yield _SAMPLE_NUMBERS[name]
    elif name == "refuse_message":
        yield "No."
    elif hint is bool:
        yield from (False, True)
    elif get_origin(hint) is Literal:
        yield from get_args(hint)
    else:
        for choice in get_args(hint):
            yield from get_args(choice)


CHAT_VARIANTS: Mapping[str, ChatBehaviour] = MappingProxyType(dict(_variants()))
"""Each field at each value that is not its default, by name, such as `newline=crlf`."""
