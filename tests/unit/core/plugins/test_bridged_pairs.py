"""Rows in which a provider and a transport of two plugins meet, and what a transport's manifest must be like."""

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
    """Hints are those of a pip installation; where the tests run from must not show."""
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
def test_audio_gets_across_where_formats_are_equal_or_both_can_be_converted(ours, theirs, can):
    """G.711 and plain samples convert at any rate; anything else must be the same on both sides; nothing meets nothing."""
    assert convertible(ours, theirs) is can


FORMATS = st.frozensets(
    st.sampled_from(["pcm16/24000", "pcm16/8000", "pcmu/8000", "pcma/8000", "opus/48000", "g722/16000"])
)


@given(FORMATS, FORMATS)
def test_getting_across_is_the_same_from_both_sides(ours, theirs):
    """What one side could send to the other, the other could send back."""
    assert convertible(ours, theirs) == convertible(theirs, ours)


# --- the rows


def test_a_provider_and_a_transport_meet_in_a_row_of_their_own():
    """The row is the provider's over the other transport, says what it was made from, and comes with the provider's plugin."""
    registry = Registry([ACME, LINE])
    assert names(registry) == ["acme/phone", "acme/webrtc", "acme/websocket"]
    made = registry.resolve("acme", "phone")
    assert (made.factory, made.media, made.bridged_from) == ("m:f", "bridged", "acme/websocket")
    assert made.notes == "By telephone. Acme speaks."
    assert registry.pair_plugin(made) is ACME
    assert registry.transport_plugin("phone") is LINE
    assert registry.transport_plugin("websocket") is None


def test_a_made_row_can_what_the_provider_can_less_what_the_callers_cannot():
    """A telephone has keys, no keyboard and no button to end a turn; the provider's formats stay, converted on the way."""
    made = Registry([ACME, LINE]).resolve("acme", "phone").capabilities
    assert made == dataclasses.replace(CAN, turn_detection=frozenset({"server_vad"}), text_input=False, dtmf=True)
    kiosk = dataclasses.replace(PHONE, text_input=True, commits=True, dtmf=False)
    made = Registry([ACME, plugin("kiosk", transports=(kiosk,))]).resolve("acme", "phone").capabilities
    assert made == dataclasses.replace(CAN, dtmf=False)


def test_a_transport_adds_nothing_that_a_provider_cannot():
    """Callers who can type and commit do not make a provider that takes neither take it."""
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
def test_where_they_do_not_meet_there_is_no_row(declared, transport):
    """Both sides must be bridged, the transport must bring its legs, and audio must get across."""
    assert bridged_pair(declared, transport) is None


def test_a_row_that_was_made_is_refused_like_any_other():
    """What a session needs and the callers of the transport cannot is a named refusal with the pairs that can."""
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


def test_a_declared_pair_goes_over_a_made_one():
    """Whoever writes the pair by hand, the provider or a third plugin, has it; nothing is made beside it."""
    by_hand = plugin("acme-phone", pair("acme", "phone", factory="by:hand"))
    for records in ([ACME, LINE, by_hand], [by_hand, LINE, ACME]):
        spec = Registry(records).resolve("acme", "phone")
        assert (spec.factory, spec.bridged_from) == ("by:hand", None)


def test_two_plugins_of_one_provider_make_two_rows_until_one_is_chosen():
    """Nothing is chosen silently; choosing the declared pair chooses what is made from it, or the row is chosen by itself."""
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


def test_a_preference_for_what_is_not_made_is_refused():
    """A distribution can only be preferred for rows that come from it; the message lists the made ones too."""
    with pytest.raises(AgentFieldError) as caught:
        Registry([ACME, LINE], prefer={"acme/fax": "acme-voice"})
    assert f"[{caught.value.code}] {caught.value}" == (
        "[unsupported_pair] AGENTFIELD_PREFER chooses acme-voice for acme/fax, which it does not declare."
        " It declares: acme/phone, acme/webrtc, acme/websocket.\n"
        "  hint: unset AGENTFIELD_PREFER"
    )


def test_two_transports_of_one_name_are_nobodys():
    """A row of a transport that two plugins declare differently is refused for the transport, not for the provider."""
    twin = plugin("other-line", transports=(dataclasses.replace(PHONE, dtmf=False),))
    assert refusal(Registry([ACME, LINE, twin]), "acme", "phone") == (
        "[ambiguous_adapter] transport 'phone' is declared differently by 2 plugins: other-line 1.0, phone-line 1.0."
        " AgentField will not choose for you.\n"
        "  hint: uninstall one, or set AGENTFIELD_DISABLE_PLUGINS=phone-line or AGENTFIELD_DISABLE_PLUGINS=other-line"
    )


# --- what each side requires


def needy(**changes) -> TransportSpec:
    return dataclasses.replace(PHONE, requires=("no_such_line", "json"), extra="line", **changes)


def test_what_a_transport_lacks_is_told_with_its_own_distribution():
    """Missing modules of the transport name the transport's distribution and extra, whether its row is made or declared."""
    line = plugin("phone-line", transports=(needy(),))
    by_hand = plugin("acme-phone", pair("acme", "phone"))
    text = (
        "[adapter_extra_missing] acme/phone (phone-line 1.0) needs modules that are not installed: no_such_line."
        " Installed pairs: acme/phone, acme/webrtc, acme/websocket.\n"
        "  hint: install phone-line with its extra 'line'"
    )
    assert refusal(Registry([ACME, line]), "acme", "phone") == text
    assert refusal(Registry([ACME, line, by_hand]), "acme", "phone") == text


def test_what_a_provider_lacks_is_told_first_with_the_providers_distribution():
    """The extra that is named belongs to the distribution that is named; what the provider lacks comes first."""
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
def test_a_transport_that_could_not_work_is_refused_with_the_reason(changes, reason):
    """The reason says what is wrong with it before any of its code is imported."""
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
def test_a_route_that_could_not_be_served_is_refused_with_the_reason(changes, where, reason):
    """Each route is checked as data; the reason names the route."""
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
def test_a_route_of_another_access_or_method_cannot_be_written(changes, reason):
    """There is no public route: who may use one is the operator, the session's caller or somebody verified."""
    manifest = Manifest(
        api=(2, 0), transports=(dataclasses.replace(PHONE, routes=(dataclasses.replace(ROUTE, **changes),)),)
    )
    assert manifest_problem(manifest) == reason


def test_two_paths_that_differ_in_their_placeholders_names_only_are_one():
    """The second of two routes that answer the same requests would never be reached."""
    twin = dataclasses.replace(ROUTE, path="/voice/{other}")
    manifest = Manifest(api=(2, 0), transports=(dataclasses.replace(PHONE, routes=(ROUTE, twin)),))
    assert manifest_problem(manifest) == "transport phone: route POST /voice/{other} is declared twice"


def test_a_good_transport_has_no_problem():
    """The transport that the tests above spoil is a good one."""
    assert manifest_problem(Manifest(api=(2, 0), transports=(PHONE,))) is None
