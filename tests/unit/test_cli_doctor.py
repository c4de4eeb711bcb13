"""`af doctor`: what is in order, what is not, and what it never shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentfield_cli import doctor as doctor_module
from agentfield_cli.doctor import Check, examine
from agentfield_cli.main import run

CANARY = "sk-canary-h29Vq"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own, and no control plane."""
    folder = tmp_path / "home"
    monkeypatch.setenv("AGENTFIELD_HOME", str(folder))
    monkeypatch.setenv("AGENTFIELD_URL", "http://127.0.0.1:1")
    for name in ("OPENAI_API_KEY", "OPENROUTER_API_KEY", "AGENTFIELD_LOCAL_KEY"):
        monkeypatch.delenv(name, raising=False)
    return folder


def of(name: str, checks: list[Check]) -> list[tuple[str, str, str]]:
    return [(check.state, check.text, check.hint) for check in checks if check.name == name]


def test_an_installation_that_is_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is a problem in a checkout without a control plane; the JSON has the same checks as the text."""
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "ok       package: `import agentfield` is agentfield-core's" in text
    assert "ok       plugin: agentfield-openai 0.1.0: openai/webrtc, openai/websocket" in text
    assert "warning  control plane: The control plane at http://127.0.0.1:1 could not be reached" in text
    assert run(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert all(f"{check['state']:8} {check['name']}: {check['text']}" in text for check in report["checks"])


def test_settings_are_named_and_their_values_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key that is set is said to be set; a variable that nothing reads is taken for misspelt."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("AGENTFIELD_PREFIR", CANARY)
    checks = examine()
    settings = of("settings", checks)
    assert settings[0][1] == "set (values are not shown): AGENTFIELD_HOME, AGENTFIELD_URL, OPENAI_API_KEY"
    assert settings[1] == (
        "warning",
        "nothing reads AGENTFIELD_PREFIR. Did you mean 'AGENTFIELD_PREFER'?",
        "unset AGENTFIELD_PREFIR",
    )
    assert [text for _, text, _ in settings[2:]] == [
        "OpenRouter needs a key where the control plane runs, and here OPENROUTER_API_KEY is not set"
    ]
    run(["doctor"])
    run(["doctor", "--json"])
    assert CANARY not in capsys.readouterr().out


def test_keys_that_others_can_read_are_a_problem(alone: Path) -> None:
    """The data folder and the keys of nodes are for nobody else; what is loose is named with the command."""
    assert of("data", examine()) == [("ok", f"{alone} is made when it is needed", "")]
    (alone / "nodes").mkdir(parents=True, mode=0o700)
    alone.chmod(0o700)
    key = alone / "nodes" / "desk.pem"
    key.touch(mode=0o600)
    assert of("data", examine()) == [("ok", f"{alone}, for nobody else to read", "")]
    key.chmod(0o644)
    alone.chmod(0o755)
    assert of("data", examine()) == [
        ("warning", f"{alone} can be read by others (mode 755)", f"chmod 700 {alone}"),
        ("problem", f"{key} can be read by others (mode 644)", f"chmod 600 {key}"),
    ]


def test_versions_that_differ_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distributions of ours with different versions are named, each with its own."""
    monkeypatch.setattr(doctor_module, "version", lambda dist: "0.2.0" if dist == "agentfield-cli" else "0.1.0")
    ((state, text, _),) = of("distributions", examine())
    assert state == "problem"
    assert text.startswith("the versions differ, and must not: agentfield-cli 0.2.0, agentfield-core 0.1.0, ")


def test_plugins_that_are_not_ok(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A broken plugin is a problem with the command that looks closer, a disabled one is a warning; preferences are checked."""
    site = tmp_path / "site"
    info = site / "zz_bad-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zz-bad\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[agentfield.plugins]\nbad = zz_bad_gone\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("AGENTFIELD_DISABLE_PLUGINS", "local")
    monkeypatch.setenv("AGENTFIELD_PLUGINS_STRICT", "1")
    plugins = of("plugin", examine())
    assert (
        "problem",
        "zz-bad 1.0 is broken: its module zz_bad_gone is not there, only its metadata: reinstall or uninstall zz-bad",
        "af plugins check zz-bad",
    ) in plugins
    assert ("warning", "agentfield-local 0.1.0 is disabled: named in AGENTFIELD_DISABLE_PLUGINS", "") in plugins
    assert run(["doctor"]) == 1
    monkeypatch.setenv("AGENTFIELD_PREFER", "openai/webrtc=agentfield-acme")
    ((state, text, hint),) = of("plugins", examine())
    assert (state, hint) == ("problem", "unset AGENTFIELD_PREFER")
    assert "no plugin of that distribution is installed" in text
