"""Derived pairs of a provider and a transport of two plugins, and the checks of a transport's manifest."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield.errors import AgentFieldError
from agentfield.plugins import install
from agentfield.plugins.manifest.checks import manifest_problem
from agentfield.plugins.manifest.core_transports import CORE_TRANSPORTS
from agentfield.plugins.manifest.spec import (
    Capabilities,
    Manifest,
    Need,
    PairSpec,
    ProviderSpec,
    RouteSpec,
    TransportSpec,
)
from agentfield.plugins.registry.bridged_pairs import bridged_pair, convertible
from agentfield.plugins.registry.records import PluginRecord
from agentfield.plugins.registry.registry import Registry

CAN = Capabilities(
    say="exact",
    floors=frozenset({"handler", "model"}),
    turn_detection=frozenset({"server_vad", "manual"}),
    modalities=frozenset({"audio", "text"}),
    text_input=True,
    resumption="replay",
    formats=frozenset({"pcm16/24000", "pcmu/8000"}),
    dtmf=True,
)
ROUTE = RouteSpec(method="POST", path="/voice/{target}", handler="voice", access="verified", summary="a call comes")
PHONE = TransportSpec(
    name="phone",
    client="server",
    media="bridged",
    summary="a telephone",
    factory="phone.routes:phone",
    routes=(ROUTE,),
    formats=frozenset({"pcmu/8000"}),
    dtmf=True,
    notes="By telephone.",
)


def pair(provider: str, transport: str, **changes) -> PairSpec:
    media = {"webrtc": "direct", "audio_turns": "turns"}.get(transport, "bridged")
    spec = PairSpec(provider=provider, transport=transport, factory="m:f", media=media, capabilities=CAN)
    return dataclasses.replace(spec, **changes)


def plugin(dist: str, *pairs: PairSpec, transports: tuple[TransportSpec, ...] = ()) -> PluginRecord:
    providers = tuple(ProviderSpec(name=n, title=n) for n in dict.fromkeys(p.provider for p in pairs))
    manifest = Manifest(api=(2, 0), providers=providers, transports=transports, pairs=pairs)
    return PluginRecord(name=dist, distribution=dist, version="1.0", state="ok", manifest=manifest)


ACME = plugin("acme-voice", pair("acme", "websocket", notes="Acme speaks."), pair("acme", "webrtc"))
LINE = plugin("phone-line", transports=(PHONE,))


@pytest.fixture(autouse=True)
def from_an_index(monkeypatch):
    """Make install hints those of a pip installation, wherever the tests run."""
    monkeypatch.setattr(install, "install_origin", install.InstallOrigin)


def names(registry: Registry) -> list[str]:
    return [spec.name for spec, _ in registry.pairs()]


def refusal(registry: Registry, provider: str, transport: str) -> str:
    with pytest.raises(AgentFieldError) as caught:
        registry.resolve(provider, transport)
    return f"[{caught.value.code}] {caught.value}"


# --- formats


@pytest.mark.parametrize(
    ("ours", "theirs", "can"),
    [
        ({"pcm16/24000"}, {"pcmu/8000"}, True),
        ({"pcma/8000"}, {"pcm16/16000", "opus/48000"}, True),
        ({"opus/48000"}, {"opus/48000"}, True),
        ({"opus/48000"}, {"pcm16/48000"}, False),
        ({"opus/48000"}, {"opus/24000"}, False),
        (set(), {"pcmu/8000"}, False),
        (set(), set(), False),
    ],
)
def test_formats_are_convertible_if_equal_or_both_known(ours, theirs, can):
    """G.711 and PCM convert at any rate; other formats must be equal; empty sets never match."""
    assert convertible(ours, theirs) is can


FORMATS = st.frozensets(
    st.sampled_from(["pcm16/24000", "pcm16/8000", "pcmu/8000", "pcma/8000", "opus/48000", "g722/16000"])
)


@given(FORMATS, FORMATS)
def test_convertibility_is_symmetric(ours, theirs):
    """Convertibility does not depend on the direction."""
    assert convertible(ours, theirs) == convertible(theirs, ours)


# --- the rows


def test_a_pair_is_derived_from_a_provider_and_a_transport():
    """The derived pair names the pair it is derived from, and belongs to the provider's plugin."""
    registry = Registry([ACME, LINE])
    assert names(registry) == ["acme/phone", "acme/webrtc", "acme/websocket"]
    made = registry.resolve("acme", "phone")
    assert (made.factory, made.media, made.bridged_from) == ("m:f", "bridged", "acme/websocket")
    assert made.notes == "By telephone. Acme speaks."
    assert registry.pair_plugin(made) is ACME
    assert registry.transport_plugin("phone") is LINE
    assert registry.transport_plugin("websocket") is None


