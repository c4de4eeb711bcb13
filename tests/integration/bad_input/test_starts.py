"""Refused session starts: the same error over HTTP, in `af` (text and JSON) and in Python; other requests are served."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentfield import Agent
from agentfield.plugins import Capabilities, Manifest, PairSpec, ProviderSpec, Registry, hookimpl
from agentfield.plugins.install import install_hint
from agentfield_local import plugin as local_plugin
from agentfield_openai import plugin as openai_plugin
from support.server.bad_input import LIVE, Installation, af_refused, raised_by, run_installation
from support.waiting import until

SESSIONS = "shop.absent, shop.here, shop.no_tool, shop.raises, shop.voice"
TARGETS = "shop.breaks, shop.echo, shop.endless, shop.leaves, shop.odd"


@pytest.fixture
async def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Installation]:
    """A running installation; on exit it must still serve valid requests."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    async with run_installation(tmp_path) as it:
        yield it


@pytest.mark.parametrize("body", [b"", {}, {"caller": "ann"}, {"target": "shop.voice", "metadata": {"a": 1}}])
async def test_a_target_s_address_starts_a_session(installation: Installation, body: Any) -> None:
    """`POST /session-targets/{target}/start` starts a session with any or no body; the start is the one of `/sessions`."""
    status, text = await installation.request("/session-targets/shop.voice/start", body)
    started = json.loads(text)
    assert (status, started["target"], started["provider"]) == (201, "shop.voice", "openai")
    asked = body if isinstance(body, dict) else {}
    shown = await installation.client.get_session(started["session_id"])
    assert (shown.state, shown.caller, shown.metadata) == ("created", asked.get("caller"), asked.get("metadata", {}))


async def test_a_target_s_address_refuses_like_a_start(installation: Installation) -> None:
    """An unknown target gets the refusal of `POST /sessions`; another target in the body is refused."""
    path = "/session-targets/shop.voce/start"
    assert await installation.refused(path) == await installation.start_refused("shop.voce")
    said = await installation.refused("/session-targets/shop.voice/start", {"target": "shop.here"})
    assert (said.text(), said.status) == (
        """\
error: The path names the session 'shop.voice', the body 'shop.here'.
hint: leave target out of the body
code: invalid_input
""",
        422,
    )


@pytest.mark.parametrize(
    ("target", "asked", "status", "text"),
    [
        (
            "shop.voce",
            {},
            404,
            f"""\
error: No node declares the session 'shop.voce'. Did you mean 'shop.voice'? Known sessions: {SESSIONS}.
hint: start the agent that declares it: af run FILE
code: unknown_session
""",
        ),
        (
            "shop.echo",
            {},
            404,
            f"""\
error: 'shop.echo' is a reasoner, not a session. Known sessions: {SESSIONS}.
hint: call it with: af execute shop.echo
code: unknown_session
""",
        ),
        *(
            (
                "shop.voice",
                {name: asked},
                422,
                f"""\
error: The start asks for {name} '{asked}', but shop.voice is registered with {name} '{declared}'; nothing is switched silently.
hint: leave --{name} away, or change {name}='{declared}' in @app.session(...)
code: declaration_mismatch
""",
            )
            for name, asked, declared in (
                ("provider", "local", "openai"),
                ("transport", "websocket", "webrtc"),
                ("model", "gpt-realtime-9", "gpt-realtime-2"),
                ("voice", "joe", "marin"),
            )
        ),
        (
            "shop.no_provider",
            {},
            422,
            """\
error: opnai/webrtc: no installed plugin declares provider 'opnai'. Did you mean 'openai'? Installed pairs: local/audio_turns, local/webrtc, local/websocket, openai/webrtc, openai/websocket, openrouter/audio_turns.
hint: af adapters
code: unsupported_pair
""",
        ),
        (
            "shop.no_transport",
            {},
            422,
            """\
error: openai/webrct is not a declared pair. openai is available over: webrtc, websocket. Did you mean 'webrtc'? AgentField does not switch transports silently.
hint: af adapters
code: unsupported_pair
""",
        ),
        (
            "shop.no_turns",
            {},
            422,
            """\
error: openai/audio_turns is not a declared pair. openai is available over: webrtc, websocket. AgentField does not switch transports silently.
hint: af adapters
code: unsupported_pair
""",
        ),
        (
            "shop.no_model",
            {},
            422,
            """\
error: provider 'local' has no model 'local-9'. It has: local-realtime-1.
hint: name one that it has, such as model='local-realtime-1'
code: unknown_model
""",
        ),
        (
            "shop.here",
            {"model": "local-realtime-2"},
            422,
            """\
error: provider 'local' has no model 'local-realtime-2'. Did you mean 'local-realtime-1'? It has: local-realtime-1.
hint: name one that it has, such as model='local-realtime-1'
code: unknown_model
""",
        ),
        (
            "shop.no_voice",
            {},
            422,
            """\
error: provider 'local' has no voice 'jo'. Did you mean 'joe'? It has: joe.
hint: name one that it has, such as voice='joe'
code: unknown_voice
""",
        ),
        (
            "shop.no_tool",
            {},
            422,
            f"""\
error: shop.no_tool lists the tool 'stock.ecko', which no known node exposes. Known targets: {TARGETS}.
hint: start the node that exposes it, or correct tools=[...]
code: unknown_tool
""",
        ),
        (
            "shop.no_option",
            {},
            422,
            """\
error: openai/webrtc: options.noize: there is no such option. It has: include, keywords, language, languages, max_output_tokens, noise_reduction, noise_reduction_strength, parallel_tool_calls, prompt, reasoning_effort, say_reasoning_effort, speed, tracing, transcription_delay, transcription_prompt.
hint: correct options={...} in @app.session(...)
code: unknown_option
""",
        ),
        (
            "shop.exact",
            {},
            422,
            """\
error: openai/webrtc (agentfield-openai 0.1.0) cannot run this session: say is best_effort, not exact (for say='exact'). Installed pairs that can: local/websocket, openai/websocket.
hint: declare another pair, or leave out say='exact'
code: capability_missing
""",
        ),
    ],
)
async def test_an_invalid_start_is_refused(
    installation: Installation, target: str, asked: dict[str, str], status: int, text: str
) -> None:
    """The error names the unknown target, pair, model, voice, tool or capability, and lists the alternatives."""
    said = await installation.start_refused(target, **asked)
    assert (said.text(), said.status) == (text, status)
    assert [view.state for view in await installation.client.list_sessions()] == []


