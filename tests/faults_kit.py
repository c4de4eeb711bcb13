"""What the fault tests share: programs that can be killed, a house of them, a caller, a session's story, the store's books."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from agentfield.client import ControlPlaneClient
from agentfield.errors import AgentFieldError
from agentfield.wire.rest import NodeView, SessionView, StartRequest
from agentfield_cli.audio import RATE, Samples
from agentfield_cli.dialling import dial
from agentfield_cli.hearing import Call
from agentfield_cli.live import Follower
from agentfield_cli.output import Output
from agentfield_local.brain import load_brain
from agentfield_local.server import LocalServer
from agentfield_local.speech.energy import EnergyVad, FixedStt, ToneTts
from agentfield_local.speech.protocols import SpeechEngines

__all__ = [
    "AF",
    "DICTATION",
    "FINAL",
    "ROOT",
    "STEPS",
    "Books",
    "House",
    "Phone",
    "Program",
    "Story",
    "eventually",
    "free_port",
    "opened",
    "phone",
    "provider",
    "tone",
]

AF = str(Path(sys.executable).with_name("af"))
ROOT = Path(__file__).resolve().parents[1]
STEPS = ROOT / "tests" / "faults" / "steps_agent.py"
DICTATION = ROOT / "examples" / "voice_dictation" / "agent.py"
SECONDS = 45.0
FINAL = {"succeeded", "failed", "cancelled", "timeout"}

_Value = TypeVar("_Value")


async def eventually(
    look: Callable[[], Awaitable[_Value]], fits: Callable[[_Value], Any] = bool, seconds: float = SECONDS
) -> _Value:
    """Return what `look` returns as soon as it fits; for what happens in another process and is announced by nobody."""
    last: object = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                last = value = await look()
                if fits(value):
                    return value
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s; last seen: {last!r}") from None


def free_port() -> int:
    """Return a port that nobody listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])


def tone(seconds: float = 0.5) -> Samples:
    """Something loud to say, 48 kHz mono."""
    at = np.arange(int(RATE * seconds)) / RATE
    return (9000 * np.sin(2 * np.pi * 440 * at)).astype(np.int16)


# ── programs ──────────────────────────────────────────────────────────────────


class Program:
    """A program that is started, killed and started again.

    Args:
        arguments: Its command line.
        env: What its environment has beyond ours; what of ours is about AgentField it does not see.
        log: Where all it prints goes.
    """

    def __init__(self, arguments: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        self._arguments = arguments
        ours = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("AGENTFIELD_", "OPENAI_", "OPENROUTER_", "DICTATION_"))
        }
        self._env = {**ours, "PYTHONUNBUFFERED": "1", **env}
        self.log = log
        self.process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The number of the process that runs."""
        assert self.process is not None
        return self.process.pid

    @property
    def said(self) -> str:
        """All it printed, earlier runs included."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def check(self) -> None:
        """Fail when it has ended by itself."""
        assert self.process is not None
        assert self.process.returncode is None, self.said

    async def start(self) -> None:
        """Start it."""
        assert self.process is None
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *self._arguments, env=self._env, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
            )

    async def end(self, number: signal.Signals, seconds: float = SECONDS) -> int:
        """Send a signal and return the exit code."""
        process, self.process = self.process, None
        assert process is not None
        try:
            if process.returncode is None:
                process.send_signal(number)
            async with asyncio.timeout(seconds):
                return await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(f"it did not end within {seconds:g} s of {number.name}: {self.said}") from None

    async def kill(self) -> None:
        """End it at once: SIGKILL."""
        await self.end(signal.SIGKILL)

    async def stop(self) -> int:
        """Ask it to end (SIGTERM) and return the exit code."""
        return await self.end(signal.SIGTERM)

    async def run(self, seconds: float = SECONDS) -> int:
        """Start it, wait for its end, return the exit code."""
        await self.start()
        process, self.process = self.process, None
        assert process is not None
        try:
            async with asyncio.timeout(seconds):
                return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def close(self) -> None:
        """End it if it still runs."""
        if self.process is not None:
            await self.kill()


