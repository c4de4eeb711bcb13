"""Commands of plugins: listed without an import, used like built-in ones; a broken one fails only when used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = {
    "zz-greet": (
        "greet",
        (
            "import typer\napp = typer.Typer()\n@app.command()\ndef greet(name: str):\n"
            "    '''Greet somebody.'''\n    typer.echo(f'Hello {name}')\n"
        ),
    ),
    "zz-refuse": (
        "refuse",
        (
            "import typer\nfrom agentfield.errors import InvalidInput\napp = typer.Typer()\n@app.command()\ndef refuse():\n"
            "    raise InvalidInput('not today.', code='not_today', hint='tomorrow')\n"
        ),
    ),
    "zz-broken": ("broken", "raise SystemExit('gone')"),
    "zz-wrong": ("wrong", "app = print"),
    "zz-one": ("twice", "raise RuntimeError"),
    "zz-two": ("twice", "raise RuntimeError"),
    "zz-demo": ("demo", "raise RuntimeError('ours is not replaced')"),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the path with a distribution per command."""
    path = tmp_path_factory.mktemp("site")
    for dist, (command, source) in COMMANDS.items():
        module = dist.replace("-", "_")
        info = path / f"{module}-2.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 2.0\n")
        (info / "entry_points.txt").write_text(f"[agentfield.commands]\n{command} = {module}:app\n")
        (path / f"{module}.py").write_text(source)
    return path


def af(site: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `af` with these distributions installed, and print which of their modules were imported."""
    script = (
        "import json, sys\nfrom agentfield_cli.main import run\ncode = run(sys.argv[1:])\n"
        "print('\\n' + json.dumps(sorted(name for name in sys.modules if name.startswith('zz_'))))\nsys.exit(code)"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *args],
        env={**os.environ, "PYTHONPATH": str(site), "NO_COLOR": "1", "COLUMNS": "100", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def imported(done: subprocess.CompletedProcess[str]) -> list[str]:
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_overview_lists_them_without_importing_them(site: Path) -> None:
    """`af --help` lists each with its distribution in a separate panel; built-in commands keep their names."""
    done = af(site, "--help")
    assert done.returncode == 0
    theirs = done.stdout.partition("Commands of plugins")[2]
    for name, label in {"greet": "zz-greet 2.0", "broken": "zz-broken 2.0", "twice": "zz-one 2.0, zz-two 2.0"}.items():
        assert any(f" {name} " in line and f"From {label}." in line for line in theirs.splitlines())
    assert "demo" not in theirs
    assert imported(done) == []


def test_a_plugin_command_works_like_a_built_in_one(site: Path) -> None:
    """Arguments, help and typed errors of a plugin command work; only its own module is imported."""
    done = af(site, "greet", "Ann")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "Hello Ann")
    assert imported(done) == ["zz_greet"]
    assert "Greet somebody." in af(site, "greet", "--help").stdout
    refused = af(site, "refuse")
    assert (refused.returncode, refused.stderr) == (2, "error: not today.\nhint: tomorrow\ncode: not_today\n")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "broken",
            (
                "error: the command 'broken' of zz-broken 2.0 does not load: SystemExit: gone\n"
                "hint: reinstall or uninstall zz-broken\ncode: command_broken\n"
            ),
        ),
        (
            "wrong",
            (
                "error: the command 'wrong' of zz-wrong 2.0 is builtin_function_or_method, not typer.Typer.\n"
                "hint: reinstall or uninstall zz-wrong\ncode: command_broken\n"
            ),
        ),
        (
            "twice",
            (
                "error: the command 'twice' is provided by 2 plugins: zz-one 2.0, zz-two 2.0. AgentField will not choose for you.\n"
                "hint: uninstall one, or set AGENTFIELD_DISABLE_PLUGINS=zz-one or AGENTFIELD_DISABLE_PLUGINS=zz-two\n"
                "code: ambiguous_command\n"
            ),
        ),
        ("greeet", "error: No such command 'greeet'. Did you mean 'greet'?\nhint: af --help\ncode: usage\n"),
    ],
)
def test_a_broken_command_fails_when_it_is_used(site: Path, command: str, said: str) -> None:
    """A command that does not load, is not a typer app, or is ambiguous is a typed error when used."""
    done = af(site, command)
    assert (done.returncode, done.stderr) == (2, said)


def test_commands_are_switched_off_with_their_plugins(site: Path) -> None:
    """Disabling a plugin disables its commands; built-in ones remain."""
    one = af(site, "--help", AGENTFIELD_DISABLE_PLUGINS="zz-greet,ZZ_One").stdout
    assert "From zz-greet" not in one
    assert "From zz-two 2.0." in one
    none = af(site, "--help", AGENTFIELD_NO_PLUGIN_AUTOLOAD="1").stdout
    assert "Commands of plugins" not in none
    assert " session " in none
