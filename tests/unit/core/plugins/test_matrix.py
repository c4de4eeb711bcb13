"""The matrix: needs of declarations, capabilities of pairs, choices, and install commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from agentfield.errors import InvalidInput
from agentfield.plugins import Catalog, Manifest, PairSpec, ProviderSpec, Registry, hookimpl, install
from agentfield.plugins.install import InstallOrigin, install_hint
from agentfield.plugins.manifest.choices import check_options, choose_name
from agentfield.plugins.manifest.spec import Capabilities
from agentfield.plugins.registry.matrix import matrix_markdown
from agentfield.plugins.registry.session_checks import needs_of
from agentfield.plugins.registry.views import adapter_views
from agentfield.realtime.config import Limits, SemanticVad, SessionDeclaration

ACME = ProviderSpec(
    name="acme",
    title="Acme",
    models=Catalog(known=("talk-1", "talk-2"), closed=True, default="talk-1"),
    voices=Catalog(known=("ann",), closed=False, default=None),
)


class Options(BaseModel):
    """Options of the pair under test."""

    model_config = ConfigDict(extra="forbid")
    speed: float = 1.0


class Acme:
    """A plugin with one pair."""

    @hookimpl
    def agentfield_manifest(self) -> Manifest:
        """Bring acme/websocket."""
        can = Capabilities(
            say="exact",
            floors=frozenset({"model", "handler"}),
            turn_detection=frozenset({"server_vad"}),
            max_duration=90.0,
        )
        spec = PairSpec(
            provider="acme",
            transport="websocket",
            factory="m:f",
            media="bridged",
            capabilities=can,
            options=f"{__name__}:Options",
            notes="by telephone too",
        )
        return Manifest(api=(2, 0), providers=(ACME,), pairs=(spec,))


def declaration(**changes) -> SessionDeclaration:
    return SessionDeclaration(
        **{"name": "voice", "provider": "acme", "transport": "webrtc", "floor": "handler"} | changes
    )


def test_a_minimal_declaration_has_few_needs():
    """A model-floor session that names no modalities and no tools needs its floor and finite limits."""
    assert [need.describe() for need in needs_of(declaration(floor="model"))] == [
        "floors: model (for the model floor)",
        "limits: duration and idle (for Limits(duration=..., idle=...))",
        "max_duration: 1800.0 (for Limits(duration=1800))",
        "client_leg: filtered or none or watched (for drift='enforce')",
    ]


def test_each_declared_feature_is_a_need():
    """Tools, exact speech, texts, transcription, turn detection, interruption delay and limits are needs."""
    declared = declaration(
        modalities=("audio", "text"),
        tools=("a.b",),
        say="exact",
        greeting="Hello",
        transcription="whisper",
        turn_detection=SemanticVad(),
        interrupt_after_ms=300,
        limits=Limits(turns=3, tool_calls=4, cost=0.5, duration=60),
    )
    assert [need.describe() for need in needs_of(declared)] == [
        "floors: handler (for the handler floor)",
        "modalities: audio and text (for modalities=['audio', 'text'])",
        "tools: async or sync (for tools=[...])",
        "say: exact (for say='exact')",
        "say: best_effort or exact (for greeting=...)",
        "turn_detection: semantic_vad (for turn_detection)",
        "caller_transcript: final or partial (for transcription='whisper')",
        "transcription: model (for transcription='whisper')",
        "interruption: client or server (for interrupt_after_ms=300)",
        "delays_interruption: True (for interrupt_after_ms=300)",
        "limits: duration and idle (for Limits(duration=..., idle=...))",
        "limits: turns (for Limits(turns=3))",
        "limits: tool_calls (for Limits(tool_calls=4))",
        "limits: cost (for Limits(cost=0.5))",
        "max_duration: 60.0 (for Limits(duration=60))",
        "client_leg: filtered or none or watched (for drift='enforce')",
    ]


def test_the_handler_floor_needs_transcripts_and_push_to_talk_needs_manual_turns():
    """A handler needs transcripts of the caller; no turn detection needs manual commits."""
    needs = [need.describe() for need in needs_of(declaration(turn_detection=None, say="best_effort"))]
    assert "caller_transcript: final or partial (for the handler floor)" in needs
    assert "turn_detection: manual (for turn_detection)" in needs
    assert "say: best_effort or exact (for say='best_effort')" in needs


def test_views_list_all_pairs_and_absent_first_party_pairs():
    """The views have installed pairs with JSON capabilities, and absent first-party pairs with an install command."""
    views = {f"{view.provider}/{view.transport}": view for view in adapter_views(Registry.of([Acme()]))}
    assert set(views) == {"acme/websocket", *(f"{p}/{t}" for p, t in install.FIRST_PARTY_PAIRS)}
    acme = views["acme/websocket"]
    assert (acme.installed, acme.media, acme.notes) == (True, "bridged", "by telephone too")
    assert acme.capabilities["floors"] == ["handler", "model"]
    json.dumps(acme.model_dump(mode="json"))
    absent = views["openai/webrtc"]
    assert (absent.installed, absent.state, absent.capabilities) == (False, "adapter_not_installed", {})
    assert absent.hint == install_hint("agentfield-openai")


def test_the_matrix_as_markdown():
    """Each pair is a column, each capability a row."""
    assert matrix_markdown(Registry.of([Acme()])) == (
        "| capability | acme/websocket |\n|---|---|\n| distribution | test-plugins-matrix |\n| media | bridged |\n"
        "| say | exact |\n| uninterruptible | - |\n| floors | handler, model |\n| turn_detection | server_vad |\n| modalities | - |\n"
        "| tools | - |\n| caller_transcript | - |\n| agent_transcript | - |\n| transcription | model |\n| default_transcription | - |\n"
        "| interruption | - |\n| delays_interruption | - |\n| truncation | - |\n| answers_after | turn |\n| begins_turns | - |\n| text_input | - |\n| resumption | - |\n| usage | - |\n"
        "| max_duration | 90 |\n| client_leg | - |\n| routing | fixed |\n| limits | - |\n| formats | - |\n| output_formats | - |\n"
        "| echoes | model, voice |\n| dtmf | - |\n"
    ).replace("test-plugins-matrix", "Acme")


@pytest.mark.parametrize(
    ("where", "hint"),
    [
        (InstallOrigin(), "pip install agentfield-openai"),
        (InstallOrigin(installer="uv"), "uv pip install agentfield-openai"),
        (InstallOrigin(workspace=Path("/src/a b")), "uv sync --project '/src/a b'"),
        (
            InstallOrigin(direct_url={"url": "https://h/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}),
            "pip install 'agentfield-openai @ git+https://h/x.git@abc#subdirectory=agentfield-openai'",
        ),
        (
            InstallOrigin(direct_url={"url": "file:///w/agentfield_core-0.1.0-py3-none-any.whl", "archive_info": {}}),
            "pip install --find-links /w agentfield-openai",
        ),
    ],
)
def test_the_install_command_fits_the_environment(where, hint):
    """Checkout, git, wheel file and index have different commands."""
    assert install_hint("agentfield-openai", source=where) == hint


def test_a_checkout_is_detected(monkeypatch):
    """In a workspace checkout the command is `uv sync`."""
    root = Path(install.__file__).parents[4]
    monkeypatch.chdir(root)
    assert install_hint("agentfield-local", "speech") == "uv sync"


@pytest.mark.parametrize(
    ("where", "hint"),
    [
        (InstallOrigin(), "pip install --force-reinstall agentfield-openai"),
        (InstallOrigin(installer="uv"), "uv pip install --reinstall agentfield-openai"),
        (
            InstallOrigin(workspace=Path("/src/a b")),
            "uv sync --reinstall-package agentfield-openai --project '/src/a b'",
        ),
    ],
)
def test_a_broken_distribution_is_reinstalled(where, hint):
    """The command makes the installer replace an installed distribution."""
    assert install_hint("agentfield-openai", reinstall=True, source=where) == hint


def test_the_install_command_contains_the_extra():
    """The extra is quoted for the shell."""
    assert (
        install_hint("agentfield-local", "speech", source=InstallOrigin()) == "pip install 'agentfield-local[speech]'"
    )


def test_other_distributions_have_no_install_command():
    """A name outside the catalogue never becomes part of a command."""
    assert install_hint("agentfield-evil", source=InstallOrigin()) == ""


def test_the_declared_name_or_the_default_is_used():
    """Open catalogs accept any declared name; without one the default is used."""
    assert choose_name(ACME, "model", None) == "talk-1"
    assert choose_name(ACME, "model", "talk-2") == "talk-2"
    assert choose_name(ACME, "voice", None) is None
    assert choose_name(ACME, "voice", "anything") == "anything"


def test_an_unknown_model_of_a_closed_catalog_is_refused():
    """The error has a suggestion and the known names."""
    with pytest.raises(InvalidInput) as caught:
        choose_name(ACME, "model", "talk-3")
    assert f"[{caught.value.code}] {caught.value}" == (
        "[unknown_model] provider 'acme' has no model 'talk-3'. Did you mean 'talk-2'? It has: talk-1, talk-2."
        "\n  hint: name one that it has, such as model='talk-1'"
    )


def test_a_provider_without_a_default_model_needs_one():
    """Neither a declared nor a default model is refused."""
    with pytest.raises(InvalidInput, match="provider 'bare' has no default model and the session names none") as caught:
        choose_name(ProviderSpec(name="bare", title="Bare"), "model", None)
    assert caught.value.code == "model_required"


def test_options_are_validated_by_the_adapters_model():
    """Unknown options, and any option of a pair without options, are refused by name."""
    spec = Registry.of([Acme()]).resolve("acme", "websocket")
    assert check_options(spec, {"speed": 2}) == {"speed": 2.0}
    with pytest.raises(InvalidInput, match=r"options\.sped.*It has: speed") as caught:
        check_options(spec, {"sped": 2})
    assert (caught.value.code, caught.value.data["field"]) == ("unknown_option", "options.sped")
    with pytest.raises(InvalidInput, match=r"options\.speed") as caught:
        check_options(spec, {"speed": "fast"})
    assert caught.value.code == "invalid_option"
    plain = PairSpec(provider="a", transport="b", factory="m:f", media="direct", capabilities=Capabilities())
    assert check_options(plain, {}) == {}
    with pytest.raises(InvalidInput, match="a/b takes no options"):
        check_options(plain, {"x": 1})
