"""`docs/plugins.md` shows each refusal of the registry word for word."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, get_args

import pytest

from agentfield.entry_points import InstalledEntryPoint
from agentfield.errors import AgentFieldError
from agentfield.plugins import Capabilities, Manifest, PairSpec, ProviderSpec, Registry, install
from agentfield.plugins.manifest.needs_parser import parse_need
from agentfield.plugins.registry.records import PluginRecord, PluginState
from agentfield.plugins.registry.session_checks import needs_of, refused_sessions
from agentfield.realtime.config import Limits, SemanticVad, ServerVad, SessionDeclaration
from agentfield.wire.frames import Hello
from agentfield.wire.node_declarations import InstalledPair
from agentfield_cli.diagnostics.inspection import inspect_plugin
from agentfield_cli.plugin_commands import PluginCommand
from support.paths import ROOT

PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")

CAN = Capabilities(
    say="best_effort",
    floors=frozenset({"handler", "model"}),
    turn_detection=frozenset({"server_vad"}),
    modalities=frozenset({"audio", "text"}),
    tools="async",
    caller_transcript="final",
    limits=frozenset({"duration", "idle"}),
    formats=frozenset({"pcm16/24000"}),
)
DECLARED: dict[str, Any] = {"name": "voice", "provider": "openai", "transport": "websocket", "floor": "handler"}


@pytest.fixture(autouse=True)
def from_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make install hints those of a pip installation, wherever the tests run."""
    monkeypatch.setattr(install, "install_origin", install.InstallOrigin)


def pair(provider: str, transport: str, **changes: Any) -> PairSpec:
    media = "direct" if transport == "webrtc" else "bridged"
    can = dataclasses.replace(CAN, client_leg="watched" if media == "direct" else "none")
    spec = PairSpec(provider=provider, transport=transport, factory="m:f", media=media, capabilities=can)  # type: ignore[arg-type]
    return dataclasses.replace(spec, **changes)


def record(dist: str, *pairs: PairSpec, state: PluginState = "ok", reason: str = "", **parts: Any) -> PluginRecord:
    names = dict.fromkeys(spec.provider for spec in pairs)
    infos = parts.pop("providers", tuple(ProviderSpec(name=name, title=name) for name in names))
    manifest = Manifest(api=(2, 0), providers=infos, pairs=pairs, **parts) if state == "ok" else None
    return PluginRecord(
        name=dist.removeprefix("agentfield-"),
        distribution=dist,
        version="0.1.0",
        state=state,
        reason=reason,
        manifest=manifest,
    )


OPENAI = record("agentfield-openai", pair("openai", "webrtc"), pair("openai", "websocket"))
ACME = record("agentfield-acme", pair("openai", "websocket"), providers=())


def resolve(*records: PluginRecord, asked: str = "openai/websocket", **declared: Any) -> Callable[[], object]:
    provider, _, transport = asked.partition("/")
    needs = needs_of(SessionDeclaration(**{**DECLARED, **declared})) if declared else ()
    return lambda: Registry(records).resolve(provider, transport, needs)


def register() -> None:
    hello = Hello(
        node_id="desk",
        instance_id="node_1",
        did="",
        signature="",
        sessions=(SessionDeclaration(**DECLARED),),
        pairs=(InstalledPair(pair="openai/websocket", distribution="agentfield-openai 0.1.0"),),
    )
    raise refused_sessions(Registry([record("agentfield-acme", pair("acme", "websocket"))]), hello)["voice"]


def contributed(*dists: str) -> Callable[[], object]:
    entries = [
        InstalledEntryPoint(name="report", distribution=dist, version="0.1.0", value="no_such_module:app")
        for dist in dists
    ]
    return PluginCommand("report", entries)._load


SCENES: list[Callable[[], object]] = [
    resolve(OPENAI, asked="opnai/webrtc"),
    resolve(OPENAI, asked="openai/webrct"),
    resolve(OPENAI, asked="local/webrtc"),
    resolve(
        record("agentfield-openai", pair("openai", "webrtc", requires=("no_such_module",), extra="x")),
        asked="openai/webrtc",
    ),
    resolve(record("agentfield-openai", state="disabled", reason="named in AGENTFIELD_DISABLE_PLUGINS")),
    resolve(record("agentfield-openai", state="broken", reason="did not finish loading within 10 s")),
    resolve(record("agentfield-openai", state="incompatible", reason="it was made for plugin API 3.0, this is 2.2")),
    resolve(OPENAI, ACME),
    resolve(
        record(
            "agentfield-openai",
            pair("openai", "webrtc"),
            pair("openai", "websocket", capabilities=dataclasses.replace(CAN, tools="none")),
        ),
        tools=("desk.look_up",),
    ),
    register,
    lambda: Registry([OPENAI], prefer={"openai/websocket": "agentfield-opnai"}),
    lambda: Registry([OPENAI, record("acme-voice", state="broken", reason="SystemExit: 3")])._refuse_bad_plugins(),
    lambda: parse_need("sey=exact"),
    lambda: parse_need("say=exat"),
    lambda: inspect_plugin("agentfield-opnai"),
    contributed("acme-reports"),
    contributed("acme-reports", "other-reports"),
]
"""Refusals in the order of the page."""


