"""Failing calls: unusable recordings, provider refusals, failing handlers and reasoners, a second offer."""

from __future__ import annotations

import asyncio
import json
import wave
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentfield.recordings import FORMATS
from agentfield.wire.rest import StartRequest
from agentfield_cli.call.recordings import write_recording
from agentfield_cli.call.webrtc import place_webrtc_call
from agentfield_local.faults.behaviour import Behaviour
from support.audio import tone_samples
from support.processes.live_call import calling, of_kind
from support.server.bad_input import Installation, af, af_refused, run_installation, steady

NO_AUDIO = "it is not audio, or its header is cut off"


@pytest.fixture
async def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Installation]:
    """A running installation; on exit it must still serve valid requests."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path / "home"))
    async with run_installation(tmp_path / "home") as it:
        yield it


def recording(path: Path, *, rate: int = 16_000, width: int = 2, channels: int = 1, seconds: float = 0.5) -> Path:
    """Write a tone as a WAV file with the given rate, sample width and channels."""
    at = np.arange(int(rate * seconds)) / rate
    loud = np.repeat(np.sin(2 * np.pi * 300 * at) / 2, channels)
    match width:
        case 1:
            data = (loud * 127 + 128).astype(np.uint8).tobytes()
        case 2:
            data = (loud * 32_000).astype("<i2").tobytes()
        case _:
            data = b"".join(int(sample * 8_000_000).to_bytes(3, "little", signed=True) for sample in loud)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)
    return path


def mp3(path: Path) -> Path:
    """Write a tone as MP3, regardless of the file's extension."""
    import av

    with av.open(str(path), "w", format="mp3") as container:
        stream = container.add_stream("mp3", rate=44_100)
        samples = (np.sin(2 * np.pi * 300 * np.arange(26_460) / 44_100) * 16_000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 44_100, 0, Fraction(1, 44_100)
        for piece in (frame, None):
            container.mux(stream.encode(piece))
    return path


# ── recordings ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing.wav", "No such file or directory"),
        ("text.wav", NO_AUDIO),
        ("nothing.wav", "it has no bytes"),
        ("header.wav", NO_AUDIO),
        ("empty.wav", "it has no samples"),
        ("silence.wav", "it is silent"),
        ("folder.wav", "Is a directory"),
    ],
)
async def test_an_unusable_recording_is_refused(
    installation: Installation, tmp_path: Path, name: str, why: str
) -> None:
    """`af session call` and `af demo` refuse a recording without speech, and no session starts."""
    (tmp_path / "text.wav").write_text("these are words, not samples\n" * 50)
    (tmp_path / "nothing.wav").write_bytes(b"")
    (tmp_path / "header.wav").write_bytes(recording(tmp_path / "good.wav").read_bytes()[:20])
    recording(tmp_path / "empty.wav", seconds=0)
    write_recording(tmp_path / "silence.wav", np.zeros(24_000, np.int16))
    (tmp_path / "folder.wav").mkdir()
    file = str(tmp_path / name)
    code, said = await af_refused("session", "call", "shop.voice", "--audio", file, "--url", installation.url)
    assert (code, said.text()) == (
        2,
        f"""\
error: DIR/{name} cannot be used as a recording: {why}.
hint: give a file with speech: {FORMATS}
code: bad_recording
""",
    )
    assert await af_refused("session", "call", "shop.voice", "--audio", file, "--url", installation.url) == (code, said)
    assert await installation.client.list_sessions() == []
    status, out, _ = await af("demo", "--once", "--json", "--audio", file)
    assert (status, json.loads(out)["code"], steady(json.loads(out)["detail"])) == (2, said.code, said.detail)


async def test_common_audio_formats_are_accepted(installation: Installation, tmp_path: Path) -> None:
    """Stereo at 44.1 kHz, 8 and 24 bits, an MP3 with a WAV extension and a truncated WAV are all played to the agent."""
    cut = recording(tmp_path / "cut.wav", seconds=1)
    cut.write_bytes(cut.read_bytes()[:16_000])
    files = [
        recording(tmp_path / "stereo.wav", rate=44_100, channels=2),
        recording(tmp_path / "8bit.wav", width=1, rate=8_000),
        recording(tmp_path / "24bit.wav", width=3, rate=48_000),
        mp3(tmp_path / "mp3.wav"),
        cut,
    ]
    flags = [part for file in files for part in ("--audio", str(file))]
    code, out, err = await af("session", "call", "shop.voice", *flags, "--url", installation.url, "--json")
    assert code == 0, out + err
    assert [turn["generated"] for turn in json.loads(out)["turns"]] == ["hello"] * 5


async def test_an_unwritable_save_path_is_refused_before_the_call(installation: Installation, tmp_path: Path) -> None:
    """An unwritable `--save` path is refused before a session starts."""
    question = str(recording(tmp_path / "question.wav"))
    for place, why in ((tmp_path / "none" / "reply.wav", "its folder does not exist"), (tmp_path, "it is a folder")):
        command = (
            "session",
            "call",
            "shop.voice",
            "--audio",
            question,
            "--save",
            str(place),
            "--url",
            installation.url,
        )
        code, said = await af_refused(*command)
        assert (code, said.code, said.hint) == (
            2,
            "not_writable",
            "give --save the name of a file in a folder that exists",
        )
        assert said.detail.endswith(f" cannot be written: {why}.")
    assert await installation.client.list_sessions() == []


