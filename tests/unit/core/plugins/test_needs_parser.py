"""The parser of needs, REST views of plugins, and `af plugins check`."""

from __future__ import annotations

import dataclasses
import sys
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from agentfield.errors import InvalidInput, NotFound
from agentfield.plugins import (
    Capabilities,
    Manifest,
    PairSpec,
    ProviderSpec,
    Registry,
    TransportSpec,
    hookimpl,
    install,
)
from agentfield.plugins.manifest.needs_parser import parse_capabilities, parse_need
from agentfield.plugins.registry.matrix import capabilities_json
from agentfield.plugins.registry.views import adapter_views, plugin_views
from agentfield_cli.commands.plugins import app
from agentfield_cli.diagnostics.inspection import inspect_plugin

CAN = Capabilities(
    say="best_effort",
    turn_detection=frozenset({"server_vad", "manual"}),
    text_input=True,
    max_duration=600.0,
    formats=frozenset({"pcm16/24000"}),
)


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("say=best_effort", True),
        ("say=exact", False),
        ("say=exact,best_effort", True),
        ("turn_detection=manual", True),
        ("turn_detection=manual,server_vad", True),
        ("turn_detection=manual,semantic_vad", False),
        ("text_input=yes", True),
        ("dtmf=yes", False),
        ("dtmf=no", True),
        ("max_duration=600", True),
        ("max_duration=601", False),
        ("formats=pcm16/24000", True),
        ("formats=pcmu/8000", False),
    ],
)
def test_a_need_is_met_or_not(text: str, met: bool) -> None:
    """One of several values suffices, except for sets, which must contain all of them."""
    assert parse_need(text).met_by(CAN) is met
    assert parse_need(text).met_by(parse_capabilities(capabilities_json(CAN) | {"field_of_tomorrow": 1})) is met


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "sey=exact",
            "--needs sey=exact: there is no capability 'sey'. Did you mean 'say'? There are: say, uninterruptible, floors, ",
        ),
        ("say", "--needs say: what must say be? It may be: 'exact' or 'best_effort' or 'none'."),
        ("say=", "--needs say=: what must say be? It may be: 'exact' or 'best_effort' or 'none'."),
        (
            "say=exat",
            "--needs say=exat: say is never 'exat'; it is 'exact' or 'best_effort' or 'none'. Did you mean 'exact'?",
        ),
        ("dtmf=true", "--needs dtmf=true: dtmf is never 'true'; it is 'yes' or 'no'."),
        ("limits=coast", "--needs limits=coast: limits is never 'coast'; it is 'duration' or 'idle' or"),
        ("max_duration=long", "--needs max_duration=long: max_duration is never 'long'; it is a number of seconds."),
    ],
)
def test_an_invalid_need_is_refused(text: str, says: str) -> None:
    """The error lists the valid fields or values, with a suggestion."""
    with pytest.raises(InvalidInput) as caught:
        parse_need(text)
    assert caught.value.message.startswith(says)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("--needs FIELD=VALUE")


def plugin(name: str, **brings: Any) -> ModuleType:
    """A module with a manifest."""
    module = ModuleType(name)
    module.agentfield_manifest = hookimpl(lambda: Manifest(api=(2, 0), **brings))  # type: ignore[attr-defined]
    return module


TONES = plugin(
    "tones",
    providers=(ProviderSpec(name="tones", title="Tones"),),
    pairs=(
        PairSpec(
            provider="tones",
            transport="websocket",
            factory="json:dumps",
            media="bridged",
            capabilities=dataclasses.replace(CAN, dtmf=True),
        ),
    ),
)
LINE = plugin(
    "line",
    transports=(
        TransportSpec(
            name="line",
            client="server",
            media="bridged",
            summary="a wire",
            factory="json:loads",
            formats=frozenset({"pcmu/8000"}),
        ),
    ),
)
WRONG = plugin(
    "wrong",
    pairs=(PairSpec(provider="nobody", transport="line", factory="a:b", media="bridged", capabilities=Capabilities()),),
)


def test_a_derived_pair_names_both_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its view names both distributions, and each plugin lists the pair."""
    monkeypatch.setattr(install, "install_origin", install.InstallOrigin)
    registry = Registry.of([TONES, LINE, WRONG])
    rows = {f"{view.provider}/{view.transport}": view for view in adapter_views(registry)}
    met = rows["tones/line"]
    assert (met.distribution, met.transport_distribution) == ("tones", "line")
    assert (met.bridged_from, met.state, met.installed) == ("tones/websocket", "ok", True)
    assert (rows["tones/websocket"].transport_distribution, rows["tones/websocket"].bridged_from) == ("", None)
    wrong = rows["nobody/line"]
    assert (wrong.installed, wrong.state, wrong.distribution) == (False, "plugin_broken", "wrong")
    assert "nothing installed declares provider 'nobody'" in wrong.reason
    ours = rows["openai/webrtc"]
    assert (ours.state, ours.hint) == ("adapter_not_installed", "pip install agentfield-openai")
    assert [(view.name, view.state, view.pairs, view.transports) for view in plugin_views(registry)] == [
        ("tones", "ok", ("tones/line", "tones/websocket"), ()),
        ("line", "ok", ("tones/line",), ("line",)),
        ("wrong", "invalid", ("nobody/line",), ()),
    ]


SHODDY = """
import asyncio, aiohttp
from agentfield.plugins import Capabilities, Manifest, PairSpec, ProviderSpec, TransportSpec, hookimpl

