"""Errors of the registry word for word: the request, the reason, what is available, and the command."""

from __future__ import annotations

import dataclasses

import pytest

from agentfield.errors import AgentFieldError
from agentfield.plugins import install
from agentfield.plugins.manifest.spec import Capabilities, Manifest, Need, PairSpec, ProviderSpec, TransportSpec
from agentfield.plugins.registry import refusals
from agentfield.plugins.registry.records import PluginRecord
from agentfield.plugins.registry.registry import Registry
from agentfield.plugins.registry.session_checks import needs_of
from agentfield.realtime.config import SessionDeclaration

FULL = Capabilities(
    say="best_effort",
    floors=frozenset({"handler", "model"}),
    turn_detection=frozenset({"server_vad"}),
    modalities=frozenset({"audio", "text"}),
    tools="async",
    caller_transcript="final",
    limits=frozenset({"duration", "idle"}),
)


def pair(provider: str, transport: str, **changes) -> PairSpec:
    media = {"webrtc": "direct", "audio_turns": "turns"}.get(transport, "bridged")
    spec = PairSpec(provider=provider, transport=transport, factory="m:f", media=media, capabilities=FULL)
    return dataclasses.replace(spec, **changes)


def record(dist: str, *pairs: PairSpec, state="ok", reason="", version="0.3.0", manifest=True, **parts) -> PluginRecord:
    providers = parts.pop(
        "providers", tuple(ProviderSpec(name=n, title=n) for n in dict.fromkeys(p.provider for p in pairs))
    )
    brought = Manifest(api=(2, 0), providers=providers, pairs=pairs, **parts)
    name = dist.removeprefix("agentfield-")
    return PluginRecord(
        name=name,
        distribution=dist,
        version=version,
        state=state,
        reason=reason,
        manifest=brought if manifest else None,
    )


OPENAI = record("agentfield-openai", pair("openai", "webrtc"), pair("openai", "websocket"))
SIP = TransportSpec(name="sip", client="server", media="bridged", summary="a telephone")


@pytest.fixture(autouse=True)
def from_an_index(monkeypatch):
    """Make install hints those of a pip installation, wherever the tests run."""
    monkeypatch.setattr(install, "install_origin", install.InstallOrigin)


def refusal(registry: Registry, provider: str, transport: str, needs=()) -> str:
    with pytest.raises(AgentFieldError) as caught:
        registry.resolve(provider, transport, needs)
    error = caught.value
    assert error.data["installed"] == sorted({spec.name for spec, _ in registry.pairs()})
    assert error.to_problem()["status"] == 422
    return f"[{error.code}] {error}"


def test_a_pair_of_two_plugins_is_ambiguous():
    """The hint names each candidate; first-party plugins have no advantage."""
    acme = record("agentfield-acme", pair("openai", "websocket"), providers=())
    assert refusal(Registry([OPENAI, acme]), "openai", "websocket") == (
        "[ambiguous_adapter] openai/websocket is claimed by 2 plugins: agentfield-acme 0.3.0, agentfield-openai 0.3.0."
        " AgentField will not choose for you.\n  hint: uninstall one, or set"
        " AGENTFIELD_PREFER='openai/websocket=agentfield-acme' or AGENTFIELD_PREFER='openai/websocket=agentfield-openai'"
    )


def test_an_undeclared_transport_is_refused():
    """The error lists the transports of the provider."""
    assert refusal(Registry([OPENAI]), "openai", "audio_turns") == (
        "[unsupported_pair] openai/audio_turns is not a declared pair. openai is available over: webrtc, websocket."
        " AgentField does not switch transports silently.\n  hint: af adapters"
    )


def test_a_misspelt_transport_gets_a_suggestion():
    """The error suggests the similar transport."""
    assert refusal(Registry([OPENAI]), "openai", "websockets") == (
        "[unsupported_pair] openai/websockets is not a declared pair. openai is available over: webrtc, websocket."
        " Did you mean 'websocket'? AgentField does not switch transports silently.\n  hint: af adapters"
    )


