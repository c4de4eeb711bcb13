"""Behaviour of the server where providers differ, as frozen records; the defaults are the documented protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Behaviour", "DisconnectFaults", "EventOrder", "RefusalShape", "RefusedEndpoint"]

RefusedEndpoint = Literal["calls", "socket", "sideband", "hangup", "speech", "transcriptions", "secrets", "chat"]
"""An endpoint at which requests can be refused."""


@dataclass(frozen=True, slots=True)
class EventOrder:
    """Order of events on which clients must not depend; the defaults are the documented order.

    Args:
        item_added: `response.output_item.added` or `conversation.item.added` first.
        audio_done: `response.output_audio.done` or `response.output_audio_transcript.done` first.
        words: Whether the words of a clause are sent before or after its audio.
        cleared: Whether `output_audio_buffer.cleared` is sent before or after the `response.done` of the cut response.
        committed: `input_audio_buffer.committed` before or after the events of the item that it creates.
        transcript: When the transcript of a caller's turn is sent: as soon as it is known, before the
            `response.created` that it leads to, or after the `response.done` of that response. A turn that leads to no
            response has its transcript as soon as it is known.
        failure: Whether the `error` event of a failing response is sent before its `response.done` or after it.
    """

    item_added: Literal["output_first", "conversation_first"] = "output_first"
    audio_done: Literal["audio_first", "transcript_first"] = "audio_first"
    words: Literal["before_audio", "after_audio"] = "before_audio"
    cleared: Literal["before_done", "after_done"] = "before_done"
    committed: Literal["before_item", "after_item"] = "before_item"
    transcript: Literal["when_known", "before_response", "after_response"] = "when_known"
    failure: Literal["before_done", "after_done"] = "before_done"


@dataclass(frozen=True, slots=True)
class RefusalShape:
    """Shape of a refusal by `Behaviour.refuse_calls`, and the endpoints that refuse.

    Args:
        at: The endpoints at which requests are refused.
        code: The `error.code`; None is the usual one of the status.
        message: The message; None is the usual one of the status.
        retry_after: Seconds in a `Retry-After` header.
        html: Whether the body is the HTML page of a proxy instead of the protocol's JSON.
    """

    at: frozenset[RefusedEndpoint] = frozenset({"calls", "socket"})
    code: str | None = None
    message: str | None = None
    retry_after: int | None = None
    html: bool = False


@dataclass(frozen=True, slots=True)
class DisconnectFaults:
    """Connections that break; each count is of server events on one connection.

    Args:
        drop_after: Number of events after which a WebSocket is dropped; None never.
        drop_code: Its close code; 1006 cuts the connection without a close frame.
        drop_count: Number of sockets that are dropped; later ones stay open. None drops all.
        garbage: Invalid data that is sent on a WebSocket in the middle of the stream, once a socket: text that is no
            JSON, a binary frame, a JSON array, or an event without a type.
        garbage_after: Number of events after which it is sent.
        vanish_after: Number of events after which a WebRTC caller's connection is lost; None never.
        speech: Whether a streamed answer of `/v1/audio/speech` is cut after its first clause.
    """

    drop_after: int | None = None
    drop_code: int = 1011
    drop_count: int | None = 1
    garbage: Literal["none", "text", "binary", "array", "typeless"] = "none"
    garbage_after: int = 4
    vanish_after: int | None = None
    speech: bool = False


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Behaviour of the server where providers differ, surprise or fail; the defaults are the ordinary case.

    Args:
        late_transcript_ms: Milliseconds by which the transcript of a caller's turn is delayed; long delays put it after
            `response.done`, which the protocol allows.
        transcript_deltas: Whether a transcript is sent as one delta, word by word, or without any delta.
        fail_transcripts: Number of transcripts of the caller that fail; later ones succeed.
        vanish_notifies_sideband: Whether a sideband is closed when the caller's peer connection is lost.
        sideband_audio_deltas: Whether the legs of a WebRTC call also get the audio as `response.output_audio.delta`.
        announce_truncation: Whether the server's own truncation of an interrupted WebRTC reply is sent as
            `conversation.item.truncated`.
        sideband_created: Content of `session.created` on the sideband of a call: the whole session, only its identity,
            or no such event at all.
        unknown_call_ms: Milliseconds after the answer to an offer in which a sideband is told that there is no such
            call.
        item_done_order: Which of `conversation.item.done` and `response.output_item.done` is sent first.
        rate_limits: Position of `rate_limits.updated` in a response.
        order: Order of other events.
        duplicate_events: Types of server events that are sent twice (same event id).
        unknown_events: Whether an event of an unknown type precedes every response.
        unknown_fields: Whether events and items carry unknown fields.
        phase: Whether the field `phase` of replies is on items, on content parts, on events, or nowhere.
        location: Form of the `Location` of a new call: as documented, with `calls` doubled, with a query, or absent.
        default_silence_ms: `silence_duration_ms` of a session that names none; the documented one, or 200 as measured.
        echo_model: The model that the session reports, whatever was requested.
        paraphrase_says: Whether a verbatim say is reworded, as a model may.
        refuse_calls: HTTP status with which requests are refused: new calls and new sockets unless `refuse` says
            otherwise.
        refuse_count: Number of requests that are refused; later ones are accepted. None refuses all.
        refuse: Shape of a refusal, and the endpoints that refuse.
        disconnects: Connections that break.
        fail_responses: Number of responses that fail; later ones succeed.
        fail_after_audio: Whether they fail in the middle, after their first audio, instead of at once.
        fail_error: `type` and `code` of the error with which they fail.
        commit_error_delay_ms: Milliseconds by which the refusal of an empty commit is delayed.
        slow_arguments_ms: Milliseconds that the arguments of a function call take. A call that is cancelled meanwhile
            is incomplete, and its `function_call_arguments.done` is sent all the same.
        generation_speed: Speed of audio generation as a multiple of real time; None is unlimited.
        session_seconds: Lifetime of a session.
        announced_seconds: The lifetime that the session reports; None is the true one.
        echo_metadata: Whether responses repeat the metadata of their request.
        event_names: Names of the events of a reply's output: as today, or of the beta protocol.
        beta_session: Whether the session is reported in the flat shape of the beta protocol.
        created_twice: Whether `session.created` is sent twice, as two events.
        created_delay_ms: Milliseconds after the handshake of a WebSocket in which nothing is sent or read.
    """

    late_transcript_ms: int = 0
    transcript_deltas: Literal["one", "words", "none"] = "one"
    fail_transcripts: int = 0
    vanish_notifies_sideband: bool = False
    sideband_audio_deltas: bool = False
    announce_truncation: bool = True
    sideband_created: Literal["whole", "brief", "never"] = "whole"
    unknown_call_ms: int = 0
    item_done_order: Literal["conversation_first", "output_first"] = "conversation_first"
    rate_limits: Literal["after_created", "before_done", "after_done", "never"] = "after_created"
    order: EventOrder = field(default_factory=EventOrder)
    duplicate_events: frozenset[str] = frozenset()
    unknown_events: bool = False
    unknown_fields: bool = False
    phase: Literal["nowhere", "items", "parts", "events"] = "nowhere"
    location: Literal["plain", "doubled", "query", "absent"] = "plain"
    default_silence_ms: int = 500
    echo_model: str | None = None
    paraphrase_says: bool = False
    refuse_calls: Literal[400, 401, 402, 403, 404, 408, 429, 500, 502, 503, 504] | None = None
    refuse_count: int | None = None
    refuse: RefusalShape = field(default_factory=RefusalShape)
    disconnects: DisconnectFaults = field(default_factory=DisconnectFaults)
    fail_responses: int = 0
    fail_after_audio: bool = False
    fail_error: tuple[str, str] = ("server_error", "server_error")
    commit_error_delay_ms: int = 0
    slow_arguments_ms: int = 0
    generation_speed: float | None = None
    session_seconds: float = 3600
    announced_seconds: float | None = None
    echo_metadata: bool = True
    event_names: Literal["ga", "beta"] = "ga"
    beta_session: bool = False
    created_twice: bool = False
    created_delay_ms: int = 0
