"""What the contract tests share: one installation with every pair, the local server in the provider's place, and callers."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import aiohttp

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.plugins import Registry
from agentfield.wire.rest import StartRequest, StartResponse
from agentfield_local.brain.obedient import ObedientBrain
from agentfield_local.brain.protocol import Brain, BrainRequest, Call, Message, Say, Step, ToolResult
from agentfield_local.brain.scripted import paraphrase
from agentfield_local.brain.verbatim import verbatim_text
from agentfield_local.server import LocalServer
from agentfield_local.speech.energy import EnergyVad, FixedStt, ToneTts
from agentfield_local.speech.protocols import SpeechEngines
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings
from contract.callers import Carried, Direct, Medium, Recorded
from unit.waiting import until

__all__ = [
    "CANARY",
    "PAIRS",
    "Installation",
    "Mind",
    "Outcome",
    "Pair",
    "Talk",
    "Voice",
    "declared",
    "desk",
    "enter",
    "installation",
    "name_of",
    "target",
]

Pair = tuple[str, str]
CANARY = "sk-canary-c0ntract-7Jq2Lw9x"
"""A provider key that must be nowhere."""
PAIRS: tuple[Pair, ...] = (
    ("openai", "webrtc"),
    ("openai", "websocket"),
    ("openrouter", "audio_turns"),
    ("local", "webrtc"),
    ("local", "websocket"),
    ("local", "audio_turns"),
)
SECONDS = 20.0
"""How long anything may take before a test gives up."""


# --- the provider's end


class Voice(ToneTts):
    """The voice of the provider, as tones; it remembers what it was asked to speak."""

    def __init__(self) -> None:
        self.spoken: list[str] = []

    @property
    def voices(self) -> tuple[str, ...]:
        """The voice of the offline provider."""
        return ("joe",)

    def say(self, text: str) -> Iterator[bytes]:
        """Speak."""
        self.spoken.append(text)
        return super().say(text)


class Mind:
    """A brain that obeys, but makes these calls for the first thing that it hears and no others; it remembers what it was asked.

    Args:
        calls: The calls of one response: a target's last name and its arguments.
        rewords: Whether it says in other words what it is told to say.
        while_saying: What it says before these calls, in the same response.
    """

    def __init__(
        self, calls: Iterable[tuple[str, str]] = (), *, rewords: bool = False, while_saying: str | None = None
    ) -> None:
        self.asked: list[BrainRequest] = []
        self._calls = list(calls)
        self._rewords = rewords
        self._first = [] if while_saying is None else [Say(while_saying)]
        self._obedient = ObedientBrain()
        self._lock = Lock()

    def respond(self, request: BrainRequest) -> Sequence[Step]:
        """Return what is said or called next."""
        with self._lock:
            self.asked.append(request)
            verbatim = verbatim_text(request.instructions)
            if verbatim is not None:
                return (Say(paraphrase(verbatim) if self._rewords else verbatim),)
            if self._calls and request.tools:
                calls, self._calls = self._calls, []
                return [*self._first, *(Call(self._named(request, name), arguments) for name, arguments in calls)]
            if request.history and isinstance(request.history[-1], ToolResult):
                return (Say("Done."),)
        return self._obedient.respond(replace(request, tools=()))

    def results(self) -> list[str]:
        """Return the results of calls that it was told last."""
        return [entry.output for entry in self.asked[-1].history if isinstance(entry, ToolResult)]

    def history(self) -> list[tuple[str, str]]:
        """Return who said what before it was asked last."""
        return [(entry.role, entry.text) for entry in self.asked[-1].history if isinstance(entry, Message)]

    @staticmethod
    def _named(request: BrainRequest, name: str) -> str:
        return next((tool.name for tool in request.tools if tool.name.endswith(name)), name)


# --- the caller's end


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call came to."""

    words: tuple[str | None, ...] = ()
    tools: tuple[str, ...] = ()
    said: tuple[tuple[str | None, str, bool | None, str | None], ...] = ()
    """Of each speech what was asked and generated, whether that is the same, and why it failed."""
    reason: str | None = None
    refused: str | None = None
    """Code of the error with which the call was refused."""
    heard: bool = False
    """Whether the caller heard anything."""
    warned: frozenset[str] = field(default=frozenset(), compare=False)


