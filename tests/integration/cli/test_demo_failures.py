"""A demo that cannot continue reports the reason and leaves nothing running."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agentfield.errors import AgentFieldError
from agentfield_cli.demo import speech
from agentfield_cli.main import run

AF = str(Path(sys.executable).with_name("af"))


def pretender(folder: Path, program: str) -> str:
    """Return a program that replaces the Python that would start the speech server."""
    fake = folder / "python"
    fake.write_text(f"#!{sys.executable}\n{program}\n")
    fake.chmod(0o755)
    return str(fake)


@pytest.fixture(autouse=True)
def nothing_of_ours(monkeypatch, tmp_path):
    """Hide the developer's settings from the demo."""
    for name in ("AGENTFIELD_URL", "AGENTFIELD_LOCAL_URL", "AGENTFIELD_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path / "home"))


def test_an_invalid_recording_is_refused(capsys, tmp_path):
    """A file that is not audio is refused before anything is started."""
    (tmp_path / "no.wav").write_text("no")
    assert run(["demo", "--once", "--json", "--audio", str(tmp_path / "no.wav")]) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "bad_recording"


def test_a_port_in_use_is_refused(tmp_path):
    """A port in use is refused; the error names a free port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [AF, "demo", "--once", "--json", "--port", str(port), "--data", str(tmp_path / "data")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    problem = json.loads(ended.stdout)
    assert (ended.returncode, problem["code"]) == (2, "port_in_use")
    assert f"Port {port} on 127.0.0.1 is in use" in problem["detail"]
    assert "--port 0" in problem["hint"]


@pytest.mark.parametrize(
    ("program", "code", "message"),
    [
        (
            'print(\'{"code": "speech_unavailable", "detail": "no engines here", "hint": "uv sync", "status": 503}\')',
            "speech_unavailable",
            "no engines here",
        ),
        (
            "import sys; sys.stderr.write('it broke\\n'); sys.exit(1)",
            "speech_not_ready",
            "was not ready in time: it broke",
        ),
        ("pass", "speech_not_ready", "no output"),
        ("print('hello')", "speech_not_ready", "was not ready in time"),
    ],
)
async def test_a_speech_server_that_fails_to_start_is_reported(monkeypatch, tmp_path, program, code, message):
    """The demo reports the start error of the speech server."""
    monkeypatch.setattr(speech.sys, "executable", pretender(tmp_path, program))
    with pytest.raises(AgentFieldError, match=message) as caught:
        async with speech.speech_server(tmp_path, lambda _what: None):
            pass
    assert caught.value.code == code


async def test_loading_is_reported(monkeypatch, tmp_path):
    """Each engine is named when its loading begins; address and key come from the state file."""
    state = tmp_path / "adapters" / "local" / "server.json"
    # a server runs on after its ready line: this one sleeps until it is stopped
    program = (
        "import json, sys, time\n"
        "for done in (0, 100): sys.stderr.write(f'INFO agentfield_local: load voice activity {done} %\\n')\n"
        f"open({str(state)!r}, 'w').write(json.dumps({{'url': 'http://127.0.0.1:9', 'token': 't'}}))\n"
        'sys.stderr.flush(); print(\'{"url": "http://127.0.0.1:9"}\', flush=True); time.sleep(60)\n'
    )
    monkeypatch.setattr(speech.sys, "executable", pretender(tmp_path, program))
    told: list[str] = []
    async with speech.speech_server(tmp_path, told.append) as server:
        assert (server.url, server.token) == ("http://127.0.0.1:9", "t")
    assert told == ["load voice activity"]


async def test_a_running_server_is_used(monkeypatch, tmp_path):
    """With AGENTFIELD_LOCAL_URL no server is started."""
    monkeypatch.setenv("AGENTFIELD_LOCAL_URL", "http://127.0.0.1:9/v1")
    async with speech.speech_server(tmp_path, lambda _what: None) as server:
        assert server.url == "http://127.0.0.1:9"