def test_an_absent_first_party_pair_has_an_install_command():
    """The hint installs the distribution of the pair."""
    assert refusal(Registry([OPENAI]), "local", "webrtc") == (
        "[adapter_not_installed] local/webrtc needs a plugin that is not installed: agentfield-local."
        " Installed pairs: openai/webrtc, openai/websocket.\n  hint: pip install agentfield-local"
    )


def test_an_absent_first_party_provider_lists_its_transports():
    """The error lists the transports that the distribution would add."""
    assert refusal(Registry([OPENAI]), "local", "telephone") == (
        "[unsupported_pair] local/telephone is not a declared pair. local is available over:"
        " audio_turns (agentfield-local, not installed), webrtc (agentfield-local, not installed),"
        " websocket (agentfield-local, not installed). AgentField does not switch transports silently."
        "\n  hint: af adapters"
    )


def test_without_plugins_the_hint_installs_one():
    """With agentfield-core alone a first-party pair has an install command."""
    assert refusal(Registry(), "openai", "webrtc") == (
        "[adapter_not_installed] openai/webrtc needs a plugin that is not installed: agentfield-openai."
        " Installed pairs: none.\n  hint: pip install agentfield-openai"
    )


def test_a_broken_plugin_is_reported_as_broken():
    """A plugin that does not load is called broken, with the reason."""
    broken = record(
        "agentfield-local", state="broken", reason="ModuleNotFoundError: No module named 'x'", manifest=False
    )
    assert refusal(Registry([OPENAI, broken]), "local", "webrtc") == (
        "[plugin_broken] local/webrtc: agentfield-local 0.3.0 is installed but broken:"
        " ModuleNotFoundError: No module named 'x'. Installed pairs: openai/webrtc, openai/websocket."
        "\n  hint: pip install --force-reinstall agentfield-local"
    )


def test_an_invalid_third_party_plugin_has_no_install_command():
    """The plugin is named, but its name never becomes part of a command."""
    acme = record("acme-voice", pair("acme", "websockets"))
    assert refusal(Registry([OPENAI, acme]), "acme", "websockets") == (
        "[plugin_broken] acme/websockets: acme-voice 0.3.0 is installed but invalid: acme/websockets:"
        " nothing installed declares transport 'websockets'. Did you mean 'websocket'?"
        " Installed pairs: openai/webrtc, openai/websocket.\n  hint: repair or uninstall acme-voice"
    )


def test_an_incompatible_plugin_is_reported():
    """A plugin for another plugin API is called incompatible."""
    old = record(
        "agentfield-local",
        state="incompatible",
        reason="it was made for plugin API 3.0, this is 2.0",
        manifest=False,
    )
    assert refusal(Registry([OPENAI, old]), "local", "webrtc") == (
        "[plugin_incompatible] local/webrtc: agentfield-local 0.3.0 is installed but incompatible:"
        " it was made for plugin API 3.0, this is 2.0. Installed pairs: openai/webrtc, openai/websocket."
        "\n  hint: pip install --force-reinstall agentfield-local"
    )


def test_a_disabled_plugin_names_the_variable():
    """The hint names the environment variable to unset."""
    off = record("agentfield-local", state="disabled", reason="named in AGENTFIELD_DISABLE_PLUGINS", manifest=False)
    assert refusal(Registry([OPENAI, off]), "local", "webrtc") == (
        "[plugin_disabled] local/webrtc: agentfield-local 0.3.0 is installed but switched off: named in"
        " AGENTFIELD_DISABLE_PLUGINS. Installed pairs: openai/webrtc, openai/websocket."
        "\n  hint: unset AGENTFIELD_DISABLE_PLUGINS"
    )


def test_an_unmet_need_lists_the_pairs_that_meet_it():
    """The error names the need, its cause, and the installed pairs that meet it."""
    sip = pair("openai", "sip", capabilities=dataclasses.replace(FULL, tools="none", limits=frozenset({"duration"})))
    acme = record("agentfield-acme", sip, transports=(SIP,), providers=())
    needs = (
        Need("tools", frozenset({"sync", "async"}), "tools=[...]"),
        Need("limits", frozenset({"duration", "idle"}), "Limits(duration=..., idle=...)"),
    )
    assert refusal(Registry([OPENAI, acme]), "openai", "sip", needs) == (
        "[capability_missing] openai/sip (agentfield-acme 0.3.0) cannot run this session: tools is none, not async or"
        " sync (for tools=[...]); limits has duration, not idle (for Limits(duration=..., idle=...))."
        " Installed pairs that can: openai/webrtc, openai/websocket."
        "\n  hint: declare another pair, or leave out Limits(duration=..., idle=...), tools=[...]"
    )