# ── providers ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("refused", "text"),
    [
        (
            401,
            """\
error: OpenAI refused to create the call (HTTP 401, invalid_api_key): Incorrect API key provided.
hint: check OPENAI_API_KEY
code: provider_error
""",
        ),
        (
            404,
            """\
error: OpenAI refused to create the call (HTTP 404, model_not_found): The model does not exist or you do not have access to it.
hint: name another model with model=... in the session's declaration
code: provider_error
""",
        ),
        (
            429,
            """\
error: OpenAI refused to create the call (HTTP 429, insufficient_quota): You exceeded your current quota.
hint: check the billing of the OpenAI account
code: provider_error
""",
        ),
        (
            500,
            """\
error: OpenAI refused to create the call (HTTP 500, server_error): The server had an error while processing your request.
hint: try again
code: provider_unavailable
""",
        ),
    ],
)
async def test_a_refusal_of_the_provider_reaches_the_caller(
    installation: Installation, tmp_path: Path, refused: Any, text: str
) -> None:
    """The provider's refusal reaches the caller with the provider's message and without the key; the next call succeeds."""
    installation.provider.behaviour = Behaviour(refuse_calls=refused)
    question = str(recording(tmp_path / "question.wav"))
    code, said = await af_refused("session", "call", "shop.voice", "--audio", question, "--url", installation.url)
    assert (code, said.text(), said.status) == (1, text, 502)
    installation.provider.behaviour = Behaviour()
    refused_call = (await installation.client.list_sessions())[0]
    # a final refusal ends the session with provider_error; after a retryable one the caller hangs up
    final = refused_call.end_reason == "provider_error"
    assert (refused_call.state, final) == ("ended", refused in (401, 404, 429)), refused_call.end_reason
    async with calling(installation.client, "shop.voice") as live:
        assert [said["generated"] for said in (await live.say(tone_samples(0.4))).speeches] == ["hello"]


