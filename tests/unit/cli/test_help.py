"""Help of `af` and of every command: complete, with examples, and without heavy imports."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from agentfield_cli import main
from agentfield_cli.command_table import COMMANDS

runner = CliRunner()

ALL_COMMANDS = [
    ("demo",),
    ("dev",),
    ("server",),
    ("run",),
    ("session",),
    ("session", "start"),
    ("session", "list"),
    ("session", "show"),
    ("session", "workflows"),
    ("session", "call"),
    ("session", "end"),
    ("session", "export"),
    ("session", "redact"),
    ("execute",),
    ("nodes",),
    ("nodes", "drain"),
    ("adapters",),
    ("plugins",),
    ("plugins", "check"),
    ("doctor",),
    ("init",),
    ("init", "plugin"),
    ("store",),
    ("verify",),
    ("local",),
]
HEAVY = {"aiohttp", "aiortc", "av", "pydantic", "cryptography", "apsw", "asyncio", "numpy", "websockets", "structlog"}
PARSER = {"pydantic", "asyncio"}
"""What typer imports by itself to read options."""


def test_the_overview_names_every_command_and_the_exit_codes():
    """`af --help` lists every command and explains the exit codes."""
    text = " ".join(runner.invoke(main.app, ["--help"]).output.split())
    for name in COMMANDS:
        assert f" {name} " in text
    assert "0 done, 1 failed, 2 bad usage or refused, 3 control plane out of reach, 130 interrupted" in text
    assert runner.invoke(main.app, []).output == runner.invoke(main.app, ["--help"]).output


@pytest.mark.parametrize("command", ALL_COMMANDS, ids=" ".join)
def test_every_command_shows_examples(command):
    """The help of a command has examples that begin with the command."""
    result = runner.invoke(main.app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert f"af {' '.join(command)}" in result.output


@pytest.mark.parametrize(
    "command", [*ALL_COMMANDS, *(("nodes", each) for each in ("dids", "admit", "revoke", "forget"))], ids=" ".join
)
def test_help_can_be_copied(command):
    """No part of an example is shown as an emoji: typer renders `:key:`, as in the DIDs `did:key:…`, as one."""
    output = runner.invoke(main.app, [*command, "--help"]).output
    assert max(output) < "\N{MAHJONG TILE EAST WIND}"  # the first of the pictures


def test_the_overview_uses_the_summaries_of_the_commands():
    """The summary of a command in the overview equals the first line of its own help."""
    for name, line in COMMANDS.items():
        own = " ".join(runner.invoke(main.app, [name, "--help"]).output.split())
        assert line in own


@pytest.mark.parametrize("command", [["--help"], ["--version"]], ids=" ".join)
def test_the_overview_imports_nothing_heavy(command):
    """The overview imports no network, media, crypto, model or store library, not even asyncio."""
    assert not HEAVY & modules_after(command)


@pytest.mark.parametrize("command", ALL_COMMANDS, ids=" ".join)
def test_the_help_of_a_command_imports_nothing_heavy(command):
    """The help of a command imports no heavy library except those that typer needs to parse options."""
    assert not (HEAVY - PARSER) & modules_after([*command, "--help"])


def modules_after(command) -> set[str]:
    script = f"import sys, json\nfrom agentfield_cli.main import run\nrun({list(command)!r})\nprint('\\n' + json.dumps(list(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return set(json.loads(output.splitlines()[-1]))


def test_the_overview_imports_no_command():
    """The overview imports no command module."""
    assert not [name for name in modules_after(["--help"]) if name.startswith("agentfield_cli.commands")]


def test_the_version(capsys):
    """`af --version` prints the version of the distribution."""
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == "af 0.1.0\n"
