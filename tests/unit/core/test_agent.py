"""`Agent`: declarations by decorators, and `app.run()` as a process."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pydantic
import pytest

import agentfield
from agentfield import Agent, Limits, Say, SemanticVad, ServerVad, Session
from agentfield.declarations.session_declaration import is_empty
from agentfield.errors import CapabilityMissing, Conflict, InvalidInput, UnsupportedPair
from agentfield.plugins import (
    PLUGIN_API,
    Capabilities,
    Catalog,
    Manifest,
    PairSpec,
    ProviderSpec,
    Registry,
    TransportSpec,
    hookimpl,
)
from agentfield.plugins.install import InstallOrigin, install_hint
from agentfield.wire.frames import Accepted, Drain, Drained
from support.core.control_plane import control_plane, invoke
from support.paths import ROOT

SEED = {
    "provider": "openai",
    "transport": "webrtc",
    "model": "gpt-realtime-2",
    "modalities": ["audio", "text"],
    "voice": "marin",
    "tools": ["voice-support.resolve_turn"],
    "tags": ["support:voice"],
}


def agent(registry: Registry | None = None) -> Agent:
    return Agent("voice-support", url="http://127.0.0.1:9", registry=registry or Registry())


def declared(body: Any, **values: Any) -> Any:
    app = agent()
    app.session("voice", **{**SEED, **values})(body)
    return app.sessions["voice"].declaration


async def answering(session: Session) -> None:
    await session.input()


async def test_the_guides_declaration_is_accepted() -> None:
    """The session decorator of the guide is accepted as written, including lists."""
    declaration = declared(answering)
    assert (declaration.provider, declaration.transport, declaration.floor) == ("openai", "webrtc", "handler")
    assert (declaration.modalities, declaration.tools) == (("audio", "text"), ("voice-support.resolve_turn",))
    assert (declaration.tags, declaration.limits, declaration.turn_detection) == (
        ("support:voice",),
        Limits(),
        "default",
    )


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, "manual"),
        (SemanticVad(eagerness="low"), SemanticVad(eagerness="low")),
        ({"type": "server_vad", "silence_duration_ms": 200}, ServerVad(silence_duration_ms=200)),
    ],
)
def test_turn_detection_accepts_each_form(given: Any, meant: Any) -> None:
    """None, a model and a dictionary are accepted for `turn_detection`."""
    assert declared(answering, turn_detection=given).turn_detection == meant


async def ellipsis(session: Session) -> None: ...
async def passing(session: Session) -> None:
    pass


async def documented(session: Session) -> None:
    """Only words."""


async def documented_and_more(session: Session) -> None:
    """Words."""


async def constant(session: Session) -> int:
    return 5


async def looping(session: Session) -> None:
    while True:
        await session.input()


async def calling(session: Session) -> None:
    session.say("Hello.")


@pytest.mark.parametrize("body", [ellipsis, passing, documented, documented_and_more])
def test_an_empty_body_gives_the_floor_to_the_model(body: Any) -> None:
    """A handler of `...`, `pass` or only a docstring means that the model answers; the handler cannot have the floor then."""
    assert declared(body).floor == "model"
    with pytest.raises(InvalidInput, match="nobody would answer") as caught:
        declared(body, floor="handler")
    assert (caught.value.code, caught.value.data["field"]) == ("invalid_declaration", "floor")


@pytest.mark.parametrize("body", [answering, constant, looping, calling])
def test_a_handler_with_a_body_has_the_floor(body: Any) -> None:
    """Any other body means that the handler answers, unless `floor=` is given."""
    assert declared(body).floor == "handler"
    assert declared(body, floor="model").floor == "model"


def test_emptiness_needs_no_source() -> None:
    """An empty body is recognised without source code."""
    names: dict[str, Any] = {}
    exec("async def empty(session): ...\nasync def full(session): await session.input()", names)
    assert is_empty(names["empty"])
    assert not is_empty(names["full"])


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"tools": ["resolve_turn"]}, "tools"),
        ({"tools": "voice-support.resolve_turn"}, "tools"),
        ({"tools": ["a.b", "a.b"]}, "tools"),
        ({"tags": "support:voice"}, "tags"),
        ({"tags": [""]}, "tags"),
        ({"tags": ["t" * 101]}, "tags"),
        ({"tags": [f"t{number}" for number in range(51)]}, "tags"),
        ({"modalities": ["video"]}, "modalities.0"),
        ({"floor": "nobody"}, "floor"),
        ({"drift": "maybe"}, "drift"),
        ({"turn_detection": {"type": "telepathy"}}, "turn_detection"),
        ({"limits": {"duration": -1}}, "limits.duration"),
        ({"greeting": Say(" ", interruptible=False)}, "greeting.text"),
        ({"greeting": 5}, "greeting"),
        ({"goodbye": {"text": "Bye.", "interuptible": False}}, "goodbye.interuptible"),
    ],
)
def test_an_invalid_session_declaration_names_the_field(values: dict[str, Any], field: str) -> None:
    """An invalid declaration raises in the decorator and names the field."""
    with pytest.raises(InvalidInput) as caught:
        declared(answering, **values)
    assert (caught.value.code, caught.value.data["field"]) == ("invalid_declaration", field)


def test_a_text_keeps_its_form_on_the_wire() -> None:
    """A text without options is sent as a text, which earlier versions know; `Say` with options as an object."""
    made = declared(answering, greeting="Hello.", goodbye=Say("Bye.", interruptible=False))
    sent = made.model_dump(mode="json")
    assert (sent["greeting"], sent["goodbye"]) == ("Hello.", {"text": "Bye.", "interruptible": False})
    assert type(made).model_validate(sent) == made
    assert made.greeting == Say("Hello.")


def test_a_handler_must_be_a_coroutine_function_of_one_argument() -> None:
    """Any other handler is refused with a hint."""

    def plain(session: Session) -> None: ...
    async def nothing() -> None: ...

    with pytest.raises(InvalidInput, match="async def"):
        declared(plain)
    with pytest.raises(InvalidInput, match="one argument"):
        declared(nothing)


def test_a_name_cannot_be_declared_twice() -> None:
    """Reasoners and sessions share one namespace."""
    app = agent()
    app.reasoner("voice")(lambda: None)
    with pytest.raises(Conflict, match=r"voice-support\.voice is declared twice"):
        app.session("voice", **SEED)(answering)  # type: ignore[arg-type]


@pytest.mark.parametrize("node_id", ["", "1shop", "a.b", "a b", "ä", None])
def test_an_invalid_node_id_is_refused(node_id: Any) -> None:
    """A node id that cannot be part of a target is refused."""
    with pytest.raises(InvalidInput, match="node id"):
        Agent(node_id)


def test_invalid_reasoner_declarations_are_refused() -> None:
    """Invalid names, generators and options raise in the decorator."""
    app = agent()
    with pytest.raises(InvalidInput, match="name"):
        app.reasoner("a.b")(lambda: None)
    with pytest.raises(InvalidInput, match="retries"):
        app.reasoner("a", retries=-1)(lambda: None)
    with pytest.raises(InvalidInput, match="yields"):

        @app.reasoner()
        async def streaming() -> Any:
            yield 1


async def test_a_decorated_function_is_returned_unchanged() -> None:
    """A reasoner can be called as a plain function, with or without parentheses on the decorator."""
    app = agent()

    @app.reasoner
    async def double(n: int) -> int:
        """Twice."""
        return 2 * n

    assert await double(2) == 4
    assert app.reasoners["double"].spec.description == "Twice."


def test_hints_may_use_types_of_an_enclosing_function() -> None:
    """The hints of a reasoner declared inside a function may use its local types."""
    from pydantic import BaseModel

    class Local(BaseModel):
        n: int

    app = agent()

    @app.reasoner()
    async def use(value: Local) -> Local:
        return value

    assert app.reasoners["use"].spec.input_schema["required"] == ["value"]


class Acme:
    """A plugin with one pair of few capabilities."""

    @hookimpl
    def agentfield_manifest(self) -> Manifest:
        capabilities = Capabilities(
            say="best_effort",
            floors=frozenset({"handler"}),
            turn_detection=frozenset({"server_vad"}),
            modalities=frozenset({"audio", "text"}),
            caller_transcript="final",
            agent_transcript="final",
            client_leg="watched",
            limits=frozenset({"duration", "idle"}),
        )
        pair = PairSpec(
            provider="acme", transport="pipe", factory="acme:pipe", media="direct", capabilities=capabilities
        )
        return Manifest(
            api=PLUGIN_API,
            providers=(ProviderSpec(name="acme", title="Acme", models=Catalog(known=("m",))),),
            transports=(
                TransportSpec(name="pipe", client="server", media="direct", summary="A pipe.", factory="acme:legs"),
            ),
            pairs=(pair,),
        )


def test_an_installed_adapter_must_meet_the_declaration() -> None:
    """A need that an installed provider does not meet is refused at the declaration, with the alternatives."""
    app = agent(Registry.of([Acme()]))
    app.session("fits", provider="acme", transport="pipe")(answering)
    with pytest.raises(CapabilityMissing, match="tools"):
        app.session("tools", provider="acme", transport="pipe", tools=["a.b"])(answering)
    with pytest.raises(UnsupportedPair, match="acme is available over: pipe"):
        app.session("pair", provider="acme", transport="webrtc")(answering)
    assert list(app.sessions) == ["fits"]


def test_an_adapter_need_not_be_installed_on_the_node() -> None:
    """A pair without a plugin on the node is accepted, because the control plane decides."""
    app = agent(Registry())
    app.session("openai", provider="openai", transport="webrtc")(answering)
    app.session("theirs", provider="somebody", transport="smoke")(answering)
    assert list(app.sessions) == ["openai", "theirs"]


async def test_run_is_refused_inside_an_event_loop() -> None:
    """`app.run()` inside a running event loop raises with the alternative."""
    with pytest.raises(Conflict, match="async with app"):
        agent().run()


PROGRAM = """
from agentfield import Agent
app = Agent(node_id="shop")
@app.reasoner()
async def hello(name: str) -> str:
    return f"Hello {name}"