class House:
    """A control plane and an agent as processes, in a folder and on a port that outlive them.

    Args:
        folder: Where everything is kept.
        local_url: Address of the local provider; None lets the control plane start one of its own.
        openai_url: Base URL of what is to be OpenAI, and OpenRouter.
    """

    def __init__(self, folder: Path, *, local_url: str | None = None, openai_url: str | None = None) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {"AGENTFIELD_HOME": str(self.home), "AGENTFIELD_PORT": str(self.port)}
        provider_env = {"AGENTFIELD_LOCAL_URL": local_url} if local_url else {}
        if openai_url:
            names = ("OPENAI", "OPENROUTER")
            provider_env = {f"{name}_BASE_URL": openai_url for name in names}
            provider_env |= {f"{name}_API_KEY": "sk-none-needed" for name in names}
        self._programs: list[Program] = []
        self.plane = self.program("plane", "-m", "agentfield_server", env={**self.env, **provider_env})
        self.client = ControlPlaneClient(self.url)
        self.gate = folder / "gate.closed"

    def program(self, name: str, *arguments: str, env: Mapping[str, str]) -> Program:
        """Return a Python program of this house, not yet started."""
        program = Program((sys.executable, *arguments), env=env, log=self.folder / f"{name}.log")
        self._programs.append(program)
        return program

    def agent(self, file: Path = STEPS, *, env: Mapping[str, str] = MappingProxyType({})) -> Program:
        """Return an agent of this house, not yet started."""
        ours = {"AGENTFIELD_HOME": str(self.home), "AGENTFIELD_URL": self.url, "STEPS_FOLDER": str(self.folder)}
        ours["AGENTFIELD_DRAIN_SECONDS"] = "1"  # of who is told to stop; no test of others waits for it
        return self.program("agent", str(file), env={**ours, **env})

    def provider(self, port: int) -> Program:
        """Return a local provider on a port, with tones for speech, as a program of this house."""
        serve = ("-m", "agentfield_local", "--engines", "synthetic", "--port", str(port), "--linger", "0")
        return self.program("provider", *serve, env={})

    async def start_provider(self, server: Program) -> None:
        """Start a provider and wait for the line that says it is ready."""
        before = server.said.count('"url"')
        await server.start()

        async def ready() -> bool:
            server.check()
            return server.said.count('"url"') > before

        await eventually(ready)

    async def start_plane(self) -> None:
        """Start the control plane and wait until it serves."""
        await self.plane.start()

        async def serves() -> bool:
            self.plane.check()
            try:
                return bool(await self.client.health())
            except AgentFieldError:
                return False

        await eventually(serves)

    async def start_agent(self, agent: Program) -> NodeView:
        """Start an agent and wait until a new instance is linked."""
        before = {node.instance_id for node in await self.client.nodes()}
        await agent.start()
        return await self.linked(agent, but=before)

    async def linked(self, agent: Program, *, but: Iterable[str] = ()) -> NodeView:
        """Wait until an instance other than these is linked."""
        known = set(but)

        async def look() -> NodeView | None:
            agent.check()
            nodes = [node for node in await self.client.nodes() if node.connected and node.instance_id not in known]
            return nodes[0] if nodes else None

        found = await eventually(look)
        assert found is not None
        return found

    async def ended(self, session_id: str) -> SessionView:
        """Wait for the end of a session."""
        return await eventually(lambda: self.client.get_session(session_id), lambda view: view.state == "ended")

    def books(self) -> Books:
        """Return what is in the store now."""
        return Books(self.home / "agentfield.db")

    async def close(self) -> None:
        """End what still runs."""
        for program in self._programs:
            await program.close()


@asynccontextmanager
async def opened(house: House) -> AsyncIterator[House]:
    """Use a house and end all its programs afterwards."""
    house.folder.mkdir(parents=True, exist_ok=True)
    async with house.client:
        try:
            yield house
        finally:
            await house.close()


class _Joe(ToneTts):
    """Tones by the name of the voice that the `local` pairs offer."""

    @property
    def voices(self) -> tuple[str, ...]:
        return ("joe",)


@asynccontextmanager
async def provider(*texts: str) -> AsyncIterator[LocalServer]:
    """Run a local provider that can be looked into; it hears these texts, one a turn, and answers with tones."""
    engines = SpeechEngines(name="synthetic", vad=EnergyVad, stt=FixedStt(texts), tts=_Joe())
    async with LocalServer(engines, load_brain("obedient")) as server:
        yield server


# ── a call ────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Story:
    """What was recorded of a session, as its caller's page sees it: one stream, opened again whenever it is lost."""

    events: list[dict[str, Any]] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, event: Mapping[str, Any]) -> None:
        """Take an event, if it is a recorded one."""
        if "seq" in event:
            self.events.append(dict(event))
            self._news.set()

    def all(self, name: str, /, **body: Any) -> list[dict[str, Any]]:
        """Return the events of a type whose body has these values."""
        found = [event for event in self.events if event["type"] == name]
        return [event for event in found if all(event["body"].get(k) == v for k, v in body.items())]

    async def until(self, name: str, /, *, count: int = 1, seconds: float = SECONDS, **body: Any) -> dict[str, Any]:
        """Wait for so many events of a type with these values in their bodies and return the last of them."""
        try:
            async with asyncio.timeout(seconds):
                while len(found := self.all(name, **body)) < count:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            seen = [(event["type"], event["body"]) for event in self.events]
            raise AssertionError(f"no {name} {body} within {seconds:g} s; there were: {seen}") from None
        return found[count - 1]


class _Reader(Follower):
    """What a call follows its session with; all that is recorded goes into the story."""

    def __init__(self, story: Story) -> None:
        super().__init__(Output(as_json=True))
        self._story = story

    def take(self, event: Mapping[str, Any]) -> None:
        super().take(event)
        self._story.take(event)


