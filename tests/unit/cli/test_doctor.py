"""`af doctor`: its findings, and the values that it never prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentfield_cli.diagnostics import doctor as doctor_module
from agentfield_cli.diagnostics.doctor import Check, run_checks
from agentfield_cli.main import run

CANARY = "sk-canary-h29Vq"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder for the test, and no control plane."""
    folder = tmp_path / "home"
    monkeypatch.setenv("AGENTFIELD_HOME", str(folder))
    monkeypatch.setenv("AGENTFIELD_URL", "http://127.0.0.1:1")
    for name in ("OPENAI_API_KEY", "OPENROUTER_API_KEY", "AGENTFIELD_LOCAL_KEY"):
        monkeypatch.delenv(name, raising=False)
    return folder


def of(name: str, checks: list[Check]) -> list[tuple[str, str, str]]:
    return [(check.state, check.text, check.hint) for check in checks if check.name == name]


def test_a_sound_installation_has_no_problem(capsys: pytest.CaptureFixture[str]) -> None:
    """A checkout without a control plane has no problem; the JSON holds the same checks as the text."""
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "ok       package: `import agentfield` is agentfield-core's" in text
    assert "ok       plugin: agentfield-openai 0.1.0: openai/webrtc, openai/websocket" in text
    assert "warning  control plane: The control plane at http://127.0.0.1:1 could not be reached" in text
    assert run(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert all(f"{check['state']:8} {check['name']}: {check['text']}" in text for check in report["checks"])


def test_settings_are_named_without_their_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A set key is listed without its value; an unknown variable is reported as a misspelling."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("AGENTFIELD_PREFIR", CANARY)
    checks = run_checks()
    settings = of("settings", checks)
    assert settings[0][1] == "set (values are not shown): AGENTFIELD_HOME, AGENTFIELD_URL, OPENAI_API_KEY"
    assert settings[1] == (
        "warning",
        "no setting is named AGENTFIELD_PREFIR. Did you mean 'AGENTFIELD_PREFER'?",
        "unset AGENTFIELD_PREFIR",
    )
    assert [text for _, text, _ in settings[2:]] == [
        "OpenRouter needs a key where the control plane runs; OPENROUTER_API_KEY is not set here"
    ]
    run(["doctor"])
    run(["doctor", "--json"])
    assert CANARY not in capsys.readouterr().out


def test_readable_keys_are_a_problem(alone: Path) -> None:
    """A data folder or node key that other users can read is reported with the command that fixes it."""
    assert of("data", run_checks()) == [("ok", f"{alone} will be created on first use", "")]
    (alone / "nodes").mkdir(parents=True, mode=0o700)
    alone.chmod(0o700)
    key = alone / "nodes" / "shop.pem"
    key.touch(mode=0o600)
    assert of("data", run_checks()) == [("ok", f"{alone}, readable by you only", "")]
    key.chmod(0o644)
    alone.chmod(0o755)
    assert of("data", run_checks()) == [
        ("warning", f"{alone} is readable by other users (mode 755)", f"chmod 700 {alone}"),
        ("problem", f"{key} is readable by other users (mode 644)", f"chmod 600 {key}"),
    ]


def test_the_event_loop_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The finding says which event loop is used, and how to use the fast one."""
    ((state, text, _),) = of("event loop", run_checks())
    assert state == "ok"
    assert text.startswith("asyncio's own; AGENTFIELD_EVENT_LOOP=fast uses ")
    monkeypatch.setenv("AGENTFIELD_EVENT_LOOP", "fast")
    ((state, text, _),) = of("event loop", run_checks())
    assert state == "ok"
    assert text.startswith(("uvloop ", "winloop "))
    monkeypatch.setenv("AGENTFIELD_EVENT_LOOP", "quick")
    ((state, text, hint),) = of("event loop", run_checks())
    assert (state, text) == ("problem", "AGENTFIELD_EVENT_LOOP is 'quick'; it is asyncio or fast.")
    assert hint == "AGENTFIELD_EVENT_LOOP=fast, or unset AGENTFIELD_EVENT_LOOP"


def test_versions_that_differ_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Different versions of our distributions are a problem that lists each version."""
    monkeypatch.setattr(doctor_module, "version", lambda dist: "0.2.0" if dist == "agentfield-cli" else "0.1.0")
    ((state, text, _),) = of("distributions", run_checks())
    assert state == "problem"
    assert text.startswith("the versions differ but must be equal: agentfield-cli 0.2.0, agentfield-core 0.1.0, ")


def test_broken_and_disabled_plugins_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A broken plugin is a problem with a hint, a disabled one a warning; an unknown preference is a problem."""
    site = tmp_path / "site"
    info = site / "zz_bad-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zz-bad\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[agentfield.plugins]\nbad = zz_bad_gone\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("AGENTFIELD_DISABLE_PLUGINS", "local")
    monkeypatch.setenv("AGENTFIELD_PLUGINS_STRICT", "1")
    plugins = of("plugin", run_checks())
    assert (
        "problem",
        "zz-bad 1.0 is broken: its module zz_bad_gone is not there, only its metadata: reinstall or uninstall zz-bad",
        "af plugins check zz-bad",
    ) in plugins
    assert ("warning", "agentfield-local 0.1.0 is disabled: named in AGENTFIELD_DISABLE_PLUGINS", "") in plugins
    assert run(["doctor"]) == 1
    monkeypatch.setenv("AGENTFIELD_PREFER", "openai/webrtc=agentfield-acme")
    ((state, text, hint),) = of("plugins", run_checks())
    assert (state, hint) == ("problem", "unset AGENTFIELD_PREFER")
    assert "no plugin of that distribution is installed" in text