def pair(transport, **more):
    return PairSpec(**{"provider": "shoddy", "transport": transport, "factory": "zz_shoddy_parts:make", "media": "bridged",
                       "capabilities": Capabilities()} | more)

@hookimpl
def agentfield_manifest():
    return Manifest(
        api=(2, 0),
        providers=(ProviderSpec(name="shoddy", title="Shoddy"),),
        transports=(TransportSpec(name="pipe", client="server", media="bridged", summary="a pipe",
                                  factory="zz_shoddy_parts:nothing", formats=frozenset({"pcm16/16000"})),),
        pairs=(pair("websocket", options="zz_shoddy_parts:Loose"),
               pair("pipe", factory="zz_no_such_module:make"),
               pair("audio_turns", media="turns", requires=("zz_no_such_module",), options="zz_shoddy_parts:make")),
    )
"""
PARTS = """
from pydantic import BaseModel
def make(runtime): ...
class Loose(BaseModel): ...
"""


def test_each_problem_of_a_plugin_is_listed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invalid references, options that accept unknown names and gaps of the manifest are problems; heavy imports are warnings."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    info = tmp_path / "zz_shoddy-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zz-shoddy\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[agentfield.plugins]\nshoddy = zz_shoddy\n[agentfield.peers]\npipe = a:b\n")
    (tmp_path / "zz_shoddy.py").write_text(SHODDY)
    (tmp_path / "zz_shoddy_parts.py").write_text(PARTS)
    try:
        found = inspect_plugin("ZZ_Shoddy")
    finally:
        for name in ("zz_shoddy", "zz_shoddy_parts"):
            sys.modules.pop(name, None)
    assert (found.distribution, found.version) == ("zz-shoddy", "0.1")
    gaps = [problem for problem in found.problems if "zz_" not in problem]
    assert "shoddy/websocket: floors is empty: no turn could be answered" in gaps
    assert "transport pipe: it has no routes, so no caller could connect" in gaps
    assert (
        "provider shoddy: key_required is set, and key_setting names no setting: name it, or set key_required=False"
        in gaps
    )
    assert [problem.partition(" Installed pairs")[0] for problem in found.problems if problem not in gaps] == [
        "shoddy/websocket: options zz_shoddy_parts:Loose accepts unknown options: set extra='forbid'",
        (
            "shoddy/pipe: factory zz_no_such_module:make could not be imported: ModuleNotFoundError: No module named"
            " 'zz_no_such_module'"
        ),
        "shoddy/audio_turns (zz-shoddy 0.1) needs modules that are not installed: zz_no_such_module.",
        (
            "transport pipe: factory zz_shoddy_parts:nothing could not be imported: AttributeError: module"
            " 'zz_shoddy_parts' has no attribute 'nothing'"
        ),
    ]
    (heavy, *peers) = found.warnings
    assert heavy.startswith("the manifest zz_shoddy imports ")
    assert {"aiohttp", "asyncio"} <= set(heavy.partition(": ")[0].replace(",", "").split())
    assert heavy.endswith("this slows down every af command; import them in the factory")
    assert [warning.partition(" has no peer")[0] for warning in peers] == [
        "shoddy/websocket",
        "shoddy/pipe",
        "shoddy/audio_turns",
    ]


def test_an_unknown_plugin_is_refused_with_a_suggestion() -> None:
    """`af plugins check` of an unknown distribution lists the installed ones."""
    with pytest.raises(NotFound, match=r"Did you mean 'agentfield-openai'\? Installed: agentfield-local, ") as caught:
        inspect_plugin("agentfield-opnai")
    assert caught.value.code == "unknown_plugin"


WATCHING = """
from agentfield.plugins import Manifest, hookimpl

@hookimpl
def agentfield_manifest():
    return Manifest(api=(2, 2), settings=("WATCHING_FOLDER",))

@hookimpl
async def agentfield_session_ended(event): ...
"""


def test_hooks_and_settings_of_a_plugin_are_listed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin without pairs shows its hooks; each plugin shows the environment variables that it reads."""
    monkeypatch.syspath_prepend(str(tmp_path))
    info = tmp_path / "zz_watching-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zz-watching\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[agentfield.plugins]\nwatching = zz_watching\n")
    (tmp_path / "zz_watching.py").write_text(WATCHING)
    try:
        done = CliRunner().invoke(app, ["check", "zz-watching"])
    finally:
        sys.modules.pop("zz_watching", None)
    assert done.output.splitlines()[:3] == [
        "zz-watching 0.1: no pairs",
        "hooks: agentfield_session_ended",
        "settings: WATCHING_FOLDER",
    ]
    assert inspect_plugin("agentfield-openai").settings == ["OPENAI_API_KEY", "OPENAI_BASE_URL"]


def test_first_party_plugins_have_no_problem() -> None:
    """All references of the first-party manifests import, and the manifests are light."""
    for name in ("agentfield-local", "agentfield-openai", "agentfield-openrouter"):
        found = inspect_plugin(name)
        assert found.problems == []
        assert [warning for warning in found.warnings if "peer" not in warning] == []
        assert found.pairs