def test_a_derived_pair_lacks_what_its_callers_lack():
    """Over a telephone a pair has keys, no text and no commits; the provider's formats stay."""
    made = Registry([ACME, LINE]).resolve("acme", "phone").capabilities
    assert made == dataclasses.replace(CAN, turn_detection=frozenset({"server_vad"}), text_input=False, dtmf=True)
    kiosk = dataclasses.replace(PHONE, text_input=True, commits=True, dtmf=False)
    made = Registry([ACME, plugin("kiosk", transports=(kiosk,))]).resolve("acme", "phone").capabilities
    assert made == dataclasses.replace(CAN, dtmf=False)


def test_a_transport_adds_no_capability_of_the_provider():
    """Text input and commits of the transport do not extend a provider without them."""
    mute = dataclasses.replace(CAN, text_input=False, turn_detection=frozenset({"server_vad"}))
    able = dataclasses.replace(PHONE, text_input=True, commits=True)
    made = bridged_pair(pair("acme", "websocket", capabilities=mute), able)
    assert made is not None
    assert (made.capabilities.text_input, made.capabilities.turn_detection) == (False, frozenset({"server_vad"}))


@pytest.mark.parametrize(
    ("declared", "transport"),
    [
        (pair("acme", "webrtc"), PHONE),
        (pair("acme", "audio_turns"), PHONE),
        (pair("acme", "phone"), PHONE),
        (pair("acme", "websocket"), dataclasses.replace(PHONE, media="direct")),
        (pair("acme", "websocket"), CORE_TRANSPORTS[1]),
        (pair("acme", "websocket", capabilities=Capabilities()), PHONE),
        (pair("acme", "websocket"), dataclasses.replace(PHONE, formats=frozenset({"opus/48000"}))),
    ],
    ids=["direct", "turns", "itself", "direct transport", "core's own", "no formats", "no conversion"],
)
def test_incompatible_plugins_derive_no_pair(declared, transport):
    """Both sides must be bridged, the transport needs its own legs, and formats must convert."""
    assert bridged_pair(declared, transport) is None


def test_a_derived_pair_is_refused_like_any_other():
    """An unmet need is refused by name, with the pairs that meet it."""
    registry = Registry([ACME, LINE])
    need = Need("turn_detection", frozenset({"manual"}), "turn_detection")
    with pytest.raises(AgentFieldError) as caught:
        registry.resolve("acme", "phone", [need])
    assert f"[{caught.value.code}] {caught.value}" == (
        "[capability_missing] acme/phone (acme-voice 1.0) cannot run this session: turn_detection has server_vad, not"
        " manual (for turn_detection). Installed pairs that can: acme/webrtc, acme/websocket.\n"
        "  hint: declare another pair, or leave out turn_detection"
    )


# --- conflicts


def test_a_declared_pair_replaces_a_derived_one():
    """No pair is derived where a plugin declares it."""
    by_hand = plugin("acme-phone", pair("acme", "phone", factory="by:hand"))
    for records in ([ACME, LINE, by_hand], [by_hand, LINE, ACME]):
        spec = Registry(records).resolve("acme", "phone")
        assert (spec.factory, spec.bridged_from) == ("by:hand", None)


