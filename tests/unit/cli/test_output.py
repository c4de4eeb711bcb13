"""Output of `af`: error texts word for word, exit codes, tables, JSON and progress."""

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
from agentfield.wire.rest import DagView, ExecutionView
from agentfield_cli.main import run
from agentfield_cli.terminal.output import ExitCode, Output, exit_code, report_error
from agentfield_cli.terminal.tree import workflow_tree


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
    """A refusal exits with 2, a failure with 1, an unreachable control plane with 3."""
    assert exit_code(error) == code


RAW = "d\x1b[31mRED\x07\x9b\r\u202etxt\u2066\x7f\udcff end"
SEEN = r"d\x1b[31mRED\x07\x9b\r\u202etxt\u2066\x7f\udcff end"


def test_control_characters_are_shown_escaped(capsys):
    """Lines, tables, trees, notes, progress and errors show text of nodes and callers without executing it."""
    out = Output()
    out.line(RAW, "bold")
    out.table(("name",), [(RAW,)], empty="none")
    execution = {
        "id": "exe_1",
        "kind": "call",
        "target": "a.b",
        "status": "failed",
        "run_id": "run_1",
        "created_at": 1.0,
    }
    failed = ExecutionView.model_validate({**execution, "problem": {"detail": RAW}})
    out.show(workflow_tree(DagView(run_id="run_1", executions=(failed,))))
    out.note(RAW)
    with out.progress(RAW) as change:
        change(RAW)
    report_error(InvalidInput(RAW, hint=RAW, code=RAW), as_json=False)
    printed = "".join(capsys.readouterr())
    assert printed.count(SEEN) == 8
    # rich itself leaves out some control characters of a label
    assert r"d\x1b[31mRED\x9b" in printed
    assert not set(printed) & set(RAW) - set(SEEN)


def test_json_output_keeps_control_characters(capsys):
    """JSON escapes them in its own way, so its values are unchanged."""
    Output(as_json=True).result({"text": "d\x1b[31mRED\x07\u202e"})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"text": "d\x1b[31mRED\x07\u202e"}
    assert printed.replace("\n", "").isprintable()


def test_line_breaks_and_tabs_are_kept(capsys):
    """Text of several lines stays so."""
    Output().line("a\n\tb é 日本")
    assert capsys.readouterr().out.split() == ["a", "b", "é", "日本"]


