"""The tools example: an empty handler and two allow-listed tools on two nodes; the model calls only listed tools."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import av
import numpy as np
import pytest

from agentfield_cli.call.recordings import RATE, Samples
from agentfield_cli.demo.speech import SpeechServer
from agentfield_local.brain import ScriptedBrain
from agentfield_local.brain.protocol import BrainRequest, CallFunction, Speak, Step, ToolResult
from agentfield_local.server import LocalServer
from agentfield_local.speech.engines import load_engines
from agentfield_local.speech.synthetic import synthetic_engines
from support.audio import tone_samples
from support.processes.installation import CANARY, EXAMPLES, provider_settings, run_installation, speech_server
from support.processes.live_call import calling, tree
from support.processes.programs import entered
from support.processes.recordings import clip
from support.word_error_rate import word_error_rate

EXAMPLE = EXAMPLES / "voice_tools"
NODES = [EXAMPLE / name for name in ("orders.py", "refunds.py", "voice.py")]
TARGET = "voice-desk.voice"
ORDERS, REFUNDS = "orders.lookup_order", "refunds.request_approval"
REFUND_WORDS = "I want my money back. Please give me a refund."


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpeechServer]:
    """The local speech server, used as provider `openai`."""
    with speech_server(tmp_path_factory.mktemp("speech")) as server:
        yield server


def spoken(text: str) -> Samples:
    """Return the text as synthesised speech, 48 kHz mono."""
    tts = load_engines("default").tts
    pcm = np.frombuffer(b"".join(tts.say(text)), "<i2")
    frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
    frame.sample_rate = tts.rate
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    return np.concatenate([out.to_ndarray()[0] for part in (frame, None) for out in resampler.resample(part)])


class Remembering(ScriptedBrain):
    """A scripted model that keeps the tool results of its latest request."""

    results: Sequence[ToolResult] = ()

    def respond(self, request: BrainRequest) -> Sequence[Step]:
        self.results = [entry for entry in request.history if isinstance(entry, ToolResult)]
        return super().respond(request)


@pytest.mark.speech
@pytest.mark.realtime
async def test_the_model_calls_the_tool_that_matches_the_request(tmp_path: Path, speech: SpeechServer) -> None:
    """Two concurrent callers each hear the result of the matching tool, and each session's tree has that tool."""
    refund = await asyncio.to_thread(spoken, REFUND_WORDS)
    with run_installation(tmp_path, *NODES, env=provider_settings(speech.url)) as it:
        async with (
            it.client() as client,
            calling(client, TARGET, caller="maria") as maria,
            calling(client, TARGET, caller="joe") as joe,
        ):
            assert (maria.started.floor, maria.started.model) == ("model", "gpt-realtime-2")
            about_order, about_refund = await asyncio.gather(maria.say(clip("synthetic/01")), joe.say(refund))
            await maria.hang_up()
            await joe.hang_up()
            trees = [await maria.dag(), await joe.dag()]
        heard = [await speech.transcribe(answer.audio) for answer in (about_order, about_refund)]
    for dag, tool in zip(trees, (ORDERS, REFUNDS), strict=True):
        assert tree(dag) == [
            ("session", TARGET, "succeeded", None),
            ("turn", TARGET, "succeeded", "session 1"),
            ("tool", tool, "succeeded", "turn 1"),
        ]
        assert dag.executions[2].node_id == tool.partition(".")[0]
    assert trees[0].executions[2].input == {"order_number": "427"}
    assert maria.recorded("tool.refused") == joe.recorded("tool.refused") == []
    said = ["Order 427 is stuck in customs.", "I asked a manager to approve your refund."]
    assert [answer.speeches[-1]["generated"] for answer in (about_order, about_refund)] == said
    assert word_error_rate(zip(said, heard, strict=True)) <= 0.15, heard


async def test_a_tool_outside_the_allow_list_is_refused(tmp_path: Path) -> None:
    """An existing target outside the allow list is refused, recorded and not run; the model continues."""
    vault = tmp_path / "vault.py"
    vault.write_text(
        "from agentfield import Agent\n"
        "app = Agent(node_id='vault')\n"
        "@app.reasoner()\n"
        "async def open_safe() -> dict:\n"
        f"    open({str(tmp_path / 'opened')!r}, 'w').close()\n"
        "    return {}\n"
        "app.run()\n"
    )
    steps: list[list[Step]] = [
        [CallFunction("vault__open_safe", "{}")],
        [CallFunction("vault.open_safe", "{}")],
        [Speak("I may not do that.")],
    ]
    steps += [[CallFunction("orders__lookup_order", '{"order_number": "512"}')]]
    brain = Remembering(steps)
    engines = synthetic_engines(["open the safe", "where is order 512"])
    async with LocalServer(engines, brain, key=CANARY) as server, AsyncExitStack() as stack:
        it = await entered(
            stack, run_installation(tmp_path / "installation", vault, *NODES, env=provider_settings(server.url))
        )
        async with it.client() as client, calling(client, TARGET) as live:
            refused = await live.say(tone_samples())
            served = await live.say(tone_samples())
            await live.hang_up()
            dag = await live.dag()
    assert refused.speeches[-1]["generated"] == "I may not do that."
    assert served.speeches[-1]["generated"] == "Order 512 is out for delivery."
    told = [event["body"] for event in live.recorded("tool.refused")]
    assert [(each["name"], each["why"]) for each in told] == [
        ("vault__open_safe", "not_listed"),
        ("vault.open_safe", "not_listed"),
    ]
    assert [json.loads(each.output).get("error", {}).get("code") for each in brain.results] == ["not_listed"] * 2 + [
        None
    ]
    assert [event["body"]["target"] for event in live.recorded("tool.requested")] == [ORDERS]
    assert tree(dag) == [
        ("session", TARGET, "succeeded", None),
        ("turn", TARGET, "succeeded", "session 1"),
        ("turn", TARGET, "succeeded", "session 1"),
        ("tool", ORDERS, "succeeded", "turn 2"),
    ]
    assert not (tmp_path / "opened").exists()
