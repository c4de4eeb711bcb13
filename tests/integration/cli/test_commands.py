"""The commands of `af` against a control plane, an agent and a speech server in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentfield.identity import NodeKey
from agentfield.proof import Report, verify_export
from agentfield_cli.call.recordings import read_recording, write_recording
from support.audio import tone_samples
from support.processes.installation import CANARY, EXAMPLES, Installation, run_installation, speech_server

AF = str(Path(sys.executable).with_name("af"))
TARGET = "voice-support.voice"
REPLY = "I found the order. It's stuck in customs — want me to start a replacement?"


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A control plane with the unchanged example program; its provider is the local server with synthetic speech."""
    with speech_server(tmp_path_factory.mktemp("speech"), "--engines", "synthetic") as speech:
        env = {"OPENAI_API_KEY": CANARY, "OPENAI_BASE_URL": f"{speech.url}/v1"}
        agent = EXAMPLES / "voice_support" / "agent.py"
        with run_installation(tmp_path_factory.mktemp("installation") / "it", agent, env=env) as it:
            yield it


async def af(it: Installation, *command: str) -> tuple[int, str, str]:
    """Run `af` to its end; return its exit code and its output."""
    process = await asyncio.create_subprocess_exec(
        AF,
        *command,
        env={**os.environ, "AGENTFIELD_HOME": str(it.home)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def af_json(it: Installation, *command: str) -> Any:
    code, out, err = await af(it, *command, "--json")
    assert (code, err) == (0, ""), out + err
    return json.loads(out)


async def test_start_prints_a_page_address(installation: Installation) -> None:
    """The start command of the guide, with all its flags, prints a page address whose code is in the fragment."""
    flags = ("--provider", "openai", "--transport", "webrtc", "--model", "gpt-realtime-2", "--voice", "marin")
    code, out, err = await af(installation, "session", "start", TARGET, *flags)
    assert (code, err) == (0, "")
    shown = dict(re.split(r"\s+", line, maxsplit=1) for line in out.splitlines())
    assert shown["session"].startswith("ses_")
    assert shown["pair"] == "openai/webrtc"
    assert shown["floor"] == "handler"
    assert re.fullmatch(re.escape(installation.url) + r"/call#code=\S+", shown["page"])
    assert CANARY not in out


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ((TARGET, "--provider", "local"), "declaration_mismatch"),
        ((TARGET, "--transport", "websocket"), "declaration_mismatch"),
        ((TARGET, "--model", "gpt-nope"), "declaration_mismatch"),
        (("voice-support.voce",), "unknown_session"),
        (("voice-support.resolve_turn",), "unknown_session"),
    ],
)
async def test_a_start_that_contradicts_the_declaration_is_refused(
    installation: Installation, flags: tuple[str, ...], code: str
) -> None:
    """Another provider, transport or model than the declared one, and an unknown session, are refused with 2."""
    exit_code, out, _ = await af(installation, "session", "start", *flags, "--json")
    problem = json.loads(out)
    assert (exit_code, problem["code"]) == (2, code)
    assert problem["hint"]


async def test_a_call_from_the_terminal(installation: Installation, tmp_path: Path) -> None:
    """A call speaks the file, prints its course, saves the heard audio, and can be shown afterwards."""
    write_recording(tmp_path / "question.wav", tone_samples())
    audio, reply = str(tmp_path / "question.wav"), tmp_path / "reply.wav"
    code, out, err = await af(
        installation, "session", "call", TARGET, "--audio", audio, "--audio", audio, "--save", str(reply)
    )
    assert code == 0, out + err
    lines = [line.strip() for line in out.splitlines()]
    assert lines.count(f"agent   {REPLY}") == 2
    assert lines.count("calls   voice-support.resolve_turn") == 2
    assert "session ended (caller_hangup)" in lines
    assert [line for line in lines if line.startswith("turn 1: offer to answer")]
    assert read_recording(reply).size > 48_000

    session = (await af_json(installation, "session", "list"))["sessions"][0]
    assert (session["state"], session["end_reason"], session["turns"]) == ("ended", "caller_hangup", 2)
    shown = await af_json(installation, "session", "show", session["id"])
    assert shown["config"]["declaration"]["model"] == "gpt-realtime-2"
    assert CANARY not in json.dumps(shown)
    dag = await af_json(installation, "session", "workflows", session["id"])
    assert [(e["kind"], e["status"]) for e in dag["executions"]] == [
        ("session", "succeeded"),
        ("turn", "succeeded"),
        ("call", "succeeded"),
        ("turn", "succeeded"),
        ("call", "succeeded"),
    ]
    _, tree, _ = await af(installation, "session", "workflows", session["id"])
    assert re.search(r"└── session voice-support\.voice succeeded .*\n    ├── turn .*\n    │   └── call ", tree)
    _, table, _ = await af(installation, "session", "list")
    assert session["id"] in table


