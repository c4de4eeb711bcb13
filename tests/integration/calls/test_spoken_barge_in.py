"""Callers interrupt with real speech, over the media socket and over recorded turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from agentfield_cli.demo.speech import SpeechServer
from support.processes.installation import Installation, provider_settings, run_installation
from support.processes.live_call import LiveCall, calling, tree
from support.processes.recordings import clip
from support.word_error_rate import normalise, word_error_rate

PARCEL = (
    "Your parcel left the warehouse on Monday morning. It went by train to the harbour, and from there by ship to the "
    "island. On Tuesday it was seen by the customs officer, who asked for a paper. The paper was sent on Wednesday, and "
    "it was found to be in order. On Thursday the parcel was put on a van. The van had to wait for the ferry, which was "
    "late because of the wind. On Friday it came to the shop in your street. The shop was closed for the holiday. On "
    "Saturday the owner wrote you a letter. The letter says that you can fetch the parcel between nine and five."
)
STORY = " ".join([PARCEL] * 4)
"""Two minutes of speech: no machine has generated all of it when the caller interrupts."""
SHORT = "I am sending another one."
AGENT = f"""
from agentfield import Agent

app = Agent(node_id="teller")


@app.reasoner()
async def note(heard: str | None, remaining: str | None) -> None: ...


async def tell(session):
    await session.input()
    told = await session.say({STORY!r} if len(session.history) == 1 else {SHORT!r})
    await session.call("teller.note", heard=told.heard_text, remaining=told.remaining)


app.session("websocket", provider="openai", transport="websocket")(tell)
app.session("audio_turns", provider="openrouter", transport="audio_turns")(tell)
app.run()
"""
QUESTION, REQUEST = "synthetic/01", "synthetic/02"
REQUESTED = "i would like to start a replacement please"


@pytest.fixture(scope="module")
def teller(tmp_path_factory: pytest.TempPathFactory, speech: SpeechServer) -> Iterator[Installation]:
    """An agent that answers the first turn with two minutes of speech, and the next one with a sentence."""
    folder = tmp_path_factory.mktemp("teller")
    (folder / "teller.py").write_text(AGENT)
    with run_installation(folder / "it", folder / "teller.py", env=provider_settings(speech.url)) as it:
        yield it


async def heard_for(live: LiveCall, seconds: float, after: float) -> None:
    """Wait until the agent has been audible for `seconds`."""
    first = at = await live.call.wait_for_voice(after)
    while at < first + seconds:
        at = await live.call.wait_for_voice(at)


@pytest.mark.speech
@pytest.mark.realtime
@pytest.mark.parametrize("transport", ["websocket", "audio_turns"])
async def test_a_spoken_interruption_stops_a_long_answer(
    teller: Installation, speech: SpeechServer, transport: str
) -> None:
    """The provider stops generating, the heard part is recorded and returned to the handler, and the new turn is answered."""
    target = f"teller.{transport}"
    async with teller.client() as client, calling(client, target) as live:
        begun = time.monotonic()
        asking = asyncio.create_task(live.call.speak(clip(QUESTION)))
        await heard_for(live, 0.8, begun)
        answer = await live.say(clip(REQUEST))
        await asking
        view = await live.hang_up()
        dag = await live.dag()
    assert (view.end_reason, view.turns) == ("caller_hangup", 2)
    assert word_error_rate([(REQUESTED, answer.caller)]) <= 0.15

    told, said = [event["body"] for event in live.recorded("speech.ended")]
    assert (told["asked"], told["interrupted"], told["failed"]) == (STORY, True, None)
    assert STORY.startswith(told["generated"])
    assert len(told["generated"]) < len(STORY)  # generation stopped before the end
    assert told["heard_ms"] > 0
    assert told["heard_text"]
    assert told["generated"].startswith(told["heard_text"])
    assert normalise(told["heard_text"]) + normalise(told["remaining"]) == normalise(STORY)
    assert (said["generated"], said["interrupted"], said["remaining"]) == (SHORT, False, "")

    heard = normalise(await speech.transcribe(live.call.recording))
    assert word_error_rate([(SHORT, " ".join(heard[-5:]))]) <= 0.2, heard
    assert not {"train", "harbour", "harbor", "island"} & set(heard), heard  # no discarded audio was played

    note = "teller.note"
    assert tree(dag) == [
        ("session", target, "succeeded", None),
        ("turn", target, "succeeded", "session 1"),
        ("call", note, "succeeded", "turn 1"),
        ("turn", target, "succeeded", "session 1"),
        ("call", note, "succeeded", "turn 2"),
    ]
    assert dag.executions[2].input == {"heard": told["heard_text"], "remaining": told["remaining"]}
