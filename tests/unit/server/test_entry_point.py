"""`python -m agentfield_server` as a program: its help, its version, its address, and its refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import aiohttp
import pytest

from support.processes.programs import clean_environment, running_program
from support.waiting import until

SERVER = (sys.executable, "-m", "agentfield_server")


def run(*arguments: str, **env: str) -> tuple[int, str, str]:
    """Run the program to its end; return the exit code and both outputs."""
    done = subprocess.run(
        [*SERVER, *arguments], env=clean_environment(env), capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_help_and_version_only_print(tmp_path: Path) -> None:
    """`--help` describes the options and `--version` prints the version; neither starts a server."""
    code, printed, _ = run("--help", AGENTFIELD_HOME=str(tmp_path / "home"))
    assert code == 0
    assert all(
        option in printed for option in ("--host", "--port", "--data", "--json", "--version", "docs/settings.md")
    )
    assert run("--version") == (0, f"agentfield-server {version('agentfield-server')}\n", "")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("arguments", "env", "error"),
    [
        (
            (),
            {"AGENTFIELD_ALLOWED_ORIGINS": "app.example"},
            (
                "error: The setting allowed_origins is invalid: 'app.example' is no origin; one is a scheme and a host, without "
                "a path.\nhint: check AGENTFIELD_ALLOWED_ORIGINS; an example: "
                "AGENTFIELD_ALLOWED_ORIGINS=https://app.example.com,http://localhost:3000\ncode: bad_setting\n"
            ),
        ),
        (
            ("--port", "many"),
            {},
            (
                "error: The setting port is invalid: input should be a valid integer, unable to parse string as an integer.\n"
                "hint: check AGENTFIELD_PORT and --port\ncode: bad_setting\n"
            ),
        ),
        (
            (),
            {"AGENTFIELD_WEBHOOK_ALLOW": "10.0.0.0/99"},
            (
                "error: '10.0.0.0/99' is neither a host nor a network.\n"
                "hint: AGENTFIELD_WEBHOOK_ALLOW=10.0.0.0/8,hooks.internal\ncode: invalid_input\n"
            ),
        ),
        (
            ("--host", "127.1.2.3.4", "--port", "0"),
            {"AGENTFIELD_API_KEY": "operator-key-0123456789"},
            (
                "error: The control plane cannot listen on 127.1.2.3.4 port 0: no address has this name.\n"
                "hint: use --host 127.0.0.1, or another address of this machine\ncode: cannot_listen\n"
            ),
        ),
        (
            ("--data", "/dev/null/data"),
            {},
            (
                "error: The data folder /dev/null/data cannot be used: not a directory.\n"
                "hint: set AGENTFIELD_HOME, or --data, to a folder that can be written\ncode: bad_setting\n"
            ),
        ),
    ],
)
def test_invalid_settings_are_typed_errors(
    tmp_path: Path, arguments: tuple[str, ...], env: dict[str, str], error: str
) -> None:
    """A setting that cannot be used is one error with a hint and exit code 2, without a traceback."""
    assert run(*arguments, **{"AGENTFIELD_HOME": str(tmp_path), "AGENTFIELD_PORT": "0", **env}) == (2, "", error)


def test_an_unknown_option_is_a_usage_error() -> None:
    """An option that does not exist is refused with the usage."""
    code, printed, error = run("--prot", "1")
    assert (code, printed) == (2, "")
    assert "usage: python -m agentfield_server" in error


async def test_the_address_is_one_json_object(tmp_path: Path) -> None:
    """`--json` prints an object with the address, at which requests are served."""
    log = tmp_path / "plane.log"
    command = [*SERVER, "--host", "127.0.0.1", "--port", "0", "--data", str(tmp_path / "home"), "--json"]
    async with running_program(command, env={}, log=log):
        line = await until(lambda: next((x for x in log.read_text().splitlines() if x.startswith('{"url"')), None))
        announced = json.loads(line)
        assert announced["home"] == str(tmp_path / "home")
        async with aiohttp.ClientSession() as http, http.get(f"{announced['url']}/readyz") as answer:
            assert answer.status == 200
