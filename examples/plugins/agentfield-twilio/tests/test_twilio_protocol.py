"""The protocol of a media stream without I/O: valid, unknown and invalid messages."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield_twilio.protocol import BadMessage, Dtmf, Mark, Media, Started, Stopped, Stream

SID = "MZ18ad3ab5a668481ce02b83e7395059f0"
START = {
    "event": "start",
    "sequenceNumber": "1",
    "start": {
        "accountSid": "AC123",
        "streamSid": SID,
        "callSid": "CA123",
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {"target": "front-desk.phone", "caller": "+4912345"},
    },
    "streamSid": SID,
}
CONNECTED = {"event": "connected", "protocol": "Call", "version": "1.0.0"}


def begun() -> Stream:
    """Return a stream after its start."""
    stream = Stream()
    assert stream.receive(json.dumps(CONNECTED)) is None
    assert isinstance(stream.receive(json.dumps(START)), Started)
    return stream


def told(stream: Stream, event: str, **parts):
    return stream.receive(json.dumps({"event": event, "streamSid": SID, "sequenceNumber": "4", **parts}))


def changed(path: tuple[str, ...], value: object) -> str:
    message = json.loads(json.dumps(START))
    part = message
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    return json.dumps(message)


def test_start_gives_the_ids_and_parameters():
    """`start` gives the ids of stream, call and account, and the parameters of the TwiML."""
    stream = begun()
    assert stream.started == Started(SID, "CA123", "AC123", {"target": "front-desk.phone", "caller": "+4912345"})


def test_callers_input_becomes_events():
    """Audio, keys, requested marks and the end become events."""
    stream = begun()
    assert told(
        stream, "media", media={"track": "inbound", "chunk": "1", "timestamp": "5", "payload": "/38="}
    ) == Media(b"\xff\x7f")
    assert told(stream, "dtmf", dtmf={"track": "inbound_track", "digit": "#"}) == Dtmf("#")
    assert json.loads(stream.mark("m1")) == {"event": "mark", "streamSid": SID, "mark": {"name": "m1"}}
    assert told(stream, "mark", mark={"name": "m1"}) == Mark("m1")
    assert told(stream, "stop", stop={"accountSid": "AC123", "callSid": "CA123"}) == Stopped()


def test_irrelevant_messages_are_ignored():
    """Unknown events, the outbound track, empty payloads, and unknown or repeated marks are ignored."""
    stream = begun()
    assert told(stream, "weather", weather={}) is None
    assert told(stream, "media", media={"track": "outbound", "payload": "!"}) is None
    assert told(stream, "media", media={"payload": ""}) is None
    assert told(stream, "mark", mark={"name": "m1"}) is None
    stream.mark("m1")
    assert told(stream, "mark", mark={"name": "m1"}) == Mark("m1")
    assert told(stream, "mark", mark={"name": "m1"}) is None


def test_marks_returned_after_a_clear_are_suppressed():
    """Marks requested before a clear are suppressed; marks requested after it are reported."""
    stream = begun()
    stream.mark("m1")
    stream.mark("m2")
    assert json.loads(stream.clear()) == {"event": "clear", "streamSid": SID}
    stream.mark("m3")
    assert [told(stream, "mark", mark={"name": name}) for name in ("m1", "m2", "m3")] == [None, None, Mark("m3")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON"),
        ("[" * 100_000, "a message that is too long"),
        ("[" * 60_000, "no JSON"),
        ("[]", "no JSON object"),
        ("{}", "'event' is no text, empty or too long"),
        ('{"event": 1}', "'event' is no text, empty or too long"),
        (json.dumps(CONNECTED), "'connected' twice"),
        (json.dumps(START), "'start' comes once, after 'connected'"),
        (json.dumps({"event": "media", "media": {"payload": ""}}), "'streamSid' is no text, empty or too long"),
        (json.dumps({"event": "media", "streamSid": "MZ2"}), "a message of another stream"),
        (json.dumps({"event": "media", "streamSid": SID}), "'media' is no object"),
        (json.dumps({"event": "media", "streamSid": SID, "media": {}}), "'payload' is no text, or too long"),
        (json.dumps({"event": "media", "streamSid": SID, "media": {"payload": "a"}}), "'payload' is not base64"),
        (json.dumps({"event": "media", "streamSid": SID, "media": {"payload": "ä"}}), "'payload' is not base64"),
        (
            json.dumps({"event": "media", "streamSid": SID, "media": {"payload": "A" * 10_700}}),
            "more than a second of audio in one message",
        ),
        (json.dumps({"event": "mark", "streamSid": SID, "mark": {}}), "'name' is no text, empty or too long"),
        (json.dumps({"event": "dtmf", "streamSid": SID, "dtmf": {"digit": "12"}}), "no key of a telephone"),
    ],
)
def test_invalid_messages_are_refused(text, why):
    """An invalid message is refused with its problem and changes no state."""
    stream = begun()
    with pytest.raises(BadMessage) as caught:
        stream.receive(text)
    assert str(caught.value) == why
    assert told(stream, "dtmf", dtmf={"digit": "1"}) == Dtmf("1")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (changed(("start", "mediaFormat", "sampleRate"), 16000), "audio that is not µ-law at 8 kHz"),
        (changed(("start", "streamSid"), "MZ2"), "a message of another stream"),
        (changed(("start", "callSid"), ""), "'callSid' is no text, empty or too long"),
        (changed(("start", "customParameters"), []), "'customParameters' is no object, or has too many"),
        (
            changed(("start", "customParameters"), {str(n): "" for n in range(21)}),
            "'customParameters' is no object, or has too many",
        ),
        (changed(("start", "customParameters"), {"a": 1}), "a custom parameter is no text, or too long"),
        (changed(("start", "customParameters"), {"a": "x" * 600}), "a custom parameter is no text, or too long"),
    ],
)
def test_an_invalid_start_is_refused(text, why):
    """Another format, another stream and invalid parameters are refused."""
    stream = Stream()
    stream.receive(json.dumps(CONNECTED))
    with pytest.raises(BadMessage) as caught:
        stream.receive(text)
    assert (str(caught.value), stream.started) == (why, None)


def test_messages_out_of_order_are_refused():
    """Messages before `start` or after `stop` are refused; parameters are optional."""
    stream = Stream()
    with pytest.raises(BadMessage, match="'start' comes once, after 'connected'"):
        stream.receive(json.dumps(START))
    with pytest.raises(BadMessage, match="'media' before 'start'"):
        told(stream, "media", media={"payload": ""})
    with pytest.raises(RuntimeError, match="has not started"):
        stream.media(b"")
    stream.receive(json.dumps(CONNECTED))
    without = json.loads(json.dumps(START))
    del without["start"]["customParameters"]
    found = stream.receive(json.dumps(without))
    assert isinstance(found, Started)
    assert found.parameters == {}
    told(stream, "stop")
    with pytest.raises(BadMessage, match="'media' after 'stop'"):
        told(stream, "media", media={"payload": ""})


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=10,
)
FIELDS = st.sampled_from(["event", "streamSid", "media", "mark", "dtmf", "start", "payload", "name", "digit"])
EVENTS = st.sampled_from(["connected", "start", "media", "mark", "dtmf", "stop", "other", SID, "MZ2", "/38=", "m1"])
MESSAGES = st.dictionaries(FIELDS, EVENTS | JSON | st.dictionaries(FIELDS, EVENTS | JSON, max_size=5), max_size=6)


@given(st.lists(MESSAGES.map(json.dumps) | st.text(max_size=50), max_size=20), st.booleans())
def test_any_text_is_an_event_ignored_or_refused(texts, after_start):
    """No text raises anything but `BadMessage`."""
    stream = begun() if after_start else Stream()
    for text in texts:
        try:
            heard = stream.receive(text)
        except BadMessage:
            continue
        assert heard is None or isinstance(heard, Started | Media | Mark | Dtmf | Stopped)


@given(st.binary(min_size=1, max_size=8000))
def test_audio_round_trips(data):
    """Sent audio decodes to the same bytes."""
    stream = begun()
    message = json.loads(stream.media(data))
    assert message["streamSid"] == SID
    assert base64.b64decode(message["media"]["payload"]) == data
    message["media"]["track"] = "inbound"
    assert stream.receive(json.dumps(message)) == Media(data)


@given(st.lists(st.sampled_from(["mark", "echo", "clear"]), max_size=60))
def test_a_mark_is_reported_once_unless_it_was_cleared(steps):
    """For any order of marks, echoes and clears, an echo is reported exactly if its mark was played, and once."""
    stream, asked, sent, thrown = begun(), 0, list[str](), set[str]()
    for step in steps:
        match step:
            case "mark":
                asked += 1
                stream.mark(f"m{asked}")
                sent.append(f"m{asked}")
            case "clear":
                stream.clear()
                thrown.update(sent)
            case _ if sent:
                name = sent.pop(0)
                assert told(stream, "mark", mark={"name": name}) == (None if name in thrown else Mark(name))


def test_pending_marks_are_bounded():
    """The state does not grow if marks are never returned."""
    stream = begun()
    for n in range(2000):
        stream.mark(f"m{n}")
        if n % 3 == 0:
            stream.clear()
    assert len(stream._pending_marks) <= 256
    assert len(stream._cleared_marks) <= 256