def test_two_plugins_of_a_provider_derive_two_pairs_until_one_is_preferred():
    """A preference for the declared or for the derived pair selects one."""
    other = plugin("other-voice", pair("acme", "websocket", factory="other:f"))
    records = [ACME, LINE, other]
    assert refusal(Registry(records), "acme", "phone") == (
        "[ambiguous_adapter] acme/phone is claimed by 2 plugins: acme-voice 1.0, other-voice 1.0."
        " AgentField will not choose for you.\n"
        "  hint: uninstall one, or set AGENTFIELD_PREFER='acme/phone=acme-voice' or"
        " AGENTFIELD_PREFER='acme/phone=other-voice'"
    )
    by_row = Registry(records, prefer={"acme/phone": "other-voice"})
    assert by_row.resolve("acme", "phone").factory == "other:f"
    assert refusal(by_row, "acme", "websocket").startswith("[ambiguous_adapter]")
    by_origin = Registry(records, prefer={"acme/websocket": "other-voice"})
    assert by_origin.resolve("acme", "phone").factory == "other:f"
    both = Registry(records, prefer={"acme/websocket": "other-voice", "acme/phone": "acme-voice"})
    assert both.resolve("acme", "phone").factory == "m:f"


def test_a_preference_for_a_pair_of_another_distribution_is_refused():
    """The message lists the distribution's declared and derived pairs."""
    with pytest.raises(AgentFieldError) as caught:
        Registry([ACME, LINE], prefer={"acme/fax": "acme-voice"})
    assert f"[{caught.value.code}] {caught.value}" == (
        "[unsupported_pair] AGENTFIELD_PREFER chooses acme-voice for acme/fax, which it does not declare."
        " It declares: acme/phone, acme/webrtc, acme/websocket.\n"
        "  hint: unset AGENTFIELD_PREFER"
    )


def test_conflicting_transports_are_refused():
    """A pair of a transport that two plugins declare differently is refused because of the transport."""
    twin = plugin("other-line", transports=(dataclasses.replace(PHONE, dtmf=False),))
    assert refusal(Registry([ACME, LINE, twin]), "acme", "phone") == (
        "[ambiguous_adapter] transport 'phone' is declared differently by 2 plugins: other-line 1.0, phone-line 1.0."
        " AgentField will not choose for you.\n"
        "  hint: uninstall one, or set AGENTFIELD_DISABLE_PLUGINS=phone-line or AGENTFIELD_DISABLE_PLUGINS=other-line"
    )


# --- what each side requires


def needy(**changes) -> TransportSpec:
    return dataclasses.replace(PHONE, requires=("no_such_line", "json"), extra="line", **changes)


def test_missing_modules_of_a_transport_name_its_distribution():
    """The error names the transport's distribution and extra, for derived and declared pairs."""
    line = plugin("phone-line", transports=(needy(),))
    by_hand = plugin("acme-phone", pair("acme", "phone"))
    text = (
        "[adapter_extra_missing] acme/phone (phone-line 1.0) needs modules that are not installed: no_such_line."
        " Installed pairs: acme/phone, acme/webrtc, acme/websocket.\n"
        "  hint: install phone-line with its extra 'line'"
    )
    assert refusal(Registry([ACME, line]), "acme", "phone") == text
    assert refusal(Registry([ACME, line, by_hand]), "acme", "phone") == text


def test_missing_modules_of_a_provider_are_reported_first():
    """The error names the extra of the provider's distribution."""
    ours = plugin("agentfield-openai", pair("openai", "websocket", requires=("no_such_voice",), extra="voice"))
    line = plugin("phone-line", transports=(needy(),))
    assert refusal(Registry([ours, line]), "openai", "phone") == (
        "[adapter_extra_missing] openai/phone (agentfield-openai 1.0) needs modules that are not installed:"
        " no_such_voice. Installed pairs: openai/phone, openai/websocket.\n"
        "  hint: pip install 'agentfield-openai[voice]'"
    )