app.run()
"""


class Program:
    """A child process whose file ends in `app.run()`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        assert self.process.stderr is not None
        async with asyncio.timeout(60):
            return (await self.process.stderr.readline()).decode().strip()


CORE_ONLY = """
import asyncio
from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.errors import ControlPlaneUnavailable

async def ask():
    async with ControlPlaneClient() as client:
        try:
            await client.nodes()
        except ControlPlaneUnavailable as error:
            print(error.hint, flush=True)

asyncio.run(ask())
app = Agent("shop")
@app.reasoner()
async def hello() -> str:
    return "hello"
app.run()
"""


@pytest.fixture
async def start(tmp_path: Path) -> Any:
    programs = []

    async def launch(url: str) -> Program:
        file = tmp_path / "main.py"
        file.write_text(PROGRAM)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(file),
            env={**os.environ, "AGENTFIELD_URL": url, "AGENTFIELD_HOME": str(tmp_path)},
            stderr=asyncio.subprocess.PIPE,
        )
        programs.append(process)
        return Program(process)

    yield launch
    for process in programs:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_run_links_works_and_stops_on_a_signal(start: Any, number: signal.Signals) -> None:
    """A program announces its link in one line, works, announces a new link, and exits with 0 on a signal."""
    async with control_plane() as plane:
        program = await start(plane.url)
        link = await plane.link()
        assert await program.line() == f"shop is linked to {plane.url} (1 reasoner, 0 sessions). Ctrl+C stops it."
        asked = invoke("hello", {"name": "Ada"})
        await link.send(asked)
        await link.expect(Accepted)
        assert (await link.result(asked)).output == "Hello Ada"
        await link.drop()
        link = await plane.link()
        assert re.fullmatch(r"shop lost the control plane at \S+ \(.+\); linking again\.", await program.line())
        assert await program.line() == f"shop is linked to {plane.url} again."
        program.process.send_signal(number)
        await link.expect(Drain)
        await link.send(Drained())
        async with asyncio.timeout(60):
            assert await program.process.wait() == 0
        assert await program.line() == ""