def test_a_limit_longer_than_the_providers_session_is_refused():
    """A duration above the provider's maximum is refused, not shortened."""
    short = record(
        "agentfield-acme", pair("acme", "webrtc", capabilities=dataclasses.replace(FULL, max_duration=600.0))
    )
    needs = (Need("max_duration", frozenset({1800.0}), "Limits(duration=1800)"),)
    assert refusal(Registry([short]), "acme", "webrtc", needs) == (
        "[capability_missing] acme/webrtc (agentfield-acme 0.3.0) cannot run this session: max_duration is 600.0, not"
        " 1800.0 (for Limits(duration=1800)). No other installed pair can."
        "\n  hint: declare another pair, or leave out Limits(duration=1800)"
    )


def test_a_provider_that_interrupts_by_itself_must_be_able_to_wait():
    """`interrupt_after_ms` is refused where the provider stops its speech itself and does not wait; other pairs take it."""
    asked = SessionDeclaration(
        name="v", provider="acme", transport="websocket", floor="handler", interrupt_after_ms=300, drift="allow"
    )
    server, patient, client = (
        pair("acme", "websocket", capabilities=dataclasses.replace(FULL, **can))
        for can in (
            {"interruption": "server"},
            {"interruption": "server", "delays_interruption": True},
            {"interruption": "client"},
        )
    )
    assert refusal(Registry([record("acme", server)]), "acme", "websocket", needs_of(asked)) == (
        "[capability_missing] acme/websocket (acme 0.3.0) cannot run this session: delays_interruption is False, not True (for "
        "interrupt_after_ms=300). No other installed pair can.\n"
        "  hint: declare another pair, or leave out interrupt_after_ms=300"
    )
    for able in (patient, client):
        assert Registry([record("acme", able)]).resolve("acme", "websocket", needs_of(asked)) == able


def test_a_misspelt_provider_gets_a_suggestion():
    """The error also lists the plugins that did not load."""
    broken = record("acme-voice", state="broken", reason="SystemExit: 3", manifest=False)
    assert refusal(Registry([OPENAI, broken]), "opnai", "webrtc") == (
        "[unsupported_pair] opnai/webrtc: no installed plugin declares provider 'opnai'. Did you mean 'openai'?"
        " Installed pairs: openai/webrtc, openai/websocket."
        " Installed but not usable: acme-voice 0.3.0 (broken: SystemExit: 3).\n  hint: af adapters"
    )


def test_an_unknown_provider_has_no_install_command():
    """A user's input never becomes part of a command."""
    assert "install " not in refusal(Registry([OPENAI]), "evil-pkg", "webrtc")


def test_missing_modules_of_an_extra_are_named():
    """The hint installs the extra; the modules are checked without importing them."""
    needy = pair("openai", "webrtc", requires=("no_such_module_at_all", "json"), extra="webrtc")
    assert refusal(Registry([record("agentfield-openai", needy)]), "openai", "webrtc") == (
        "[adapter_extra_missing] openai/webrtc (agentfield-openai 0.3.0) needs modules that are not installed:"
        " no_such_module_at_all. Installed pairs: openai/webrtc.\n  hint: pip install 'agentfield-openai[webrtc]'"
    )


