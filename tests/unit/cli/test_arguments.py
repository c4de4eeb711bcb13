"""Arguments that are not UTF-8: every command refuses them with a typed error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentfield_cli.main import run

WRONG = "caf\udcff"


@pytest.mark.parametrize(
    "command",
    [
        ["session", "start", WRONG],
        ["session", "start", "a.b", "--caller", WRONG],
        ["session", "start", "a.b", "--metadata", f'{{"name": "{WRONG}"}}'],
        ["execute", WRONG],
        ["session", "end", WRONG],
        ["nodes", "drain", WRONG],
        ["server", "--port", "0", "--data", WRONG],
    ],
    ids=lambda command: "-".join(command).encode("ascii", "replace").decode(),
)
def test_no_command_ends_with_a_traceback(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error says which argument it is, or that no control plane answers; never a traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTFIELD_URL", "http://127.0.0.1:1")
    assert run([*command, "--json"]) in (2, 3)
    assert json.loads(capsys.readouterr().out)["code"] in (
        "unrepresentable",
        "invalid_input",
        "control_plane_unavailable",
    )
    assert run(command) in (2, 3)


def test_an_argument_that_cannot_be_encoded_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one place that all commands pass names the argument, wherever the encoding failed."""

    def start(self: Any, *_: Any, **__: Any) -> None:
        WRONG.encode()

    monkeypatch.setattr("agentfield.client.ControlPlaneClient.start_session", start)
    assert run(["session", "start", "a.b", "--voice", WRONG]) == 2
    assert capsys.readouterr().err == (
        "error: The argument caf\\udcff is not UTF-8.\n"
        "hint: give it in whole Unicode characters\n"
        "code: unrepresentable\n"
    )
    with pytest.raises(UnicodeEncodeError):  # a failure of another kind is not blamed on the arguments
        run(["session", "start", "a.b"])
