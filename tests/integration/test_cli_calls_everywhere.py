"""`af session call` against a whole installation, over each transport, with the offline server as the provider."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentfield_cli.audio import FRAME, is_loud, read_recording, write_recording
from call_kit import House, house, provider, speech_server, tone

AF = str(Path(sys.executable).with_name("af"))

AGENT = """
from agentfield import Agent

app = Agent(node_id="desk")


@app.reasoner()
async def look_up(words: str) -> str:
    return "It is on its way."


async def answer(session):
    turn = await session.input()
    await session.say(await session.call("desk.look_up", words=turn.text or ""))


for provider, transport in (("openai", "webrtc"), ("openai", "websocket"), ("openrouter", "audio_turns")):
    app.session(transport, provider=provider, transport=transport, floor="handler")(answer)


@app.session("broken", provider="openai", transport="websocket")
async def broken(session):
    await session.input()
    raise ValueError("the desk is closed")


app.run()
"""


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A control plane with a desk that can be called over each transport; its provider has synthetic speech."""
    folder = tmp_path_factory.mktemp("everywhere")
    (folder / "desk.py").write_text(AGENT)
    with (
        speech_server(folder / "speech", "--engines", "synthetic") as speech,
        house(folder / "it", folder / "desk.py", env=provider(speech.url)) as it,
    ):
        yield it


async def af(it: House, *command: str) -> tuple[int, Any, str]:
    """Run `af … --json`; return its exit code, what it printed, and its error output."""
    process = await asyncio.create_subprocess_exec(
        AF,
        *command,
        "--json",
        env={**os.environ, "AGENTFIELD_HOME": str(it.home)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(out), err.decode()


@pytest.mark.parametrize("transport", ["webrtc", "websocket", "audio_turns"])
async def test_two_turns_over_each_transport(installation: House, transport: str, tmp_path: Path) -> None:
    """Two recordings are understood, answered and heard over each transport, and the report is of one form."""
    write_recording(tmp_path / "question.wav", tone())
    audio, reply = str(tmp_path / "question.wav"), tmp_path / "reply.wav"
    code, told, err = await af(
        installation, "session", "call", f"desk.{transport}", "--audio", audio, "--audio", audio, "--save", str(reply)
    )
    assert (code, err) == (0, ""), told
    assert (told["transport"], told["end_reason"]) == (transport, "caller_hangup")
    assert [(turn["asked"], turn["generated"]) for turn in told["turns"]] == [("It is on its way.",) * 2] * 2
    assert all(turn["caller"] for turn in told["turns"])
    assert all(turn["heard_ms"] > 0 for turn in told["turns"])
    assert [e["status"] for e in told["executions"] if e["target"] == "desk.look_up"] == ["succeeded"] * 2
    assert all(row["end_of_speech_to_first_audio_ms"] > 0 for row in told["timings"])
    heard = read_recording(reply)
    frames = heard[: heard.size // FRAME * FRAME].reshape(-1, FRAME)
    assert sum(is_loud(frame) for frame in frames) * 20 > sum(turn["heard_ms"] for turn in told["turns"]) / 3


@pytest.mark.parametrize("transport", ["webrtc", "websocket", "audio_turns"])
async def test_typed_words_over_each_transport(installation: House, transport: str, tmp_path: Path) -> None:
    """Words that are typed after a recording are a turn, answered like the spoken one."""
    write_recording(tmp_path / "question.wav", tone())
    flags = ("--audio", str(tmp_path / "question.wav"), "--text", "where is it")
    code, told, err = await af(installation, "session", "call", f"desk.{transport}", *flags)
    assert (code, err) == (0, ""), told
    assert [turn["generated"] for turn in told["turns"]] == ["It is on its way."] * 2
    assert told["turns"][1]["caller"] == "where is it"


async def test_words_alone_make_a_call_of_recorded_turns(installation: House) -> None:
    """Where turns are recorded, typing alone opens the call and is answered."""
    code, told, err = await af(installation, "session", "call", "desk.audio_turns", "--text", "where is it")
    assert (code, err) == (0, ""), told
    assert [turn["generated"] for turn in told["turns"]] == ["It is on its way."]
    assert told["turns"][0]["heard_ms"] > 0


async def test_a_handler_that_raises_is_a_failed_call(installation: House, tmp_path: Path) -> None:
    """The command ends with 1 and names what the handler raised; the report is printed all the same."""
    write_recording(tmp_path / "question.wav", tone())
    code, told, _ = await af(installation, "session", "call", "desk.broken", "--audio", str(tmp_path / "question.wav"))
    assert code == 1
    assert len(told["turns"]) == 1
    assert "the desk is closed" in told["failures"][0]