def said(scene: Callable[[], object]) -> str:
    with pytest.raises(AgentFieldError) as caught:
        scene()
    hint = f"\nhint: {caught.value.hint}" if caught.value.hint else ""
    return f"error: {caught.value.message}{hint}\ncode: {caught.value.code}\n"


def test_the_page_shows_each_refusal_as_printed() -> None:
    """The page has all refusals of this test, in order, as `af` prints them."""
    shown = re.findall(r"^```text\n(error: .*?\n)```$", PAGE, re.DOTALL | re.MULTILINE)
    made = [said(scene) for scene in SCENES]
    assert shown == made, "\n".join(f"```text\n{text}```\n" for text in made)


ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    'floor="model"': ("floors", {"floor": "model"}),
    'modalities=["text"]': ("modalities", {"modalities": ("text",)}),
    'tools=["desk.look_up"]': ("tools", {"tools": ("desk.look_up",)}),
    'say="exact"': ("say", {"say": "exact"}),
    'say="best_effort"': ("say", {"say": "best_effort"}),
    'greeting="Hello."': ("say", {"greeting": "Hello."}),
    'greeting=Say("Hello.", interruptible=False)': (
        "uninterruptible",
        {"greeting": {"text": "Hello.", "interruptible": False}},
    ),
    "turn_detection=ServerVad()": ("turn_detection", {"turn_detection": ServerVad()}),
    "turn_detection=SemanticVad()": ("turn_detection", {"turn_detection": SemanticVad()}),
    "turn_detection=None": ("turn_detection", {"turn_detection": None}),
    'transcription="whisper-2"': ("caller_transcript", {"transcription": "whisper-2"}),
    'transcription="whisper-3"': ("transcription", {"transcription": "whisper-3"}),
    "a handler that answers": ("caller_transcript", {"floor": "handler"}),
    "interrupt_after_ms=300": ("interruption", {"interrupt_after_ms": 300}),
    "interrupt_after_ms=500": ("delays_interruption", {"interrupt_after_ms": 500}),
    "Limits(duration=7200)": ("max_duration", {"limits": Limits(duration=7200)}),
    "Limits(turns=9)": ("limits", {"limits": Limits(turns=9)}),
    "Limits(tool_calls=9)": ("limits", {"limits": Limits(tool_calls=9)}),
    "Limits(cost=1.5)": ("limits", {"limits": Limits(cost=1.5)}),
    'drift="terminate"': ("client_leg", {"drift": "terminate"}),
}
"""Fields of a declaration as written, with the capability that each needs."""


def test_the_page_shows_each_unmet_need_as_printed() -> None:
    """For each need of a declaration the page shows the refusal of a pair without capabilities."""
    nothing = Capabilities(client_leg="open", max_duration=600.0, transcription="own")
    made = []
    for written, (capability, declared) in ASKED.items():
        needs = needs_of(SessionDeclaration(**{**DECLARED, **declared}))
        need = [need for need in needs if need.capability == capability][-1]
        made.append(f"| `{written}` | {need.refusal(nothing)} |")
    table = PAGE.partition("| a session declares | refusal of a pair that lacks it |\n|---|---|\n")[2]
    shown = table.partition("\n\n")[0].splitlines()
    assert shown == made, "\n".join(made)


def test_the_table_has_each_capability_that_a_declaration_can_need() -> None:
    """No need is without a row."""
    every = SessionDeclaration(
        **{
            **DECLARED,
            "tools": ("a.b",),
            "modalities": ("text",),
            "say": "exact",
            "transcription": "any",
            "turn_detection": None,
            "interrupt_after_ms": 9,
            "greeting": {"text": "Hello.", "interruptible": False},
            "limits": Limits(turns=1, tool_calls=1, cost=1),
        }
    )
    assert {need.capability for need in needs_of(every)} == {capability for capability, _ in ASKED.values()}


def test_each_plugin_state_is_explained() -> None:
    """Each state of a plugin has a row."""
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.partition("## States")[2].partition("## ")[0], re.MULTILINE)
    assert rows == list(get_args(PluginState))
