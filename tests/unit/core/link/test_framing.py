"""Framing of the node link: several frames in one message."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from agentfield.wire.frames import Accepted, Ping, Progress, decode_node_frame, encode_frame
from agentfield.wire.framing import MESSAGE_CHARACTERS, MESSAGE_FRAMES, split_frames, take_frames

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
def test_joined_frames_are_split_again(frames: list[Accepted | Ping | Progress]) -> None:
    """A message carries all queued frames in order, whatever text they contain, line ends included."""
    first, *others = map(encode_frame, frames)
    waiting = asyncio.Queue[str]()
    for each in others:
        waiting.put_nowait(each)
    message = "\n".join(take_frames(first, waiting))
    assert waiting.empty()
    assert [decode_node_frame(each) for each in split_frames(message)] == frames


def test_a_long_message_takes_no_further_frame() -> None:
    """A message that reached the limit takes no further frame, so that a large result is sent alone."""
    waiting = asyncio.Queue[str]()
    for each in ("b" * MESSAGE_CHARACTERS, "c"):
        waiting.put_nowait(each)
    assert take_frames("a", waiting) == ["a", "b" * MESSAGE_CHARACTERS]
    assert take_frames(waiting.get_nowait(), waiting) == ["c"]


def test_a_message_has_a_bounded_number_of_frames() -> None:
    """One signature stands for at most 256 results, so a message has no more frames, however short."""
    waiting = asyncio.Queue[str]()
    for number in range(2 * MESSAGE_FRAMES):
        waiting.put_nowait(str(number))
    assert len(take_frames("a", waiting)) == MESSAGE_FRAMES
    assert waiting.qsize() == MESSAGE_FRAMES + 1