class Deaf:
    """A plugin whose only pair has no caller transcripts."""

    @hookimpl
    def agentfield_manifest(self) -> Manifest:
        """Return the manifest."""
        return Manifest(
            api=(2, 0),
            providers=(ProviderSpec(name="deaf", title="Deaf"),),
            pairs=(
                PairSpec(
                    provider="deaf",
                    transport="webrtc",
                    factory="unused:unused",
                    media="direct",
                    capabilities=Capabilities(
                        say="best_effort",
                        floors=frozenset({"handler", "model"}),
                        turn_detection=frozenset({"server_vad"}),
                        modalities=frozenset({"audio", "text"}),
                        client_leg="watched",
                        limits=frozenset({"duration", "idle"}),
                    ),
                ),
            ),
        )


async def test_the_handler_floor_requires_transcripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler floor is refused on a pair without caller transcripts, and the error lists the pairs that have them."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    plugins = Registry.of([Deaf(), local_plugin, openai_plugin])
    app = Agent("shop", registry=Registry.of([]))

    @app.reasoner()
    async def echo(word: str) -> dict[str, str]:
        return {"word": word}

    @app.session("here", provider="local", transport="webrtc")
    async def here(session: Any) -> None:
        await session.input()

    @app.session("deaf", provider="deaf", transport="webrtc", model="d-1")
    async def deaf(session: Any) -> None:
        await session.input()

    async with run_installation(tmp_path, registry=plugins, app=app) as installation:
        said = await installation.start_refused("shop.deaf")
    assert said.code == "capability_missing"
    assert "caller_transcript is none, not final or partial (for the handler floor)" in said.detail
    assert (
        "Installed pairs that can: local/audio_turns, local/webrtc, local/websocket, openai/webrtc, openai/websocket."
        in said.detail
    )
    assert said.hint == "declare another pair, or leave out the handler floor"
    declared = await raised_by(_declare_deaf(plugins))
    assert declared == said


async def _declare_deaf(plugins: Registry) -> None:
    app = Agent("shop", registry=plugins)

    @app.session("deaf", provider="deaf", transport="webrtc", model="d-1")
    async def deaf(session: Any) -> None:
        await session.input()