async def test_a_session_is_exported_and_redacted(installation: Installation, tmp_path: Path) -> None:
    """An export verifies against the DID of the control plane, with and without bodies, also once they are erased."""
    write_recording(tmp_path / "question.wav", tone_samples())
    told = await af_json(installation, "session", "call", TARGET, "--audio", str(tmp_path / "question.wav"))
    session_id = told["session_id"]
    issuer = NodeKey.load(installation.home / "control_plane.pem").did

    def verified(path: Path) -> Report:
        report = verify_export(path.read_bytes().splitlines(keepends=True), issuer=issuer)
        assert (report.verdict, report.problem) == ("complete", None)
        assert report.credentials == len(told["executions"])
        return report

    whole = tmp_path / "whole.jsonl"
    done = await af_json(installation, "session", "export", session_id, "-o", str(whole))
    assert done == {
        "session_id": session_id,
        "file": str(whole),
        "lines": len(whole.read_bytes().splitlines()),
        "bytes": whole.stat().st_size,
    }
    assert verified(whole).bodies > 10
    subjects = [
        json.loads(line)["credential"]["credentialSubject"]
        for line in whole.read_text().splitlines()
        if line.startswith('{"credential"')
    ]
    turn = next(subject for subject in subjects if subject["kind"] == "turn")
    (speech,) = turn["speech"]
    assert set(speech) == {"event", "body", "verbatim", "heard_ms", "heard_method"}
    assert (speech["verbatim"], speech["heard_ms"] > 0) == (True, True)
    call = next(subject for subject in subjects if subject["kind"] == "call")
    assert call["node"]["node_id"] == "voice-support"
    held = installation.home / "heads" / f"{session_id}.json"
    code, out, err = await af(installation, "verify", str(whole), "--issuer", issuer, "--head", str(held), "--json")
    assert code == 0, out + err
    assert [head["state"] for head in json.loads(out)["held"]] == ["consistent"]
    assert REPLY.encode() in whole.read_bytes()
    code, out, err = await af(installation, "session", "export", session_id, "--without-bodies")
    assert (code, err) == (0, "")
    (tmp_path / "bare.jsonl").write_text(out)
    assert verified(tmp_path / "bare.jsonl").bodies == 0
    assert REPLY not in out

    executed = await af_json(installation, "execute", "voice-support.resolve_turn", "--input", '{"turn": {}}')
    run = tmp_path / "run.jsonl"
    await af_json(installation, "session", "export", executed["run_id"], "-o", str(run))
    report = verify_export(run.read_bytes().splitlines(keepends=True), issuer=issuer)
    assert (report.verdict, report.credentials, report.session_id) == ("complete", 1, None)

    redacted = await af_json(installation, "session", "redact", session_id, "--reason", "request 17")
    assert redacted["events"] > 10
    await af_json(installation, "session", "export", session_id, "-o", str(whole))
    assert verified(whole).bodies == 1
    assert REPLY.encode() not in whole.read_bytes()
    await af_json(installation, "session", "redact", executed["run_id"], "--reason", "request 18")
    await af_json(installation, "session", "export", executed["run_id"], "-o", str(run))
    assert b"request 18" in run.read_bytes()
    assert REPLY.encode() not in run.read_bytes()
    for wrong, refusal in (
        (("export", "ses_0"), "unknown_session"),
        (("redact", "ses_0"), "unknown_session"),
        (("redact", "run_0"), "unknown_run"),
    ):
        code, out, _ = await af(installation, "session", *wrong, "--json")
        assert (code, json.loads(out)["code"]) == (2, refusal)
    code, out, _ = await af(installation, "session", "export", session_id, "-o", str(tmp_path / "no" / "x"), "--json")
    assert (code, json.loads(out)["code"]) == (2, "not_writable")
    assert not [name for name in await asyncio.to_thread(os.listdir, tmp_path) if name.endswith(".part")]


async def test_a_call_as_json(installation: Installation, tmp_path: Path) -> None:
    """With --json a call prints one object with turns, executions and timings."""
    write_recording(tmp_path / "question.wav", tone_samples())
    told = await af_json(installation, "session", "call", TARGET, "--audio", str(tmp_path / "question.wav"))
    assert (told["provider"], told["transport"], told["end_reason"]) == ("openai", "webrtc", "caller_hangup")
    (turn,) = told["turns"]
    assert (turn["asked"], turn["generated"]) == (REPLY, REPLY)
    assert turn["heard_ms"] > 0
    (timing,) = told["timings"]
    assert all(value > 0 for value in timing.values())


async def test_an_invalid_recording_starts_no_session(installation: Installation, tmp_path: Path) -> None:
    """A file that is not audio is refused before a session is started."""
    (tmp_path / "no.wav").write_text("no")
    before = len((await af_json(installation, "session", "list"))["sessions"])
    code, out, _ = await af(installation, "session", "call", TARGET, "--audio", str(tmp_path / "no.wav"), "--json")
    assert (code, json.loads(out)["code"]) == (2, "bad_recording")
    assert len((await af_json(installation, "session", "list"))["sessions"]) == before


