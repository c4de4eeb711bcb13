"""The protocol of a media stream without I/O: valid, unknown and invalid messages."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield_telnyx.protocol import FRAME, BadMessage, Dtmf, Failure, Mark, Media, Started, Stopped, Stream

SID = "32DE0DEA-53CB-4B21-89A4-9E1819C043BC"
START = {
    "event": "start",
    "sequence_number": "1",
    "start": {
        "user_id": "3E6F995F-85F7-4705-9741-53B116D28237",
        "call_control_id": "v2:T02llQxIyaRkhfRKxgAP8nY511EhFLizdvdUKJiSw8d6A9BborherQ",
        "call_session_id": "ff55a038-6f5d-11ef-9692-02420aeffb1f",
        "from": "+13122010094",
        "to": "+13122123456",
        "client_state": "aGF2ZSBhIG5pY2UgZGF5ID1d",
        "media_format": {"encoding": "PCMU", "sample_rate": 8000, "channels": 1},
    },
    "stream_id": SID,
}
CONNECTED = {"event": "connected", "version": "1.0.0"}


def begun() -> Stream:
    """Return a stream after its start."""
    stream = Stream()
    assert stream.receive(json.dumps(CONNECTED)) == []
    (started,) = stream.receive(json.dumps(START))
    assert isinstance(started, Started)
    return stream


def told(stream: Stream, event: str, **parts):
    return stream.receive(json.dumps({"event": event, "stream_id": SID, "sequence_number": "4", **parts}))


def media(stream: Stream, chunk: object, data: bytes):
    payload = base64.b64encode(data).decode()
    return told(stream, "media", media={"track": "inbound", "chunk": chunk, "timestamp": "5", "payload": payload})


def changed(path: tuple[str, ...], value: object) -> str:
    message = json.loads(json.dumps(START))
    part = message
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    return json.dumps(message)


def test_start_gives_the_ids_and_the_caller():
    """`start` gives the ids of stream and call, and the caller."""
    start = START["start"]
    assert begun().started == Started(SID, start["call_control_id"], start["call_session_id"], "+13122010094")


def test_a_withheld_number_is_none():
    """`from` may be null or empty."""
    for missing in (None, ""):
        stream = Stream()
        stream.receive(json.dumps(CONNECTED))
        stream.receive(changed(("start", "from"), missing))
        assert stream.started.caller is None


def test_callers_input_becomes_events():
    """Audio, keys, requested marks, errors and the end become events."""
    stream = begun()
    assert media(stream, "2", b"\xff\x7f") == [Media(b"\xff\x7f")]
    assert told(stream, "dtmf", occurred_at="2021-11-08T14:41:29.803543Z", dtmf={"digit": "#"}) == [Dtmf("#")]
    assert list(map(json.loads, stream.mark("m1"))) == [{"event": "mark", "mark": {"name": "m1"}}]
    assert told(stream, "mark", mark={"name": "m1"}) == [Mark("m1")]
    error = {"code": 100003, "title": "malformed_frame", "detail": "+13122010094"}
    assert told(stream, "error", payload=error) == [Failure("100003")]
    assert told(stream, "stop", stop={"user_id": "3E6F", "call_control_id": "v2:T02"}) == [Stopped()]


def test_irrelevant_messages_are_ignored():
    """Unknown events, the outbound track, empty payloads, and unknown or repeated marks are ignored."""
    stream = begun()
    assert told(stream, "weather", weather={}) == []
    assert told(stream, "media", media={"track": "outbound", "payload": "!"}) == []
    assert told(stream, "media", media={"payload": ""}) == []
    assert told(stream, "mark", mark={"name": "m1"}) == []
    stream.mark("m1")
    assert told(stream, "mark", mark={"name": "m1"}) == [Mark("m1")]
    assert told(stream, "mark", mark={"name": "m1"}) == []


def test_marks_returned_after_a_clear_are_suppressed():
    """Marks requested before a clear are suppressed; marks requested after it are reported."""
    stream = begun()
    stream.mark("m1")
    stream.mark("m2")
    assert json.loads(stream.clear()) == {"event": "clear"}
    stream.mark("m3")
    assert [told(stream, "mark", mark={"name": name}) for name in ("m1", "m2", "m3")] == [[], [], [Mark("m3")]]


# --- order


@given(st.permutations(range(1, 5)), st.booleans())
def test_audio_is_put_in_order(order, as_text):
    """Audio after the first arrives in the order of its chunk numbers, when few others overtook it."""
    stream = begun()
    heard = media(stream, 0, b"\0")
    for number in order:
        heard += media(stream, str(number) if as_text else number, bytes([number]))
    assert heard == [Media(bytes([number])) for number in range(5)]


def test_lost_audio_is_not_waited_for_long():
    """After five later messages an earlier one is taken for lost, and left out should it come."""
    stream = begun()
    assert media(stream, 1, b"1") == [Media(b"1")]
    assert [media(stream, number, b"x") for number in range(3, 8)] == [[]] * 5
    assert media(stream, 8, b"y") == [Media(b"x")] * 5 + [Media(b"y")]
    assert media(stream, 2, b"2") == []
    assert media(stream, 9, b"9") == [Media(b"9")]


@given(st.lists(st.integers(0, 30), max_size=60))
def test_any_order_is_bounded_and_ascending(numbers):
    """Whatever comes, audio is reported at most once and in order, and little is held."""
    stream = begun()
    heard = [each.data[0] for number in numbers for each in media(stream, number, bytes([number]))]
    assert heard == sorted(set(heard))
    assert len(stream._held) <= 5


# --- to Telnyx


@given(st.lists(st.integers(0, 700), max_size=12))
def test_messages_have_20_ms_to_30_s(sizes):
    """No message is shorter or longer than Telnyx takes, and the audio is complete up to a mark, then padded."""
    stream = begun()
    messages = [message for size in sizes for message in stream.media(b"\x11" * size)] + stream.mark("m")
    played = [base64.b64decode(each["media"]["payload"]) for each in map(json.loads, messages) if "media" in each]
    assert all(len(each) >= FRAME for each in played)
    assert b"".join(played).rstrip(b"\xff") == b"\x11" * sum(sizes)
    assert len(b"".join(played)) - sum(sizes) < FRAME


def test_long_audio_is_split():
    """30 s is the most of one message; the rest waits."""
    stream = begun()
    sizes = [len(base64.b64decode(json.loads(each)["media"]["payload"])) for each in stream.media(b"\x11" * 480_100)]
    assert sizes == [240_000, 240_000]
    stream.clear()
    assert len(stream.mark("m")) == 1  # the rest is discarded as well


# --- invalid messages


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "{}",
        '{"event":1}',
        "[" * 5000,
        b'{"event":"connected"}',
        json.dumps(CONNECTED),
        json.dumps(START),
        '{"event":"media"}',
        '{"event":"media","media":{"payload":"!"}}',
        '{"event":"media","media":{"payload":1}}',
        '{"event":"media","media":{"payload":"' + "A" * 20_000 + '"}}',
        '{"event":"media","media":{"payload":"AAAA","chunk":"x"}}',
        '{"event":"media","media":{"payload":"AAAA","chunk":-1}}',
        '{"event":"media","media":{"payload":"AAAA","chunk":true}}',
        '{"event":"dtmf","dtmf":{"digit":"12"}}',
        '{"event":"dtmf"}',
        '{"event":"mark","mark":{"name":""}}',
        '{"event":"media","stream_id":"other","media":{"payload":"AAAA"}}',
        '{"event":"' + "a" * 70_000 + '"}',
    ],
)
def test_invalid_messages_are_refused(text):
    """Each is refused after the start, and the stream continues."""
    stream = begun()
    with pytest.raises(BadMessage):
        stream.receive(text)
    assert media(stream, 1, b"1") == [Media(b"1")]


@pytest.mark.parametrize(
    "text",
    [
        changed(("start", "media_format", "encoding"), "PCMA"),
        changed(("start", "media_format", "sample_rate"), 16000),
        changed(("start", "media_format", "channels"), 2),
        changed(("start", "media_format"), None),
        changed(("start", "call_control_id"), ""),
        changed(("stream_id",), None),
        changed(("start", "from"), 5),
        '{"event":"media","stream_id":"x","media":{"payload":"AAAA"}}',
    ],
)
def test_an_invalid_start_is_refused(text):
    """Another format, a missing id, or audio before the start."""
    stream = Stream()
    stream.receive(json.dumps(CONNECTED))
    with pytest.raises(BadMessage):
        stream.receive(text)
    assert stream.started is None


def test_start_needs_connected_and_nothing_follows_stop():
    """`connected` is first, `stop` is last."""
    with pytest.raises(BadMessage):
        Stream().receive(json.dumps(START))
    stream = begun()
    told(stream, "stop", stop={})
    with pytest.raises(BadMessage):
        media(stream, 1, b"1")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda of: (
            st.lists(of)
            | st.dictionaries(
                st.sampled_from(["event", "media", "mark", "dtmf", "payload", "chunk", "name", "digit", "code"])
                | st.text(),
                of,
            )
        ),
    )
)
def test_any_json_is_an_event_or_refused(value):
    """Whatever a message holds, it becomes events or `BadMessage`."""
    for event in ("media", "mark", "dtmf", "error", "stop", "start", "connected"):
        stream = begun()
        message = (
            {**value, "event": event} if isinstance(value, dict) else {"event": event, event: value, "payload": value}
        )
        try:
            stream.receive(json.dumps(message))
        except BadMessage:
            continue