@pytest.fixture
def nowhere(monkeypatch, tmp_path, unused_tcp_port):
    """No control plane: an empty home, and a port without a listener."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    url = f"http://127.0.0.1:{unused_tcp_port}"
    monkeypatch.setenv("AGENTFIELD_URL", url)
    return url


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (["execute", "shop.echo", "--timeout", "inf"], "timeout"),
        (["execute", "shop.echo", "--timeout", "86401"], "timeout"),
        (["execute", "shop.echo", "--async", "--delay", "1e300"], "delay"),
        (["execute", "shop.echo", "--async", "--delay", "inf"], "delay"),
        (["webhooks", "add", "https://\udcff", "--event", "x"], "url"),
        (["approvals", "approve", "apr_1", "--note", "n" * 100_000], "note"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_a_request_that_cannot_be_built_is_refused_by_field(nowhere, capsys, command, field):
    """An option out of range is a typed error that names the field, with exit code 2."""
    assert run([*command, "--json"]) == 2
    problem = json.loads(capsys.readouterr().out)
    assert (problem["code"], problem["field"]) == ("invalid_input", field)


def test_a_name_that_is_not_utf8_is_refused(nowhere, capsys):
    """An argument with bytes that are not UTF-8 is a typed error."""
    assert run(["execute", "sh\udcffop.echo"]) == 2
    assert capsys.readouterr().err == (
        "error: sh\\udcffop.echo cannot be asked for: it is not UTF-8.\n"
        "hint: give the name in whole Unicode characters\ncode: unrepresentable\n"
    )


def test_a_syntax_error_of_an_agent_file_shows_the_users_part(nowhere, capsys, tmp_path):
    """The file, the line and the message are shown, no frame of `af`, and the exit code is 1."""
    file = tmp_path / "bad.py"
    file.write_text("x = 1\ndef (:\n")
    assert run(["run", str(file)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f'  File "{file}", line 2\n    def (:\n')
    assert err.endswith(
        "\nSyntaxError: invalid syntax\n"
        f"error: {file} cannot be run: SyntaxError: invalid syntax (bad.py, line 2).\n"
        f"hint: python {file}\ncode: agent_file_failed\n"
    )
    assert "agentfield_cli" not in err


def test_an_exception_of_an_agent_file_shows_the_users_frames(nowhere, capsys, tmp_path):
    """The traceback begins in the file; with --json the problem is the only output on standard output."""
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    raise ValueError('no')\nf()\n")
    assert run(["run", str(file), "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["code"] == "agent_file_failed"
    assert captured.err.startswith(f'Traceback (most recent call last):\n  File "{file}", line 3, in <module>\n')
    assert captured.err.endswith("ValueError: no\n")


def test_an_absent_control_plane_is_explained(nowhere, capsys):
    """Without a control plane a command names the address and the command to start one, and exits with 3."""
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
    """With --json the problem document is the only object on standard output."""
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
            'error: --input is JSON, but not an object.\nhint: --input \'{"name": "value"}\'\ncode: invalid_input\n',
        ),
        (
            ["session", "start", "a.b", "--metadata", "7"],
            'error: --metadata is JSON, but not an object.\nhint: --metadata \'{"name": "value"}\'\ncode: invalid_input\n',
        ),
        (
            ["run", "no-such-file.py"],
            "error: no-such-file.py cannot be run: it does not exist.\nhint: af run agent.py\ncode: bad_agent_file\n",
        ),
        (
            ["dev", "no-such-folder", "--port", "0"],
            "error: no-such-folder is not a folder.\nhint: af dev FOLDER\ncode: no_agent_file\n",
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
                "error: the given address is '127.0.0.1:80', which is not an http address.\n"
                "hint: Use one like http://127.0.0.1:8080.\ncode: invalid_input\n"
            ),
        ),
        (
            ["nodes", "--url", "http://[::1"],
            (
                "error: the given address is 'http://[::1', which is not an http address: its host is malformed.\n"
                "hint: Use one like http://127.0.0.1:8080.\ncode: invalid_input\n"
            ),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_are_explained(nowhere, capsys, monkeypatch, command, text):
    """Invalid usage exits with 2 and prints the error, a hint and a code."""
    monkeypatch.delenv("AGENTFIELD_API_KEY", raising=False)
    assert run(command) == 2
    captured = capsys.readouterr()
    if text is None:
        assert json.loads(captured.out)["code"] == "invalid_input"
    else:
        assert captured.err == text


def test_an_invalid_setting_is_named(nowhere, capsys, monkeypatch):
    """An invalid setting of the environment is named."""
    monkeypatch.setenv("AGENTFIELD_API_KEY", "short")
    assert run(["server", "--port", "0"]) == 2
    assert "The setting api_key is invalid" in capsys.readouterr().err


def test_an_agent_file_without_an_agent_is_refused(nowhere, capsys, tmp_path):
    """A file that creates no Agent is refused."""
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert run(["run", str(tmp_path / "empty.py")]) == 2
    assert "creates no Agent" in capsys.readouterr().err


def test_usage_errors_are_problem_documents_too(capsys):
    """With --json a usage error is a problem document as well."""
    assert run(["execute", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "usage"


def test_piped_output_has_no_colours_and_is_not_folded(capsys):
    """Text in a pipe has no colours and is not folded, tables included."""
    out = Output()
    out.line("x" * 150, "bold red")
    out.table(("name", "value"), [("a", "y" * 120), ("b", None)], empty="nothing")
    out.table(("name",), [], empty="nothing")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["x" * 150, "name  value", "a     " + "y" * 120, "b     -", "nothing"]


def test_json_output_is_one_object(capsys):
    """With --json only the result is printed; lines, tables and progress print nothing."""
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


def test_progress_goes_to_standard_error(capsys):
    """Progress is printed on standard error, so that standard output can be piped."""
    with Output().progress("loading") as tell:
        tell("loading: words")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "loading …\nloading: words …\n"
