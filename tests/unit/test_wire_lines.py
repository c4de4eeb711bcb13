"""Messages of the node link that carry several frames."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from agentfield.wire.frames import Accepted, Ping, Progress, decode_node_frame, encode_frame
from agentfield.wire.lines import MESSAGE_CHARACTERS, frames_of, message_of

FRAMES = st.lists(
    st.just(Ping())
    | st.builds(Accepted, execution_id=st.text(max_size=40), attempt=st.integers(1, 9), epoch=st.integers(1, 9))
    | st.builds(
        Progress,
        execution_id=st.just("exe_1"),
        attempt=st.just(1),
        epoch=st.just(1),
        value=st.dictionaries(st.text(), st.text()),
    ),
    min_size=1,
)


@given(FRAMES)
def test_frames_come_out_as_they_went_in(frames: list[Accepted | Ping | Progress]) -> None:
    """Whatever text is in them, line ends included: one message carries all that wait, in order."""
    first, *others = map(encode_frame, frames)
    waiting = asyncio.Queue[str]()
    for each in others:
        waiting.put_nowait(each)
    message = message_of(first, waiting)
    assert waiting.empty()
    assert [decode_node_frame(each) for each in frames_of(message)] == frames


def test_a_long_message_takes_no_further_frame() -> None:
    """So that a large result does not wait for another one behind it."""
    waiting = asyncio.Queue[str]()
    for each in ("b" * MESSAGE_CHARACTERS, "c"):
        waiting.put_nowait(each)
    assert message_of("a", waiting) == "a\n" + "b" * MESSAGE_CHARACTERS
    assert frames_of(message_of(waiting.get_nowait(), waiting)) == ["c"]