# --- a transport's manifest

ROUTES = "route POST /voice/{target}"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"factory": None}, "it declares routes and no factory that serves them"),
        ({"factory": "no colon"}, "'no colon' is not of the form 'module:attribute'"),
        ({"formats": frozenset()}, "its media is bridged and it names no formats"),
        (
            {"formats": frozenset({"opus/48000"})},
            "'opus/48000' is no audio format: write pcm16/16000, pcmu/8000 or pcma/8000",
        ),
        ({"routes": (ROUTE, ROUTE)}, f"{ROUTES} is declared twice"),
    ],
)
def test_an_inconsistent_transport_is_invalid(changes, reason):
    """The reason is known before any code of the transport is imported."""
    manifest = Manifest(api=(2, 0), transports=(dataclasses.replace(PHONE, **changes),))
    assert manifest_problem(manifest) == f"transport phone: {reason}"


@pytest.mark.parametrize(
    ("changes", "where", "reason"),
    [
        ({"path": "voice"}, "POST voice", "a path is made of /words and /{placeholders}"),
        ({"path": "/voice/"}, "POST /voice/", "a path is made of /words and /{placeholders}"),
        ({"path": "/../x?y"}, "POST /../x?y", "a path is made of /words and /{placeholders}"),
        ({"path": "/{a:.*}"}, "POST /{a:.*}", "a path is made of /words and /{placeholders}"),
        ({"path": "/{a}/{a}"}, "POST /{a}/{a}", "{a} is in its path twice"),
        ({"handler": "_voice"}, "POST /voice/{target}", "'_voice' is no name of a public method"),
        ({"handler": "a.b"}, "POST /voice/{target}", "'a.b' is no name of a public method"),
        (
            {"access": "session"},
            "POST /voice/{target}",
            "a route of access 'session' has {session_id} in its path",
        ),
        ({"max_body": 0}, "POST /voice/{target}", "max_body is 1 to 26214400 and at_once 1 to 10000"),
        ({"at_once": 10_001}, "POST /voice/{target}", "max_body is 1 to 26214400 and at_once 1 to 10000"),
        ({"socket": True}, "POST /voice/{target}", "a WebSocket is opened with GET"),
    ],
)
def test_an_inconsistent_route_is_invalid(changes, where, reason):
    """The reason names the route."""
    manifest = Manifest(
        api=(2, 0), transports=(dataclasses.replace(PHONE, routes=(dataclasses.replace(ROUTE, **changes),)),)
    )
    assert manifest_problem(manifest) == f"transport phone: route {where}: {reason}"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"access": "public"},
            "manifest.transports[0].routes[0].access is 'public', not one of 'operator', 'session', 'verified'",
        ),
        ({"method": "PUT"}, "manifest.transports[0].routes[0].method is 'PUT', not one of 'GET', 'POST'"),
        ({"at_once": "many"}, "manifest.transports[0].routes[0].at_once is 'many', not int"),
    ],
)
def test_unknown_access_and_methods_are_invalid(changes, reason):
    """There are no public routes: access is operator, session or verified."""
    manifest = Manifest(
        api=(2, 0), transports=(dataclasses.replace(PHONE, routes=(dataclasses.replace(ROUTE, **changes),)),)
    )
    assert manifest_problem(manifest) == reason


def test_paths_that_differ_only_in_placeholder_names_are_equal():
    """The second of two routes for the same requests would never be reached."""
    twin = dataclasses.replace(ROUTE, path="/voice/{other}")
    manifest = Manifest(api=(2, 0), transports=(dataclasses.replace(PHONE, routes=(ROUTE, twin)),))
    assert manifest_problem(manifest) == "transport phone: route POST /voice/{other} is declared twice"


def test_a_consistent_transport_has_no_problem():
    """The transport that the tests above change is valid."""
    assert manifest_problem(Manifest(api=(2, 0), transports=(PHONE,))) is None