async def test_a_session_is_ended(installation: Installation) -> None:
    """`af session end` ends a session with the reason `operator`; repeating it changes nothing."""
    started = await af_json(installation, "session", "start", TARGET, "--caller", "me", "--metadata", '{"a": 1}')
    ended = await af_json(installation, "session", "end", started["session_id"])
    assert (ended["state"], ended["end_reason"]) == ("ended", "operator")
    assert (ended["caller"], ended["metadata"]) == ("me", {"a": 1})
    code, _, _ = await af(installation, "session", "end", started["session_id"])
    assert code in (0, 2)
    code, out, _ = await af(installation, "session", "show", "ses_nope", "--json")
    assert (code, json.loads(out)["code"]) == (2, "unknown_session")


async def test_a_target_is_called(installation: Installation) -> None:
    """`af execute` prints the output of a reasoner or its error, and with --async returns at once."""
    code, out, _ = await af(installation, "execute", "voice-support.resolve_turn", "--input", '{"turn": {}}')
    assert code == 0
    assert json.loads(out)["spoken_response"] == REPLY
    view = await af_json(installation, "execute", "voice-support.resolve_turn", "--input", '{"turn": {}}')
    assert (view["status"], view["output"]["next_action"]) == ("succeeded", "offer_replacement")
    later = await af_json(installation, "execute", "voice-support.resolve_turn", "--input", '{"turn": {}}', "--async")
    assert later["id"].startswith("exe_")
    code, _, err = await af(installation, "execute", "voice-support.resolve_turn")
    assert code == 2
    assert "turn" in err
    assert "code: invalid_input" in err
    code, _, err = await af(installation, "execute", "voice-support.resolve_trun")
    assert code == 2
    assert "Did you mean 'voice-support.resolve_turn'?" in err


async def test_nodes_and_adapters_of_a_control_plane(installation: Installation) -> None:
    """`af nodes` lists the instance with its offers, `af adapters --url` the matrix of that control plane."""
    (node,) = (await af_json(installation, "nodes"))["nodes"]
    assert (node["node_id"], node["connected"]) == ("voice-support", True)
    _, table, _ = await af(installation, "nodes")
    assert "resolve_turn, voice (session)" in table
    pairs = {
        f"{view['provider']}/{view['transport']}"
        for view in (await af_json(installation, "adapters", "--url", installation.url))["adapters"]
        if view["installed"]
    }
    assert {"openai/webrtc", "local/webrtc"} <= pairs


async def test_a_port_in_use_is_explained(installation: Installation, tmp_path: Path) -> None:
    """A second control plane on the port reports that the port is in use, the process that uses it, and a free port."""
    port = installation.url.rpartition(":")[2]
    code, _, err = await af(installation, "server", "--port", port, "--data", str(tmp_path))
    assert code == 2
    assert f"Port {port} on 127.0.0.1 is in use" in err
    assert "--port 0" in err
    assert "code: port_in_use" in err


async def test_dev_serves_a_folder_with_its_agent_and_page(tmp_path: Path) -> None:
    """`af dev` links the folder's agent, serves its web/ at the root, and stops both at a signal."""
    folder = tmp_path / "project"
    (folder / "web").mkdir(parents=True)
    (folder / "web" / "index.html").write_text("<!doctype html><title>mine</title>")
    (folder / "agent.py").write_text((EXAMPLES / "voice_support" / "agent.py").read_text())
    it = Installation("", tmp_path / "home")
    process = await asyncio.create_subprocess_exec(
        AF,
        "dev",
        str(folder),
        "--port",
        "0",
        env={**os.environ, "AGENTFIELD_HOME": str(it.home), "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            said = b""
            while b"is linked to" not in said:
                line = await process.stdout.readline()
                assert line, said.decode()
                said += line
            address = re.search(rb"page +(http://\S+)/", said)
            assert address is not None
            it.url = address[1].decode()
            assert b"<title>mine</title>" in await _get(it.url + "/")
            assert (await af_json(it, "nodes"))["nodes"][0]["node_id"] == "voice-support"
            process.send_signal(signal.SIGINT)
            await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert not (it.home / "current.json").exists()


async def _get(url: str) -> bytes:
    import aiohttp

    async with aiohttp.ClientSession(trust_env=False) as http, http.get(url) as response:
        return await response.read()


async def test_dev_ends_with_its_agent(tmp_path: Path) -> None:
    """An agent that ends by itself ends `af dev` with 1 and its exit code."""
    (tmp_path / "main.py").write_text("raise SystemExit(7)\n")
    code, _, err = await af(Installation("", tmp_path / "home"), "dev", str(tmp_path), "--port", "0")
    assert code == 1
    assert "The agent ended by itself with exit code 7." in err
    assert "code: agent_ended" in err


async def test_run_waits_for_a_control_plane_and_stops_at_a_signal(tmp_path: Path) -> None:
    """`af run` also runs a file without app.run(), reports that it waits, and ends cleanly at SIGTERM."""
    source = (EXAMPLES / "voice_support" / "agent.py").read_text().replace("app.run()", "")
    (tmp_path / "agent.py").write_text(source)
    process = await asyncio.create_subprocess_exec(
        AF,
        "run",
        str(tmp_path / "agent.py"),
        "--url",
        "http://127.0.0.1:9",
        env={**os.environ, "AGENTFIELD_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        line = await process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert b"waits for a control plane at http://127.0.0.1:9" in line
    assert process.returncode == 0
