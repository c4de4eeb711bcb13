"""The frames of executions and calls: their bytes, the models that they replace, and the refusals of the decoder."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield.errors import InvalidInput
from agentfield.values import MAX_INTEGER
from agentfield.wire.frames import (
    Accepted,
    Call,
    CallAccepted,
    CallResult,
    ExecutionContext,
    Invoke,
    PauseRequest,
    Progress,
    Result,
    ResultAck,
    SessionOpen,
    decode_node_frame,
    decode_server_frame,
    encode_frame,
)
from support.core import link_models as old

CONTEXT = ExecutionContext(execution_id="exe_1", run_id="run_1", parent_id="exe_0", attempt=2, deadline=1764600000.5)
PAUSE = PauseRequest(key="ok?", title="Refund", details={"euros": None}, expires=60)
SALT = "A" * 43

GOLDEN: list[tuple[Any, str]] = [
    (
        Invoke(epoch=3, function="fn", input={"a": None}, context=CONTEXT, input_salt=SALT, output_salt=SALT),
        '{"type":"invoke","epoch":3,"function":"fn","input":{"a":null},"context":{"execution_id":"exe_1","run_id":"run_1",'
        '"parent_id":"exe_0","attempt":2,"deadline":1764600000.5},"lineage":0,"decisions":{},"input_salt":"'
        + SALT
        + '",'
        '"output_salt":"' + SALT + '"}',
    ),
    (
        Invoke(epoch=1, function="fn", input={}, context=ExecutionContext(execution_id="e", run_id="r")),
        (
            '{"type":"invoke","epoch":1,"function":"fn","input":{},"context":{"execution_id":"e","run_id":"r","attempt":1},'
            '"lineage":0,"decisions":{}}'
        ),
    ),
    (
        ResultAck(execution_id="exe_1", attempt=2),
        '{"type":"result.ack","execution_id":"exe_1","attempt":2,"accepted":true}',
    ),
    (
        CallAccepted(op_id="op_1", execution_id="exe_2"),
        '{"type":"call.accepted","op_id":"op_1","execution_id":"exe_2"}',
    ),
    (CallResult(op_id="op_1", output=2**64), '{"type":"call.result","op_id":"op_1","output":18446744073709551616}'),
    (
        CallResult(op_id="op_1", execution_id="exe_2", problem={"code": "gone", "hint": None}),
        '{"type":"call.result","op_id":"op_1","execution_id":"exe_2","problem":{"code":"gone","hint":null}}',
    ),
    (
        Accepted(execution_id="exe_1", attempt=2, epoch=3),
        '{"type":"accepted","execution_id":"exe_1","attempt":2,"epoch":3}',
    ),
    (
        Result(execution_id="exe_1", attempt=2, epoch=3, status="succeeded", output=["\u00fc\u2028/\n\x1f"], took=0.25),
        (
            '{"type":"result","execution_id":"exe_1","attempt":2,"epoch":3,"status":"succeeded",'
            '"output":["\u00fc\u2028/\\n\\u001f"],"retry":false,"took":0.25}'
        ),
    ),
    (
        Result(execution_id="exe_1", attempt=2, epoch=3, status="parked", proof={"v": 2}, pause=PAUSE),
        (
            '{"type":"result","execution_id":"exe_1","attempt":2,"epoch":3,"status":"parked","proof":{"v":2},"retry":false,'
            '"pause":{"key":"ok?","title":"Refund","details":{"euros":null},"expires":60.0}}'
        ),
    ),
    (
        Progress(execution_id="exe_1", attempt=2, epoch=3, value={"done": 1}),
        '{"type":"progress","execution_id":"exe_1","attempt":2,"epoch":3,"value":{"done":1}}',
    ),
    (
        Call(op_id="op_1", target="shop.fn", input={"n": 1.5}, parent_id="exe_1", session_id="ses_1", timeout=20.0),
        (
            '{"type":"call","op_id":"op_1","target":"shop.fn","input":{"n":1.5},"parent_id":"exe_1","session_id":"ses_1",'
            '"timeout":20.0}'
        ),
    ),
]


def decoded(frame: Any, text: str) -> Any:
    server = isinstance(frame, Invoke | ResultAck | CallAccepted | CallResult)
    return decode_server_frame(text) if server else decode_node_frame(text)


@pytest.mark.parametrize(("frame", "text"), GOLDEN, ids=lambda value: getattr(value, "type", None))
def test_the_bytes_of_a_frame(frame: Any, text: str) -> None:
    """Every frame is written as before it was a struct, and read back; unknown fields are ignored."""
    adapter = old.FromServer if frame.type in ("invoke", "result.ack", "call.accepted", "call.result") else old.FromNode
    assert encode_frame(frame) == text == adapter.validate_json(text).model_dump_json(exclude_none=True)
    assert decoded(frame, text) == frame
    assert decoded(frame, text[:-1] + ',"future":[1]}') == frame


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
# beyond 1e16 the exponent is written without its sign, which no reader distinguishes
floats = st.floats(min_value=-1e15, max_value=1e15)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=3)
numbers = st.integers(0, MAX_INTEGER)
maybe = st.none() | texts
salts = st.none() | st.text("aZ09_-", min_size=43, max_size=43)
attempt = {"execution_id": texts, "attempt": numbers, "epoch": numbers}
contexts = st.fixed_dictionaries(
    {"execution_id": texts, "run_id": texts},
    optional={"parent_id": maybe, "session_id": maybe, "actor_id": maybe, "attempt": numbers, "deadline": floats},
)
pauses = st.builds(
    PauseRequest,
    key=st.text("abc", min_size=1, max_size=5),
    title=st.text("abc", min_size=1, max_size=5),
    details=values,
    expires=st.floats(1, 1000),
)
FIELDS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "Invoke": st.fixed_dictionaries(
        {"epoch": numbers, "function": texts, "input": objects, "context": contexts},
        optional={
            "lineage": numbers,
            "decisions": st.dictionaries(texts, objects, max_size=2),
            "input_salt": salts,
            "output_salt": salts,
        },
    ),
    "ResultAck": st.fixed_dictionaries(
        {"execution_id": texts, "attempt": numbers}, optional={"accepted": st.booleans()}
    ),
    "CallAccepted": st.fixed_dictionaries({"op_id": texts, "execution_id": texts}),
    "CallResult": st.fixed_dictionaries(
        {"op_id": texts}, optional={"execution_id": maybe, "output": values, "problem": st.none() | objects}
    ),
    "Accepted": st.fixed_dictionaries(attempt),
    "Result": st.fixed_dictionaries(
        {**attempt, "status": st.sampled_from(["succeeded", "failed", "cancelled", "timeout", "parked"])},
        optional={
            "output": values,
            "problem": st.none() | objects,
            "input_digest": maybe,
            "output_digest": maybe,
            "signature": maybe,
            "proof": values,
            "retry": st.booleans(),
            "pause": st.none() | pauses,
            "took": st.none() | st.floats(0, 1e6),
        },
    ),
    "Progress": st.fixed_dictionaries({**attempt, "value": objects}),
    "Call": st.fixed_dictionaries(
        {"op_id": texts, "target": texts, "input": objects},
        optional={"parent_id": maybe, "session_id": maybe, "timeout": st.none() | st.floats(0.001, 1e6)},
    ),
}
KINDS = {
    kind.__name__: kind for kind in (Invoke, ResultAck, CallAccepted, CallResult, Accepted, Result, Progress, Call)
}


@pytest.mark.fuzz
@given(frames=st.sampled_from(sorted(FIELDS)).flatmap(lambda kind: st.tuples(st.just(kind), FIELDS[kind])))
def test_structs_and_the_former_models_write_and_read_the_same(frames: tuple[str, dict[str, Any]]) -> None:
    """A frame has the same text as its former model, and each reads what the other wrote."""
    kind, fields = frames
    made = {**fields, "context": ExecutionContext(**fields["context"])} if "context" in fields else fields
    frame, model = KINDS[kind](**made), getattr(old, kind)(**fields)
    text = encode_frame(frame)
    assert text == model.model_dump_json(exclude_none=True)
    assert decoded(frame, text) == frame
    assert (
        old.FromServer if isinstance(frame, Invoke | ResultAck | CallAccepted | CallResult) else old.FromNode
    ).validate_json(text) == model


@pytest.mark.fuzz
@given(
    frames=st.sampled_from(sorted(FIELDS)).flatmap(lambda kind: st.tuples(st.just(kind), FIELDS[kind])), data=st.data()
)
def test_an_altered_frame_is_read_like_its_former_model_or_refused(
    frames: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    """What the structs accept has the same fields in the models; the structs are stricter, never laxer."""
    kind, fields = frames
    made = {**fields, "context": ExecutionContext(**fields["context"])} if "context" in fields else fields
    frame = KINDS[kind](**made)
    document = json.loads(encode_frame(frame))
    name = data.draw(st.sampled_from(sorted(document)))
    document[name] = data.draw(values | numbers)
    text = json.dumps(document)
    adapter = old.FromServer if isinstance(frame, Invoke | ResultAck | CallAccepted | CallResult) else old.FromNode
    try:
        read = decoded(frame, text)
    except InvalidInput:
        return
    again = adapter.validate_json(text).model_dump_json(exclude_none=True)
    assert json.loads(encode_frame(read)) == json.loads(again)


ATTEMPT = '"execution_id":"e","attempt":1,"epoch":1'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type":"accepted","type":"accepted",' + ATTEMPT + "}", "(all): a name occurs twice in one object."),
        (
            '{"type":"progress",' + ATTEMPT + ',"value":{"a":{"b":1,"b":1}}}',
            "(all): a name occurs twice in one object.",
        ),
        ('{"type":"ping","type":"ping"}', "(all): a name occurs twice in one object."),
        ('{"type":"accepted","execution_id":"e","attempt":"1","epoch":1}', "attempt: Expected `int`, got `str`."),
        ('{"type":"accepted","execution_id":"e","attempt":true,"epoch":1}', "attempt: Expected `int`, got `bool`."),
        ('{"type":"accepted","execution_id":"e","attempt":-1,"epoch":1}', "attempt: Expected `int` >= 0."),
        (
            '{"type":"accepted","execution_id":"e","attempt":1,"epoch":9007199254740992}',
            "epoch: Expected `int` <= 9007199254740991.",
        ),
        ('{"type":"accepted","execution_id":"e","attempt":1}', "(all): Object missing required field `epoch`."),
        ('{"type":"progress",' + ATTEMPT + ',"value":[]}', "value: Expected `object`, got `array`."),
        ('{"type":"result",' + ATTEMPT + ',"status":"done"}', "status: Invalid enum value 'done'."),
        ('{"type":"result",' + ATTEMPT + ',"status":"failed","took":NaN}', "took: Expected `float` >= 0.0."),
        (
            '{"type":"result",' + ATTEMPT + ',"status":"parked","pause":{"key":"","title":"t","expires":1}}',
            "pause: key: String should have at least 1 character.",
        ),
        ('{"type":"call","op_id":"o","target":"t","input":{},"timeout":0}', "timeout: Expected `float` > 0.0."),
        ("[]", "(all): Input should be an object."),
        ("{", "(all): Expecting property name enclosed in double quotes: line 1 column 2 (char 1)."),
    ],
)
def test_the_refusal_of_a_frame(text: str, message: str) -> None:
    """A text that is no frame is refused with the field and the reason."""
    with pytest.raises(InvalidInput) as refused:
        decode_node_frame(text)
    assert (refused.value.code, refused.value.message) == ("bad_frame", message)


@pytest.mark.parametrize("text", ['{"type":"wish"}', '{"type":[]}', "{}", "nonsense", "[" * 100_000, '"\\ud800"'])
def test_no_text_breaks_the_decoder(text: str) -> None:
    """What is no frame of a direction is refused in one way, at any depth."""
    for decode in (decode_node_frame, decode_server_frame):
        with pytest.raises(InvalidInput):
            decode(text)


def test_depth_is_limited() -> None:
    """A frame has at most some hundred levels, which no value that can be carried reaches."""
    text = '{"type":"progress",' + ATTEMPT + ',"value":{"a":DEEP}}'
    decode_node_frame(text.replace("DEEP", "[" * 100 + "]" * 100))
    with pytest.raises(InvalidInput):
        decode_node_frame(text.replace("DEEP", "[" * 300 + "]" * 300))


def test_numbers_that_json_has_not_reach_the_border() -> None:
    """NaN and infinities are read: the border that receives the value names them in its refusal."""
    frame = decode_node_frame('{"type":"progress",' + ATTEMPT + ',"value":{"a":-Infinity}}')
    assert frame.value == {"a": float("-inf")}


def test_a_salt_has_43_characters() -> None:
    """A line break behind a salt is no part of it."""
    for wrong in ("A" * 42, "A" * 43 + "\n", "+" * 43):
        text = encode_frame(Invoke(epoch=1, function="f", input={}, context=CONTEXT, input_salt=wrong))
        with pytest.raises(InvalidInput, match="input_salt"):
            decode_server_frame(text)


def test_a_handler_is_opened_with_the_same_context() -> None:
    """A model carries the context as its fields."""
    opening = SessionOpen(session_id="ses_1", epoch=1, name="voice", context=CONTEXT)
    assert decode_server_frame(encode_frame(opening)) == opening
    with pytest.raises(InvalidInput, match=r"session\.open\.context"):
        decode_server_frame(encode_frame(opening).replace('"run_id":"run_1",', ""))