@pytest.mark.parametrize(
    ("environ", "status", "text"),
    [
        (
            {"OPENAI_API_KEY": ""},
            422,
            """\
error: OpenAI Realtime needs a key and the control plane has none.
hint: start the control plane with OPENAI_API_KEY set
code: key_missing
""",
        ),
        (
            {"OPENAI_BASE_URL": "http://api.example.com/v1"},
            422,
            """\
error: The address in OPENAI_BASE_URL cannot be used: an https:// address is needed (http:// on this machine only), without user, query or fragment.
hint: set OPENAI_BASE_URL to an address such as https://api.openai.com/v1
code: invalid_provider_url
""",
        ),
    ],
)
async def test_an_unconfigured_provider_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], status: int, text: str
) -> None:
    """A provider without a key or with an unencrypted address is refused; other providers work."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    async with run_installation(tmp_path, environ=environ) as installation:
        said = await installation.start_refused("shop.voice")
    assert (said.text(), said.status) == (text, status)


async def test_targets_of_a_disconnected_node_are_refused(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions and reasoners of a disconnected node are refused, and the hint has the command that starts it."""
    away = Agent("away", url=installation.url, registry=Registry.of([]))

    @away.reasoner()
    async def work() -> None: ...

    @away.session("voice", **LIVE)
    async def voice(session: Any) -> None:
        await session.input()

    async with away:
        pass
    await until(lambda: not installation.plane.hub.links("away"))
    with monkeypatch.context() as later:
        later.setattr(installation.plane.hub._registry, "_monotonic", lambda: time.monotonic() + 60)
        said = await installation.start_refused("away.voice")
        code, called = await af_refused("execute", "away.work", "--url", installation.url)
    assert (said.text(), said.status) == (
        """\
error: away.voice is declared by the node 'away', which is not connected.
hint: start the node again: af run FILE (the one with Agent('away'))
code: node_not_connected
""",
        503,
    )
    assert (called.text(), code) == (
        """\
error: The node 'away', which has 'away.work', is not connected.
hint: start it (af run FILE); af nodes shows who is connected
code: node_not_connected
""",
        1,
    )


@pytest.mark.parametrize(
    ("system", "text"),
    [
        (
            "FreeBSD",
            """\
error: the speech engines an_engine are not installed, and there are no wheels of them for FreeBSD on x86_64; there are wheels for SYSTEMS
hint: run the local provider on one of those systems, or use another provider
code: speech_unavailable
""",
        ),
        (
            "Linux",
            """\
error: the speech engines an_engine are not installed (wheels exist for SYSTEMS)
hint: INSTALL
code: speech_unavailable
""",
        ),
    ],
)
async def test_missing_speech_engines_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, text: str
) -> None:
    """`local` without speech engines is refused with the supported systems; other providers work."""
    import platform

    from agentfield_local.speech import models

    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    locate, install = models.locate, install_hint("agentfield-local", "speech")
    async with run_installation(tmp_path, environ={"AGENTFIELD_LOCAL_URL": ""}, good="shop.voice") as installation:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(models, "locate", lambda: locate(["an_engine"]))
            elsewhere.setattr(platform, "system", lambda: system)
            elsewhere.setattr(platform, "machine", lambda: "x86_64")
            said = await installation.start_refused("shop.here")
    assert (said.text().replace(models.SUPPORTED_SYSTEMS, "SYSTEMS").replace(install, "INSTALL"), said.status) == (
        text,
        503,
    )


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ("--caller", "x" * 257),
            """\
error: --caller is longer than 256 characters.
hint: af session start --help
code: invalid_input
""",
        ),
        (
            ("--metadata", "{"),
            """\
error: --metadata is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1).
hint: --metadata '{"name": "value"}'
code: invalid_input
""",
        ),
        (
            ("--metadata", "[]"),
            """\
error: --metadata is JSON, but not an object.
hint: --metadata '{"name": "value"}'
code: invalid_input
""",
        ),
        (
            ("--metadata", '{"a": "' + "x" * 65_536 + '"}'),
            """\
error: The body is larger than 65536 bytes.
hint: send less: keep large data elsewhere and send where it is
code: body_too_large
""",
        ),
    ],
)
async def test_an_invalid_caller_or_metadata_is_refused(
    installation: Installation, flags: tuple[str, str], text: str
) -> None:
    """`af session start` refuses an oversized caller, and metadata that is oversized or no JSON object."""
    code, said = await af_refused("session", "start", "shop.here", *flags, "--url", installation.url)
    assert (code, said.text()) == (2, text)
