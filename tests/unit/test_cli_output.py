"""What `af` prints when something is wrong, word for word, and how it exits."""

from __future__ import annotations

import json

import pytest

from agentfield.errors import (
    AgentFieldError,
    ControlPlaneUnavailable,
    ExecutionFailed,
    InvalidInput,
    NodeNotConnected,
    NotFound,
    PluginBroken,
    ProviderError,
    SessionEnded,
)
from agentfield_cli.main import run
from agentfield_cli.output import ExitCode, Output, exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput("no"), ExitCode.REFUSED),
        (NotFound("no"), ExitCode.REFUSED),
        (PluginBroken("no"), ExitCode.REFUSED),
        (SessionEnded("no"), ExitCode.REFUSED),
        (ProviderError("no"), ExitCode.FAILED),
        (ExecutionFailed("no"), ExitCode.FAILED),
        (NodeNotConnected("no"), ExitCode.FAILED),
        (AgentFieldError("no"), ExitCode.FAILED),
        (ControlPlaneUnavailable("no"), ExitCode.UNREACHABLE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(error, code):
    """What was refused exits with 2, what failed with 1, a control plane out of reach with 3."""
    assert exit_code(error) == code


@pytest.fixture
def nowhere(monkeypatch, tmp_path, unused_tcp_port):
    """No control plane: an empty home and a port on which nobody listens."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    url = f"http://127.0.0.1:{unused_tcp_port}"
    monkeypatch.setenv("AGENTFIELD_URL", url)
    return url


def test_no_control_plane(nowhere, capsys):
    """Without a control plane a command says where it looked and how to start one, and exits with 3."""
    assert run(["session", "list"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"error: The control plane at {nowhere} could not be reached: nothing answers there.\n"
        "hint: Start one with `af server`, or set AGENTFIELD_URL.\ncode: control_plane_unavailable\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        ["session", "start", "a.b"],
        ["session", "list"],
        ["session", "show", "ses_1"],
        ["session", "workflows", "ses_1"],
        ["session", "end", "ses_1"],
        ["execute", "a.b"],
        ["execute", "a.b", "--async"],
        ["nodes"],
        ["adapters", "--url", "http://127.0.0.1:1"],
    ],
    ids=" ".join,
)
def test_every_command_reports_an_absent_control_plane_as_a_problem_document(nowhere, capsys, command):
    """With --json the one object on standard output is the problem document."""
    assert run([*command, "--json"]) == 3
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out)["code"] == "control_plane_unavailable"


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["sesion"], "error: No such command 'sesion'. Did you mean 'session'?\nhint: af --help\ncode: usage\n"),
        (
            ["session", "strt"],
            "error: No such command 'strt'. Did you mean 'start'?\nhint: af session --help\ncode: usage\n",
        ),
        (["execute"], "error: Missing argument 'target'.\nhint: af execute --help\ncode: usage\n"),
        (["nodes", "--nope"], "error: No such option: --nope\nhint: af nodes --help\ncode: usage\n"),
        (
            ["execute", "a.b", "--input", "{"],
            (
                "error: --input is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1).\n"
                'hint: --input \'{"name": "value"}\'\ncode: invalid_input\n'
            ),
        ),
        (
            ["execute", "a.b", "--input", "[1]"],
            'error: --input is JSON, but no object.\nhint: --input \'{"name": "value"}\'\ncode: invalid_input\n',
        ),
        (
            ["session", "start", "a.b", "--metadata", "7"],
            'error: --metadata is JSON, but no object.\nhint: --metadata \'{"name": "value"}\'\ncode: invalid_input\n',
        ),
        (
            ["run", "no-such-file.py"],
            "error: no-such-file.py cannot be run: it does not exist.\nhint: af run agent.py\ncode: bad_agent_file\n",
        ),
        (
            ["dev", "no-such-folder", "--port", "0"],
            "error: no-such-folder is no folder.\nhint: af dev FOLDER\ncode: no_agent_file\n",
        ),
        (
            ["adapters", "--markdown", "--json"],
            None,
        ),
        (
            ["server", "--host", "0.0.0.0", "--port", "0"],
            (
                "error: The control plane was asked to listen on 0.0.0.0, where others can reach it, without a key.\n"
                "hint: set AGENTFIELD_API_KEY to a secret of at least 16 characters, or use --host 127.0.0.1\n"
                "code: key_required\n"
            ),
        ),
        (
            ["session", "list", "--url", "127.0.0.1:80"],
            (
                "error: the given address is '127.0.0.1:80', which is no http address.\n"
                "hint: Use one like http://127.0.0.1:8080.\ncode: invalid_input\n"
            ),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage(nowhere, capsys, monkeypatch, command, text):
    """What cannot be meant is refused with 2, what is wrong, what to type, and a code."""
    monkeypatch.delenv("AGENTFIELD_API_KEY", raising=False)
    assert run(command) == 2
    captured = capsys.readouterr()
    if text is None:
        assert json.loads(captured.out)["code"] == "invalid_input"
    else:
        assert captured.err == text


def test_a_setting_that_does_not_fit(nowhere, capsys, monkeypatch):
    """A setting of the environment that does not fit is named."""
    monkeypatch.setenv("AGENTFIELD_API_KEY", "short")
    assert run(["server", "--port", "0"]) == 2
    assert "The setting api_key does not fit" in capsys.readouterr().err


def test_an_agent_file_without_an_agent(nowhere, capsys, tmp_path):
    """A file that makes no Agent is refused."""
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert run(["run", str(tmp_path / "empty.py")]) == 2
    assert "makes no Agent" in capsys.readouterr().err


def test_usage_errors_are_problem_documents_too(capsys):
    """With --json bad usage is a problem document as well."""
    assert run(["execute", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "usage"


def test_piped_output_has_no_colours_and_is_not_folded(capsys):
    """Text that goes into a pipe is plain and keeps its lines, tables included."""
    out = Output()
    out.line("x" * 150, "bold red")
    out.table(("name", "value"), [("a", "y" * 120), ("b", None)], empty="nothing")
    out.table(("name",), [], empty="nothing")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["x" * 150, "name  value", "a     " + "y" * 120, "b     -", "nothing"]


def test_json_output_is_one_object(capsys):
    """With --json lines, tables and progress say nothing and the result is the only thing printed."""
    out = Output(as_json=True)
    out.line("no")
    out.note("no")
    out.table(("name",), [("a",)], empty="")
    with out.progress("no") as tell:
        tell("no")
    out.result({"über": (1, None)})
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out == '{\n  "über": [\n    1,\n    null\n  ]\n}\n'


def test_progress_is_told_on_standard_error(capsys):
    """What takes time is announced on standard error, so that standard output can be piped."""
    with Output().progress("loading") as tell:
        tell("loading: words")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "loading …\nloading: words …\n"
