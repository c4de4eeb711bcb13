"""Values that JSON or the log cannot hold, in calls: numbers that a caller types or says, and what tools return."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentfield.values import MAX_INTEGER
from support.paths import ROOT
from support.processes.installation import Installation, provider_settings, run_installation, speech_server
from support.processes.programs import AF

RECORDING = ROOT / "tests" / "fixtures" / "bad_input" / "track18.wav"
NUMBER = 9400111899223100001234

AGENT = f"""
from agentfield import Agent
from pydantic import BaseModel

app = Agent(node_id="parcel")


class Parcel(BaseModel):
    number: int


@app.reasoner()
async def track_parcel(number: int) -> dict[str, str]:
    \"\"\"Track a parcel by its number.

    Args:
        number: The number of the parcel.
    \"\"\"
    return {{"spoken_response": f"{{type(number).__name__}} {{number}} is on its way."}}


@app.reasoner()
async def newest() -> Parcel:
    return Parcel(number={NUMBER})


@app.reasoner()
async def after(parcel: Parcel) -> int:
    found = await app.call("parcel.newest")
    return found["number"] + parcel.number


@app.reasoner()
async def loose() -> dict:
    return {{"items": [1, {{"n": {NUMBER}}}]}}


for provider, transport in (("openai", "webrtc"), ("openai", "websocket"), ("openrouter", "audio_turns")):

    @app.session(transport, provider=provider, transport=transport, tools=["parcel.track_parcel"])
    async def handler(session): ...


app.run()
"""


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A control plane with the agent; the offline provider calls the tool with the digits that it hears or reads."""
    folder = tmp_path_factory.mktemp("values")
    (folder / "parcel.py").write_text(AGENT)
    with (
        speech_server(folder / "speech", "--engines", "synthetic") as speech,
        run_installation(folder / "it", folder / "parcel.py", env=provider_settings(speech.url)) as it,
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


def integers(value: Any) -> list[int]:
    """Return all integers in a JSON value."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [number for item in items for number in integers(item)]


@pytest.mark.parametrize("transport", ["websocket", "audio_turns", "webrtc"])
async def test_a_number_beyond_2_53_reaches_the_tool_exactly(installation: Installation, transport: str) -> None:
    """A tracking number of 22 digits is an exact int in the tool, text in the log, and the call goes on."""
    words = f"track parcel number {NUMBER}"
    flags = ("--text", words, "--text", "track parcel number 7")
    code, told, err = await af(installation, "session", "call", f"parcel.{transport}", *flags)
    assert (code, err) == (0, ""), told
    assert [turn["generated"] for turn in told["turns"]] == [
        f"int {NUMBER} is on its way.",
        "int 7 is on its way.",
    ]
    assert told["end_reason"] == "caller_hangup"
    async with installation.client() as client:
        events = [event async for event in client.session_events(told["session_id"]) if "seq" in event]
    (asked, _) = [event["body"]["arguments"] for event in events if event["type"] == "tool.requested"]
    assert asked == {"number": str(NUMBER)}
    assert all(abs(number) <= MAX_INTEGER for number in integers(events))
    assert {e["status"] for e in told["executions"]} == {"succeeded"}


@pytest.mark.speech
@pytest.mark.parametrize("transport", ["websocket", "audio_turns", "webrtc"])
@pytest.mark.long
async def test_a_spoken_number_beyond_2_53_does_not_end_the_call(tmp_path: Path, transport: str) -> None:
    """A recording of a long tracking number, spoken to the offline provider: the tool gets what was heard, and the call goes on."""
    (tmp_path / "parcel.py").write_text(AGENT.replace('"openai"', '"local"').replace('"openrouter"', '"local"'))
    flags = ("--audio", str(RECORDING), "--text", f"track parcel number {NUMBER}")
    with run_installation(tmp_path / "it", tmp_path / "parcel.py", env={}) as it:
        code, told, err = await af(it, "session", "call", f"parcel.{transport}", *flags)
    assert (code, err, told["end_reason"]) == (0, "", "caller_hangup"), told
    # a pause between the digits may end the turn: the number that is heard then is a part of the one that was said
    spoken, typed = (told["turns"][at]["generated"] for at in (0, -1))
    assert re.fullmatch(r"int \d+ is on its way\.", spoken)
    assert typed == f"int {NUMBER} is on its way."
    assert {e["status"] for e in told["executions"]} == {"succeeded"}


async def test_large_integers_in_calls_and_results(installation: Installation) -> None:
    """A declared int is exact through inputs, results and nested calls; over REST and in the store it is decimal text."""
    given = json.dumps({"parcel": {"number": NUMBER}})
    code, told, err = await af(installation, "execute", "parcel.after", "--input", given)
    assert (code, err) == (0, ""), told
    assert told["output"] == str(2 * NUMBER)
    assert told["input"] == {"parcel": {"number": str(NUMBER)}}


async def test_a_result_that_cannot_be_carried_says_that_the_function_ran(installation: Installation) -> None:
    """The failure names the value's path and that the function did run."""
    code, problem, _ = await af(installation, "execute", "parcel.loose")
    assert (code, problem["code"], problem["reason"]) == (1, "execution_failed", "unrepresentable")
    assert problem["detail"] == (
        "loose ran, but its result cannot be carried: the output.items[1].n is an integer beyond 2^53 - 1, "
        "which JSON readers round."
    )
    assert (problem["field"], problem["hint"]) == ("the output.items[1].n", "Give the number as a string.")