@pytest.mark.parametrize(
    ("environ", "target", "text"),
    [
        (
            {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"},
            "shop.voice",
            """\
error: OpenAI could not be reached: nothing answers at its address (asked to create the call).
hint: check the network and proxy settings, and OPENAI_BASE_URL
code: provider_unavailable
""",
        ),
        (
            {"AGENTFIELD_LOCAL_URL": "http://127.0.0.1:9"},
            "shop.here",
            """\
error: The local server could not be reached: nothing answers at its address (asked to create the call).
hint: check the network and proxy settings, and AGENTFIELD_LOCAL_URL
code: provider_unavailable
""",
        ),
    ],
)
async def test_an_unreachable_provider_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], target: str, text: str
) -> None:
    """The error names the unreachable provider, and the hint names the setting with its address."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    question = str(recording(tmp_path / "question.wav"))
    async with run_installation(tmp_path, environ=environ) as installation:
        code, said = await af_refused("session", "call", target, "--audio", question, "--url", installation.url)
    assert (code, said.text(), said.status) == (1, text, 502)


# ── handlers and reasoners ────────────────────────────────────────────────────


async def test_a_handler_exception_is_reported(installation: Installation, tmp_path: Path) -> None:
    """`af` prints the handler's exception, the turn's execution has code and hint, and another call is answered."""
    question = str(recording(tmp_path / "question.wav"))
    code, out, _ = await af("session", "call", "shop.raises", "--audio", question, "--url", installation.url)
    assert code == 1, out
    lines = [line.strip() for line in out.splitlines()]
    assert "failed  shop.raises: The handler of shop.raises raised LookupError: the shelf is empty" in lines
    where = "The node's own log has the traceback; it was raised at bad_input.py:"
    assert [line for line in lines if line.startswith(f"hint    {where}")]
    code, out, _ = await af("session", "call", "shop.raises", "--audio", question, "--url", installation.url, "--json")
    assert code == 1, out
    (problem,) = [each["problem"] for each in json.loads(out)["executions"] if each["kind"] == "turn"]
    assert (problem["code"], problem["error"], problem["detail"]) == (
        "handler_failed",
        "LookupError",
        "The handler of shop.raises raised LookupError: the shelf is empty",
    )
    assert problem["hint"].startswith(where)
    (root,) = [each for each in json.loads(out)["executions"] if each["kind"] == "session"]
    assert (root["status"], root["problem"]["code"]) == ("failed", "turns_failed")
    assert root["problem"]["detail"] == "no turn of the session succeeded: 1 failed"
    newest = (await installation.client.list_sessions())[0]
    shown = await installation.client.get_session(newest.id)
    assert (newest.turns_by_state, shown.turns, shown.turns_by_state) == (None, 1, {"failed": 1})
    code, out, _ = await af("session", "show", newest.id, "--url", installation.url)
    assert [line for line in out.splitlines() if line.startswith("turns")] == ["turns    1 (1 failed)"]
    async with calling(installation.client, "shop.voice") as live:
        assert [said["generated"] for said in (await live.say(tone_samples(0.4))).speeches] == ["hello"]
        shown = await live.hang_up()
        (root,) = [each for each in (await live.dag()).executions if each.kind == "session"]
        assert (root.status, shown.turns_by_state) == ("succeeded", {"succeeded": 1})


async def test_a_handler_without_input_is_reported(installation: Installation, tmp_path: Path) -> None:
    """A handler that returns without `session.input()` ends the session, and the error names the missing call."""
    question = str(recording(tmp_path / "question.wav"))
    code, out, _ = await af("session", "call", "shop.absent", "--audio", question, "--url", installation.url, "--json")
    problem = json.loads(out)
    assert (code, problem["code"], problem["reason"]) == (2, "session_ended", "handler_failed")
    assert problem["detail"] == (
        "The session ended before a word was said: handler_failed (the handler returned without having taken a turn; "
        "call `await session.input()` in it, or declare floor='model')."
    )
    assert steady(problem["hint"]) == "af session workflows ses_ID"


@pytest.mark.parametrize(
    ("command", "exit_code", "text"),
    [
        (
            ("shop.breaks",),
            1,
            (
                "error: shop.breaks raised LookupError: no such order\n"
                "hint: The node's own log has the traceback of shop.breaks.\ncode: execution_failed\n"
            ),
        ),
        (
            ("shop.leaves",),
            1,
            (
                "error: shop.leaves raised SystemExit: 3\n"
                "hint: The node's own log has the traceback of shop.leaves.\ncode: execution_failed\n"
            ),
        ),
        (
            ("shop.odd",),
            1,
            (
                "error: odd ran, but its result cannot be carried: the output.a[0] is of type object, which JSON cannot hold.\n"
                "hint: Return dicts, lists, text, numbers, booleans, None, pydantic models or dataclasses.\n"
                "code: execution_failed\n"
            ),
        ),
        (
            ("shop.endless",),
            1,
            (
                "error: endless ran, but its result cannot be carried: the output is inf, which JSON cannot hold.\n"
                "hint: Give a finite number, null, or a string.\n"
                "code: execution_failed\n"
            ),
        ),
        (
            ("shop.echo",),
            2,
            "error: The input of echo does not fit: word: is missing.\nhint: it takes: word\ncode: invalid_input\n",
        ),
        (
            ("shop.echo", "--input", '{"word": 1, "world": 2}'),
            2,
            (
                "error: The input of echo does not fit: word: input should be a valid string; world: is not a parameter.\n"
                "hint: it takes: word\ncode: invalid_input\n"
            ),
        ),
        (
            ("shop.echo", "--input", "{"),
            2,
            (
                "error: --input is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1).\n"
                'hint: --input \'{"name": "value"}\'\ncode: invalid_input\n'
            ),
        ),
        (
            ("shop.ecko",),
            2,
            (
                "error: There is no target 'shop.ecko'. Did you mean 'shop.echo'?\n"
                "hint: known targets: shop.breaks, shop.echo, shop.endless, shop.leaves, shop.odd\ncode: unknown_target\n"
            ),
        ),
        (
            ("shop.voice",),
            2,
            (
                "error: 'shop.voice' is a session, not a reasoner.\n"
                "hint: start it with: af session start shop.voice\ncode: unknown_target\n"
            ),
        ),
    ],
)
async def test_failed_and_invalid_executions_are_reported(
    installation: Installation, command: tuple[str, ...], exit_code: int, text: str
) -> None:
    """Exceptions, non-JSON results, invalid inputs and unknown targets get the same error in `af` and over HTTP."""
    code, said = await af_refused("execute", *command, "--url", installation.url)
    assert (code, said.text()) == (exit_code, text)
    if "{" not in command:
        given = json.loads(command[-1]) if len(command) > 1 else {}
        assert await installation.refused(f"/execute/{command[0]}", {"input": given}) == said


# ── a second offer ────────────────────────────────────────────────────────────


async def test_a_second_offer_replaces_the_first_call(installation: Installation) -> None:
    """A second offer for a session hangs up the first call; session and handler continue on the second."""
    async with calling(installation.client, "shop.voice") as live:
        first = (await live.say(tone_samples(0.4))).speeches
        offer = lambda sdp: installation.client.offer(live.id, sdp, live.started.token)  # noqa: E731 - a partial of three
        async with place_webrtc_call(offer, loopback=True) as second:
            one, two = installation.provider.calls
            async with asyncio.timeout(60):
                await live.until(lambda: one.state == "ended" and two.state == "live")
            live._call = second
            again = (await live.say(tone_samples(0.4))).speeches
            view = await live.hang_up()
    assert [said["generated"] for said in (*first, *again)] == ["hello", "hello"]
    assert (view.state, view.end_reason, view.turns) == ("ended", "caller_hangup", 2)
    assert one.end_reason == "hangup"
    assert len(await installation.client.list_sessions()) == 1
    assert next(event["body"]["resumed"] for event in of_kind(live.events, "handler.started")) is False
    started = await installation.client.start_session(StartRequest(target="shop.voice"))
    assert started.session_id != live.id
