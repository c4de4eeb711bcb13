"""`af session call` against a complete installation, over each transport, with the offline server as provider."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentfield_cli.call.recordings import FRAME, is_loud, read_recording, write_recording
from support.audio import tone_samples
from support.processes.installation import Installation, provider_settings, run_installation, speech_server

AF = str(Path(sys.executable).with_name("af"))

AGENT = """
from agentfield import Agent

app = Agent(node_id="shop")


@app.reasoner()
async def look_up(words: str) -> str:
    return "It is on its way."


async def answer(session):
    turn = await session.input()
    await session.say(await session.call("shop.look_up", words=turn.text or ""))


for provider, transport in (("openai", "webrtc"), ("openai", "websocket"), ("openrouter", "audio_turns")):
    app.session(transport, provider=provider, transport=transport, floor="handler")(answer)


@app.session("broken", provider="openai", transport="websocket")
async def broken(session):
    await session.input()
    raise ValueError("the shop is closed")


app.run()
"""


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A control plane with a session per transport; its provider has synthetic speech."""
    folder = tmp_path_factory.mktemp("everywhere")
    (folder / "shop.py").write_text(AGENT)
    with (
        speech_server(folder / "speech", "--engines", "synthetic") as speech,
        run_installation(folder / "it", folder / "shop.py", env=provider_settings(speech.url)) as it,
    ):
        yield it


async def af(it: Installation, *command: str) -> tuple[int, Any, str]:
    """Run `af … --json`; return its exit code, its object and its error output."""
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
async def test_two_turns_over_each_transport(installation: Installation, transport: str, tmp_path: Path) -> None:
    """Two recordings are understood, answered and heard over each transport, and the reports have the same form."""
    write_recording(tmp_path / "question.wav", tone_samples())
    audio, reply = str(tmp_path / "question.wav"), tmp_path / "reply.wav"
    code, told, err = await af(
        installation, "session", "call", f"shop.{transport}", "--audio", audio, "--audio", audio, "--save", str(reply)
    )
    assert (code, err) == (0, ""), told
    assert (told["transport"], told["end_reason"]) == (transport, "caller_hangup")
    assert [(turn["asked"], turn["generated"]) for turn in told["turns"]] == [("It is on its way.",) * 2] * 2
    assert all(turn["caller"] for turn in told["turns"])
    assert all(turn["heard_ms"] > 0 for turn in told["turns"])
    assert [e["status"] for e in told["executions"] if e["target"] == "shop.look_up"] == ["succeeded"] * 2
    assert all(row["end_of_speech_to_first_audio_ms"] > 0 for row in told["timings"])
    heard = read_recording(reply)
    frames = heard[: heard.size // FRAME * FRAME].reshape(-1, FRAME)
    assert sum(is_loud(frame) for frame in frames) * 20 > sum(turn["heard_ms"] for turn in told["turns"]) / 3


@pytest.mark.parametrize("transport", ["webrtc", "websocket", "audio_turns"])
async def test_typed_text_over_each_transport(installation: Installation, transport: str, tmp_path: Path) -> None:
    """Text that is typed after a recording is a turn and is answered."""
    write_recording(tmp_path / "question.wav", tone_samples())
    flags = ("--audio", str(tmp_path / "question.wav"), "--text", "where is it")
    code, told, err = await af(installation, "session", "call", f"shop.{transport}", *flags)
    assert (code, err) == (0, ""), told
    assert [turn["generated"] for turn in told["turns"]] == ["It is on its way."] * 2
    assert told["turns"][1]["caller"] == "where is it"


async def test_typed_text_alone_makes_a_call_of_recorded_turns(installation: Installation) -> None:
    """With recorded turns, typed text alone starts the call and is answered."""
    code, told, err = await af(installation, "session", "call", "shop.audio_turns", "--text", "where is it")
    assert (code, err) == (0, ""), told
    assert [turn["generated"] for turn in told["turns"]] == ["It is on its way."]
    assert told["turns"][0]["heard_ms"] > 0


async def test_a_handler_that_raises_fails_the_call(installation: Installation, tmp_path: Path) -> None:
    """The command exits with 1 and names the handler's error; the report is printed as well."""
    write_recording(tmp_path / "question.wav", tone_samples())
    code, told, _ = await af(installation, "session", "call", "shop.broken", "--audio", str(tmp_path / "question.wav"))
    assert code == 1
    assert len(told["turns"]) == 1
    assert "the shop is closed" in told["failures"][0]