class Talk:
    """A session with its caller, and everything that was told of it so far."""

    def __init__(self, here: Installation, started: StartResponse, medium: Medium) -> None:
        self.here = here
        self.id = started.session_id
        self.started = started
        self.medium = medium
        self.events: list[dict[str, Any]] = []
        self.left: list[str] = []
        """What was still open when somebody looked last."""
        self._audio = 0
        self._follower = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        turns = self.started.turns_url is not None
        async for event in self.here.client.session_events(self.id, self.started.token, audio=turns):
            if event.get("type") == "reply.audio":
                self._audio += len(base64.b64decode(event["data"]))
            else:
                self.events.append(event)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the bodies of the recorded events of a kind."""
        return [event["body"] for event in self.events if event["type"] == kind and "seq" in event]

    def live(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of a kind that are not recorded."""
        return [event for event in self.events if event["type"] == kind and "seq" not in event]

    async def until(self, what: Callable[[], Any]) -> Any:
        """Wait for something; say what was recorded when it does not come."""
        try:
            return await until(what, SECONDS)
        except TimeoutError:
            shown = "\n".join(json.dumps(event) for event in self.events if "seq" in event)
            raise AssertionError(f"not within {SECONDS:g} s; recorded so far:\n{shown}") from None

    async def recorded(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Wait for the nth recorded event of a kind and return its body."""
        await self.until(lambda: len(self.of(kind)) >= count or (kind != "session.state" and self.over))
        found = self.of(kind)
        assert len(found) >= count, f"no {kind} in a session that is over: {self.of('session.state')[-1]}"
        return found[count - 1]

    async def ended(self) -> dict[str, Any]:
        """Wait for the session's end and return its record."""
        await self.until(lambda: self.over)
        return self.of("session.state")[-1]

    @property
    def state(self) -> str:
        """The session's state."""
        return str(self.of("session.state")[-1]["state"]) if self.of("session.state") else "created"

    @property
    def over(self) -> bool:
        """Whether the session has ended."""
        return self.state == "ended"

    @property
    def heard(self) -> bool:
        """Whether the caller heard the agent, in answer to a turn or outside of one."""
        return self.medium.heard or self._audio > 0

    async def connect(self) -> bool:
        """Connect the caller; return whether the call is up."""
        await self.medium.connect()
        if isinstance(self.medium, Recorded):  # gets live with the first turn
            return True
        await self.until(lambda: self.state in ("live", "ended") or self.medium.refused)
        return self.state == "live"

    async def speak(self, seconds: float = 0.5) -> None:
        """Speak, and be silent for long enough."""
        await self.medium.speak(seconds)

    async def type(self, text: str) -> None:
        """Say something in writing."""
        await self.here.client.send_input(self.id, text, self.started.token)

    async def hang_up(self) -> None:
        """Hang up unless it is over, and wait for the end."""
        if not self.over:
            await self.here.client.end_session(self.id, "caller_hangup", self.started.token)
        await self.ended()

    async def close(self) -> None:
        """Let go of the call."""
        await self.medium.close()
        await self.leave()

    async def leave(self) -> None:
        """Follow no longer; the caller stays where it is."""
        self._follower.cancel()
        await asyncio.gather(self._follower, return_exceptions=True)

    def outcome(self) -> Outcome:
        """Return what the call came to."""
        speeches = self.of("speech.ended")
        return Outcome(
            words=tuple(turn["text"] for turn in self.of("turn.committed")),
            tools=tuple(done["status"] for done in self.of("execution.ended") if done["kind"] in ("call", "tool")),
            said=tuple((each["asked"], each["generated"], each["verbatim"], each["failed"]) for each in speeches),
            reason=self.of("session.state")[-1].get("reason"),
            heard=self.heard,
            warned=frozenset(each["code"] for each in self.of("warning")),
        )


# --- the installation


def name_of(value: object) -> str:
    """Return how a parameter is called in the name of a test."""
    return "/".join(value) if isinstance(value, tuple) else str(value)


def target(pair: Pair) -> str:
    """Return the session of a pair."""
    return f"desk.{'_'.join(pair)}"


def desk() -> Agent:
    """Return an agent with a session for each pair, all with the same handler."""
    app = Agent("desk", registry=Registry.of([]))

    @app.reasoner()
    async def echo(word: str) -> dict[str, str]:
        return {"word": word}

    async def answer(session: Any) -> None:
        turn = await session.input()
        found = await session.call("desk.echo", word=turn.text or "nothing")
        await session.say(found["word"])

    for pair in PAIRS:
        provider, transport = pair
        app.session("_".join(pair), provider=provider, transport=transport)(answer)
    return app


def declared(pair: Pair, handler: Callable[[Any], Awaitable[None]], **declaration: Any) -> Agent:
    """Return an agent with one session for a pair, and with reasoners for its tools.

    `slow` waits for the agent's `release`; what `echo` was called with is in its `echoed`.
    """
    app = Agent("desk", registry=Registry.of([]))
    release, echoed = asyncio.Event(), list[str]()

    @app.reasoner()
    async def echo(word: str) -> dict[str, str]:
        echoed.append(word)
        return {"word": word}

    @app.reasoner()
    async def broken() -> None:
        raise ValueError("out of paper")

    @app.reasoner()
    async def slow() -> str:
        await release.wait()
        return "done at last"

    @app.reasoner(on_interrupt="cancel")
    async def held() -> None:
        await asyncio.Event().wait()

    app.session("_".join(pair), provider=pair[0], transport=pair[1], **declaration)(handler)
    app.release, app.echoed = release, echoed  # type: ignore[attr-defined]
    return app


@dataclass(slots=True)
class Installation:
    """A control plane, an agent and the provider's server, all in this process."""

    server: LocalServer
    plane: ControlPlane
    client: ControlPlaneClient
    http: aiohttp.ClientSession
    voice: Voice

    @asynccontextmanager
    async def talk(self, name: str, query: str = "", **start: Any) -> AsyncIterator[Talk]:
        """Start a session and follow it; at the end of the block hang up, and see that nothing of it is left."""
        started = await self.client.start_session(StartRequest(target=name, **start))
        talk = Talk(self, started, self.medium(started, query))
        try:
            yield talk
            await talk.hang_up()
        finally:
            await talk.close()
        await self.nothing_left(talk)

    async def nothing_left(self, talk: Talk) -> None:
        """Check that an ended session left nothing open: no execution, no session at the provider, no key anywhere."""

        async def open_ones() -> list[str]:
            ran = (await self.client.workflow(talk.id)).executions
            return [f"{each.kind} {each.target}" for each in ran if each.status in ("queued", "running", "waiting")]

        async with asyncio.timeout(SECONDS):
            while left := await open_ones():
                talk.left = left
                await asyncio.sleep(0.02)
        await talk.until(lambda: not self.server.sessions and all(call.legs == 0 for call in self.server.calls))
        assert CANARY not in json.dumps(talk.events)

    async def call(self, name: str, *, silent: bool = False) -> Outcome:
        """Make a call of one turn and return what it came to; a silent caller waits for the end."""
        async with self.talk(name) as talk:
            if await talk.connect():
                if not silent:
                    await talk.speak()
                await talk.until(lambda: talk.over or (not silent and self._answered(talk)))
        return talk.outcome()

    @staticmethod
    def _answered(talk: Talk) -> bool:
        return bool(talk.of("speech.ended")) or talk.medium.gone

    def medium(self, started: StartResponse, query: str = "") -> Medium:
        """Return how the caller of a session reaches it."""
        if started.media_url is not None:
            return Carried(self.http, started.media_url + query, started.token)
        if started.turns_url is not None:
            return Recorded(partial(self.client.turn, started.session_id, token=started.token))
        return Direct(partial(self.client.offer, started.session_id, token=started.token))


def environment(server: LocalServer) -> dict[str, str]:
    """Return the settings of a control plane whose providers are all this server."""
    return {
        "OPENAI_API_KEY": CANARY,
        "OPENAI_BASE_URL": server.base_url,
        "OPENROUTER_API_KEY": CANARY,
        "OPENROUTER_BASE_URL": server.base_url,
        "AGENTFIELD_LOCAL_URL": server.base_url,
    }


@asynccontextmanager
async def installation(
    home: Path,
    app: Agent | None = None,
    *,
    hears: Iterable[str] = (),
    brain: Brain | None = None,
    prices: Path | None = None,
    registry: Registry | None = None,
) -> AsyncIterator[Installation]:
    """Run an installation whose providers are all one local server; when it is left, no task of it may be.

    Args:
        home: The control plane's folder.
        app: The agent; by default the desk.
        hears: What is heard, turn by turn.
        brain: The provider's brain; by default it obeys.
        prices: The operator's prices.
        registry: The control plane's plugins; by default what is installed.
    """
    before = asyncio.all_tasks()
    voice = Voice()
    engines = SpeechEngines(name="synthetic", vad=EnergyVad, stt=FixedStt(hears), tts=voice)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(LocalServer(engines, brain or ObedientBrain()))
        yield await enter(stack, home, app or desk(), server, voice, prices, registry)
    await until(lambda: not [task for task in asyncio.all_tasks() - before if _ours(task)])


def _ours(task: asyncio.Task[Any]) -> bool:
    """Tell whether a task runs code of ours; a library's own may outlive a line that broke while it was being made."""
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and "/agentfield" in code.co_filename


async def enter(
    stack: AsyncExitStack,
    home: Path,
    app: Agent,
    server: LocalServer,
    voice: Voice,
    prices: Path | None = None,
    registry: Registry | None = None,
) -> Installation:
    """Run a control plane and its agent beside a provider that runs already."""
    environ: Mapping[str, str] = environment(server)
    settings = Settings(home=home, port=0, prices=prices)
    plane = await stack.enter_async_context(control_plane(settings, registry=registry, environ=environ))
    app._url, app._api_key = plane.url, None
    await stack.enter_async_context(app)
    client = await stack.enter_async_context(ControlPlaneClient(plane.url))
    http = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
    return Installation(server, plane, client, http, voice)