def test_conflicting_providers_are_refused():
    """A provider that two plugins declare differently is refused, so that no plugin can redirect its calls."""
    other = (ProviderSpec(name="openai", title="Elsewhere", default_url="https://elsewhere.example"),)
    acme = record("agentfield-acme", pair("openai", "sip"), transports=(SIP,), providers=other)
    with pytest.raises(AgentFieldError) as caught:
        Registry([OPENAI, acme]).resolve("openai", "webrtc")
    assert str(caught.value) == (
        "provider 'openai' is declared differently by 2 plugins: agentfield-acme 0.3.0, agentfield-openai 0.3.0."
        " AgentField will not choose for you.\n  hint: uninstall one, or set AGENTFIELD_DISABLE_PLUGINS=openai or"
        " AGENTFIELD_DISABLE_PLUGINS=acme"
    )


def test_provider_refuses_an_unknown_name():
    """`Registry.provider` refuses an undeclared name with a suggestion."""
    with pytest.raises(AgentFieldError) as caught:
        Registry([OPENAI]).provider("opennai")
    assert str(caught.value) == (
        "opennai: no installed plugin declares provider 'opennai'. Did you mean 'openai'?"
        " Installed pairs: openai/webrtc, openai/websocket.\n  hint: af adapters"
    )


def test_a_preference_for_an_absent_distribution_is_an_error():
    """AGENTFIELD_PREFER with a distribution that is not installed is refused, not ignored."""
    with pytest.raises(AgentFieldError) as caught:
        Registry([OPENAI], prefer={"openai/websocket": "agentfield-opnai"})
    assert f"[{caught.value.code}] {caught.value}" == (
        "[adapter_not_installed] AGENTFIELD_PREFER chooses agentfield-opnai for openai/websocket, and no plugin of that"
        " distribution is installed. Did you mean 'agentfield-openai'? Installed plugins: agentfield-openai."
        "\n  hint: unset AGENTFIELD_PREFER"
    )


def test_a_preference_for_a_distribution_without_the_pair_is_an_error():
    """AGENTFIELD_PREFER with a distribution that lacks the pair is refused."""
    with pytest.raises(AgentFieldError) as caught:
        Registry([OPENAI], prefer={"openai/sip": "agentfield-openai"})
    assert f"[{caught.value.code}] {caught.value}" == (
        "[unsupported_pair] AGENTFIELD_PREFER chooses agentfield-openai for openai/sip, which it does not declare."
        " It declares: openai/webrtc, openai/websocket.\n  hint: unset AGENTFIELD_PREFER"
    )


def test_a_preference_selects_one_of_two_plugins():
    """Only the pair of the preferred distribution remains."""
    acme = record("agentfield-acme", pair("openai", "websocket", notes="acme's"), providers=())
    registry = Registry([OPENAI, acme], prefer={"openai/websocket": "agentfield-acme"})
    assert registry.resolve("openai", "websocket").notes == "acme's"
    assert [spec.name for spec, _ in registry.pairs()] == ["openai/webrtc", "openai/websocket"]


def test_a_preference_applies_to_derived_pairs():
    """A preference for the declared pair or for the derived one selects it."""
    mine = pair("openai", "websocket", capabilities=dataclasses.replace(FULL, formats=frozenset({"pcm16/24000"})))
    line = TransportSpec(
        name="line", client="server", media="bridged", summary="", factory="m:f", formats=frozenset({"pcmu/8000"})
    )
    first = record("agentfield-openai", mine)
    second = record("agentfield-acme", dataclasses.replace(mine, notes="acme's"), providers=())
    both = [first, second, record("agentfield-line", transports=(line,))]
    with pytest.raises(AgentFieldError, match="openai/line is claimed by 2 plugins"):
        Registry(both).resolve("openai", "line")
    for preferred in ("openai/websocket", "openai/line"):
        registry = Registry(both, prefer={preferred: "AgentField_Acme"})
        assert registry.resolve("openai", "line").notes == "acme's"


def test_a_malformed_preference_is_an_error():
    """AGENTFIELD_PREFER of the wrong form is refused with an example."""
    with pytest.raises(AgentFieldError) as caught:
        refusals.preferences("openai=agentfield-openai")
    assert f"[{caught.value.code}] {caught.value}" == (
        "[invalid_input] AGENTFIELD_PREFER has 'openai=agentfield-openai', which is not of the form"
        " provider/transport=distribution.\n  hint: AGENTFIELD_PREFER='openai/websocket=agentfield-openai'"
    )