@dataclass(slots=True)
class Phone:
    """A call that is up, and the session behind it."""

    session_id: str
    run_id: str
    story: Story
    call: Call
    house: House
    recorded: bool = False
    """Whether its turns are recordings, each of which waits for its answer."""
    answers: list[asyncio.Task[float]] = field(default_factory=list)
    """Recordings that were posted, each done when its answer was taken to the end."""

    async def turn(self, text: str) -> float:
        """Say something that the provider understands as `text`; returns when the last sound was made."""
        count = len(self.story.all("turn.committed", text=text)) + 1
        if self.recorded:
            end = time.monotonic()
            self.answers.append(asyncio.create_task(self.call.speak(tone())))
        else:
            end = await self.call.speak(tone())
        await self.story.until("turn.committed", text=text, count=count)
        return end

    async def answered(self, said: str) -> dict[str, Any]:
        """Wait until the agent was asked to say something that begins like this, and has said it."""
        begun = await eventually(self._begun(said))
        return await self.story.until("speech.ended", speech_id=begun["body"]["speech_id"])

    def _begun(self, said: str) -> Callable[[], Awaitable[dict[str, Any]]]:
        async def look() -> dict[str, Any]:
            found = [e for e in self.story.all("speech.started") if str(e["body"]["asked"]).startswith(said)]
            return found[-1] if found else {}

        return look

    async def begins(self, said: str) -> dict[str, Any]:
        """Wait until the agent begins to say something that begins like this."""
        return await eventually(self._begun(said))

    async def hang_up(self) -> SessionView:
        """End the session as its caller and return it."""
        await self.house.client.end_session(self.session_id, reason="caller_hangup")
        await self.story.until("session.state", state="ended")
        return await self.house.ended(self.session_id)


@asynccontextmanager
async def phone(
    house: House, target: str = "steps.talk", *, client: ControlPlaneClient | None = None
) -> AsyncIterator[Phone]:
    """Start a session and call it over its transport; the caller follows it for as long as the block runs.

    Args:
        house: Where it is.
        target: The session.
        client: How the caller reaches the control plane, if not as everybody does.
    """
    client = client or house.client
    started = await client.start_session(StartRequest(target=target))
    story = Story()
    reader = _Reader(story)
    async with dial(client, started, reader, reader.out, loopback=True, rate=24_000) as (call, _):
        recorded = started.turns_url is not None
        if not recorded:  # recorded turns begin with the first one
            await story.until("session.state", state="live")
        calling = Phone(started.session_id, started.run_id, story, call, house, recorded)
        try:
            yield calling
        finally:
            for answer in calling.answers:
                answer.cancel()
            await asyncio.gather(*calling.answers, return_exceptions=True)


# ── the store's books ─────────────────────────────────────────────────────────


class Books:
    """What a store holds, read behind the control plane's back and checked on the way.

    Args:
        path: The database.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as database:
            database.execute("PRAGMA busy_timeout = 10000")
            return database.execute(query, values).fetchall()

    def log(self, run_id: str) -> list[dict[str, Any]]:
        """Return the log of a run; every number is there once, and every leaf is the digest of its event."""
        rows = self._rows("SELECT seq, canonical, leaf FROM events WHERE run_id = ? ORDER BY seq", run_id)
        assert [seq for seq, _, _ in rows] == list(range(1, len(rows) + 1))
        [(last,)] = self._rows("SELECT seq FROM runs WHERE id = ?", run_id)
        assert last == len(rows)
        events = []
        for seq, canonical, leaf in rows:
            assert hashlib.sha256(b"\0" + canonical).digest() == leaf
            event = json.loads(canonical)
            assert (event["seq"], event["run_id"]) == (seq, run_id)
            events.append(event)
        return events

    def statuses(self, run_id: str) -> dict[str, str]:
        """Return the status of every execution of a run."""
        return dict(self._rows("SELECT id, status FROM executions WHERE run_id = ?", run_id))

    def open_executions(self) -> dict[str, str]:
        """Return the status of every execution that has not ended."""
        query = "SELECT id, status FROM executions WHERE status IN ('queued', 'running', 'waiting')"
        return dict(self._rows(query))

    def call_id(self, session_id: str) -> str | None:
        """Return the id of the session's call at the provider."""
        [(ref,)] = self._rows("SELECT call_ref FROM sessions WHERE id = ?", session_id)
        return None if ref is None else json.loads(ref).get("call_id")

    def check_over(self, run_id: str) -> list[dict[str, Any]]:
        """Return the log of a run that is over: nothing is open, and everything ended once, as the log says."""
        log = self.log(run_id)
        ends = [(e["execution_id"], e["body"]["status"]) for e in log if e["type"] == "execution.ended"]
        assert dict(ends) == self.statuses(run_id)
        assert len(ends) == len(dict(ends))
        assert set(dict(ends).values()) <= FINAL
        return log
