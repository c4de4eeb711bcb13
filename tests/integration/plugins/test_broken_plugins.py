"""Broken plugins beside working ones: `af` keeps working and reports the reason for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

AF = str(Path(sys.executable).with_name("af"))

GOOD = """
from agentfield.plugins import Capabilities, Manifest, PairSpec, ProviderSpec, hookimpl

@hookimpl
def agentfield_manifest():
    return Manifest(
        api=(2, 0),
        providers=(ProviderSpec(name="{name}", title="{name}"),),
        pairs=(PairSpec(provider="{name}", transport="{transport}", factory="json:dumps", media="{media}",
                        capabilities=Capabilities({can})),),
    )
"""


def good(name: str, *, transport: str = "websocket", media: str = "bridged", can: str = "") -> str:
    return GOOD.format(name=name, transport=transport, media=media, can=can)


CLAIM = good("openai").replace('providers=(ProviderSpec(name="openai", title="openai"),),', "")

SOURCES: dict[str, str | None] = {
    "acme": good("acme"),
    "zeta": good("zeta", transport="webrtc", media="direct", can="client_leg='watched'"),
    "claims": CLAIM,
    "raises": "raise RuntimeError('boom\\n  in two lines')",
    "exits": "import sys\nsys.exit('goodbye')",
    "interrupts": "raise KeyboardInterrupt",
    "hangs": "import threading\nthreading.Event().wait()",
    "stuck": good("stuck").replace("    return", "    import threading\n    threading.Event().wait()\n    return"),
    "stale": None,
    "needs": "import no_such_library_at_all",
    "future": good("future").replace("api=(2, 0)", "api=(3, 0)"),
    "liar": good("liar").replace("api=(2, 0),", "api=(2, 0), holograms=(),"),
    "boast": "AGENTFIELD_API = 'newest'\n" + good("boast"),
    "mute": "",
    "dict": "from agentfield.plugins import hookimpl\n@hookimpl\ndef agentfield_manifest(): return {}",
    "typo": good("typo", transport="websockets"),
    "level": good("level", can="say='sometimes'"),
    "unsaid": good("unsaid", transport="webrtc", media="direct"),
    "strange": good("strange").replace("json:dumps", "json.dumps"),
}
"""Modules of the plugins; None for one whose files are missing."""

STATES = {
    "acme": ("ok", ""),
    "zeta": ("ok", ""),
    "claims": ("ok", ""),
    "fork": ("invalid", "its module is that of zz-acme too: uninstall one of the two"),
    "damaged": ("broken", "its metadata cannot be read (MetadataNotFound): reinstall or uninstall zz-damaged"),
    "off": ("disabled", "named in AGENTFIELD_DISABLE_PLUGINS"),
    "raises": ("broken", "RuntimeError: boom in two lines"),
    "exits": ("broken", "SystemExit: goodbye"),
    "interrupts": ("broken", "KeyboardInterrupt"),
    "hangs": ("broken", "did not finish loading within 10 s"),
    "stuck": ("broken", "did not finish loading within 10 s"),
    "stale": ("broken", "its module zz_stale is not there, only its metadata: reinstall or uninstall zz-stale"),
    "needs": ("broken", "ModuleNotFoundError: No module named 'no_such_library_at_all'"),
    "future": ("incompatible", "it was made for plugin API 3.0, this is 2.2"),
    "liar": ("broken", "TypeError: Manifest.__init__() got an unexpected keyword argument 'holograms'"),
    "boast": ("invalid", "its API version is 'newest', not a pair of whole numbers such as (2, 2)"),
    "mute": ("invalid", "it has no function agentfield_manifest marked with @hookimpl"),
    "dict": ("invalid", "agentfield_manifest returned dict, not Manifest"),
    "typo": (
        "invalid",
        "typo/websockets: nothing installed declares transport 'websockets'. Did you mean 'websocket'?",
    ),
    "level": (
        "invalid",
        "manifest.pairs[0].capabilities.say is 'sometimes', not one of 'exact', 'best_effort', 'none'",
    ),
    "unsaid": (
        "invalid",
        (
            "unsaid/webrtc: its media is direct, so declare what the caller's own connection to the provider can change,"
            " such as client_leg='watched'"
        ),
    ),
    "strange": ("invalid", "strange/websocket: 'json.dumps' is not of the form 'module:attribute'"),
}
"""Expected state and reason of each plugin."""

USABLE = {
    "acme/websocket",
    "zeta/webrtc",
    *("local/audio_turns", "local/webrtc", "local/websocket", "openai/webrtc", "openrouter/audio_turns"),
}


@dataclass(frozen=True)
class Ran:
    """Result of a command."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """Run the commands concurrently, with all test distributions on the path."""
    path = tmp_path_factory.mktemp("site")
    for name, source in SOURCES.items():
        _distribution(path, name, f"{name} = zz_{name}")
        if source is not None:
            (path / f"zz_{name}.py").write_text(source)
    _distribution(path, "fork", "fork = zz_acme")
    _distribution(path, "damaged", "damaged = zz_damaged")
    (path / "zz_damaged-0.1.dist-info" / "METADATA").unlink()
    _distribution(path, "off", "off = zz_off")
    env = {k: v for k, v in os.environ.items() if not k.startswith("AGENTFIELD_")} | {
        "PYTHONPATH": str(path),
        "AGENTFIELD_DISABLE_PLUGINS": "zz_off",
    }
    commands: dict[str, tuple[list[str], dict[str, str]]] = {
        "adapters": (["adapters", "--json"], {}),
        "plugins": (["plugins", "--json"], {}),
        "table": (["adapters"], {}),
        "strict": (["adapters"], {"AGENTFIELD_PLUGINS_STRICT": "1"}),
        "strict plugins": (["plugins", "--json"], {"AGENTFIELD_PLUGINS_STRICT": "1"}),
        "preferred": (["adapters", "--json"], {"AGENTFIELD_PREFER": "openai/websocket=zz-claims"}),
        "absent": (["adapters"], {"AGENTFIELD_PREFER": "openai/websocket=zz-claim"}),
        "none": (["adapters", "--json"], {"AGENTFIELD_NO_PLUGIN_AUTOLOAD": "1"}),
    }
    running = {
        name: subprocess.Popen([AF, *args], env=env | more, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for name, (args, more) in commands.items()
    }
    found = {}
    for name, process in running.items():
        out, err = process.communicate(timeout=100)
        found[name] = Ran(process.returncode, out, err)
    return found


def _distribution(path: Path, name: str, entry: str) -> None:
    info = path / f"zz_{name}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: zz-{name}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[agentfield.plugins]\n{entry}\n")


def test_each_plugin_has_its_state_and_reason(ran: dict[str, Ran]) -> None:
    """`af plugins` shows state and reason of each plugin, also in strict mode, and fails."""
    for name in ("plugins", "strict plugins"):
        rows = json.loads(ran[name].out)["plugins"]
        found = {
            row["distribution"].removeprefix("zz-"): (row["state"], row["reason"])
            for row in rows
            if row["distribution"].startswith("zz-")
        }
        assert found == STATES
        ours = {row["distribution"]: row["state"] for row in rows if not row["distribution"].startswith("zz-")}
        assert ours == dict.fromkeys(("agentfield-local", "agentfield-openai", "agentfield-openrouter"), "ok")
        assert (ran[name].code, ran[name].err) == (1, "")


def test_good_plugins_work(ran: dict[str, Ran]) -> None:
    """`af adapters` lists usable pairs; a pair of two plugins is ambiguous until one is preferred."""
    rows = json.loads(ran["adapters"].out)["adapters"]
    assert {f"{r['provider']}/{r['transport']}" for r in rows if r["installed"]} == USABLE
    claims = [row for row in rows if (row["provider"], row["transport"]) == ("openai", "websocket")]
    assert [(row["distribution"], row["state"]) for row in claims] == [
        ("agentfield-openai", "ambiguous_adapter"),
        ("zz-claims", "ambiguous_adapter"),
    ]
    assert claims[0]["hint"] == (
        "uninstall one, or set AGENTFIELD_PREFER='openai/websocket=agentfield-openai' or"
        " AGENTFIELD_PREFER='openai/websocket=zz-claims'"
    )
    typo = next(row for row in rows if row["provider"] == "typo")
    assert (typo["installed"], typo["state"]) == (False, "plugin_broken")
    chosen = json.loads(ran["preferred"].out)["adapters"]
    assert [r["distribution"] for r in chosen if (r["provider"], r["transport"]) == ("openai", "websocket")] == [
        "zz-claims"
    ]
    assert {ran[name].code for name in ("adapters", "preferred", "table")} == {0}


def test_the_table_mentions_unusable_plugins(ran: dict[str, Ran]) -> None:
    """The table is followed by one line that names the unusable plugins."""
    assert "acme/websocket" in ran["table"].out
    assert ran["table"].err.startswith("not usable: zz-boast 0.1, zz-damaged, zz-dict 0.1, ")
    assert ran["table"].err.endswith("; see af plugins\n")


def test_strict_mode_refuses_with_every_reason(ran: dict[str, Ran]) -> None:
    """With AGENTFIELD_PLUGINS_STRICT the command fails with all reasons and lists nothing."""
    assert (ran["strict"].code, ran["strict"].out) == (2, "")
    assert "AGENTFIELD_PLUGINS_STRICT is set and not every plugin is ok" in ran["strict"].err
    assert ran["strict"].err.endswith("code: plugins_not_ok\n")
    for name, (state, reason) in STATES.items():
        if state not in ("ok", "disabled"):
            version = "" if name == "damaged" else " 0.1"
            assert f"zz-{name}{version}: {state}: {reason}" in ran["strict"].err


def test_an_unknown_preference_is_refused_with_a_suggestion(ran: dict[str, Ran]) -> None:
    """An unknown distribution in AGENTFIELD_PREFER is an error with a suggestion."""
    assert ran["absent"].code == 2
    assert "no plugin of that distribution is installed. Did you mean 'zz-claims'?" in ran["absent"].err


def test_no_plugin_is_loaded_without_autoloading(ran: dict[str, Ran]) -> None:
    """With AGENTFIELD_NO_PLUGIN_AUTOLOAD no pair works, and each first-party pair names the variable."""
    rows = json.loads(ran["none"].out)["adapters"]
    assert ran["none"].code == 0
    assert {row["state"] for row in rows} == {"plugin_disabled"}
    assert {row["hint"] for row in rows} == {"unset AGENTFIELD_NO_PLUGIN_AUTOLOAD"}