async def test_run_waits_for_a_control_plane(start: Any) -> None:
    """A program that starts before the control plane says so, with the command, and retries."""
    program = await start("http://127.0.0.1:9")
    assert await program.line() == (
        "shop waits for a control plane at http://127.0.0.1:9 (nothing answers there). Start one: af server"
    )
    program.process.terminate()
    async with asyncio.timeout(60):
        assert await program.process.wait() == 0


async def test_run_says_that_the_address_needs_http(start: Any) -> None:
    """A program with an https address of a server without TLS says so."""
    async with control_plane() as plane:
        url = plane.url.replace("http://", "https://")
        program = await start(url)
        assert (await program.line()).startswith(
            f"shop waits for a control plane at {url} (what answers there does not speak TLS, so its address begins with "
            "http://, not https://)."
        )


async def test_a_core_only_installation_is_told_to_install_af(tmp_path: Path) -> None:
    """Where agentfield-cli is not installed, no message tells to run `af` without the command that installs it."""
    site = tmp_path / "site"
    site.mkdir()
    for entry in Path(pydantic.__file__).parents[1].iterdir():
        if not entry.name.startswith("agentfield") or entry.name.startswith(("agentfield_core-", "agentfield-core-")):
            (site / entry.name).symlink_to(entry)
    (tmp_path / "main.py").write_text(CORE_ONLY)
    code = Path(agentfield.__file__).parents[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-S",
        str(tmp_path / "main.py"),
        env={"PYTHONPATH": f"{site}:{code}", "AGENTFIELD_URL": "http://127.0.0.1:9", "AGENTFIELD_HOME": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    program = Program(process)
    try:
        install = install_hint("agentfield-cli", source=InstallOrigin(workspace=ROOT))
        assert process.stdout is not None
        async with asyncio.timeout(60):
            hint = (await process.stdout.readline()).decode().strip()
        assert hint == f"Start one with `{install} && af server`, or set AGENTFIELD_URL."
        assert await program.line() == (
            "shop waits for a control plane at http://127.0.0.1:9 (nothing answers there). "
            f"Start one: {install} && af server"
        )
    finally:
        process.kill()
        await process.wait()
