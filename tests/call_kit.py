"""What the tests of whole calls share: the programs of an installation, a caller who speaks recordings, all that came of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import numpy as np

from agentfield.client import ControlPlaneClient
from agentfield.wire.rest import DagView, ExecutionView, SessionView, StartRequest, StartResponse
from agentfield_cli.audio import RATE, Samples, read_recording
from agentfield_cli.demo.speech import SpeechServer
from agentfield_cli.dialling import dial
from agentfield_cli.hearing import Call
from agentfield_cli.live import Follower
from agentfield_cli.output import Output

__all__ = [
    "CANARY",
    "EXAMPLES",
    "ROOT",
    "SECONDS",
    "SPEECH",
    "Answer",
    "House",
    "LiveCall",
    "Transcript",
    "calling",
    "clip",
    "entered",
    "house",
    "of_kind",
    "program",
    "provider",
    "speech_server",
    "tone",
    "transcripts",
    "tree",
]

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
SPEECH = ROOT / "tests" / "speech_fixtures"
SECONDS = 60.0
"""How long anything may take before a test gives up; never how long it should take."""

CANARY = "sk-canary-Vt93kQe7LmXw20"
"""A provider key that must be in no byte but the header that carries it."""

T = TypeVar("T")
_QUIET = 0.6
_SETTINGS = ("AGENTFIELD_", "OPENAI_", "OPENROUTER_")


# ── recordings ────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Transcript:
    """One recording and the words in it."""

    file: str
    kind: str
    words: str


def transcripts(kind: str) -> list[Transcript]:
    """Return the clean clips of a kind, "human" or "synthetic"; single words out of context (`cards`) are not clean."""
    listed: list[dict[str, Any]] = json.loads((SPEECH / "transcripts.json").read_text())
    known = [Transcript(clip["file"], clip["kind"].split()[0], clip["transcript"]) for clip in listed]
    return [each for each in known if each.kind == kind and not each.file.startswith("cards")]


def clip(name: str) -> Samples:
    """Return a recording of the fixtures, by its name without suffix, such as `synthetic/01`."""
    return read_recording(SPEECH / f"{name.removesuffix('.wav')}.wav")


def tone(seconds: float = 0.6) -> Samples:
    """Return what the synthetic engines take for speech."""
    at = np.arange(int(RATE * seconds)) / RATE
    return (8000 * np.sin(2 * np.pi * 300 * at)).astype(np.int16)


# ── programs ──────────────────────────────────────────────────────────────────


@contextmanager
def program(
    arguments: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block is left; it sees no setting of ours but `env`, all it prints is in `log`."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments,
            env={**own, "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _eventually(look: Callable[[], T | None], running: Mapping[Path, subprocess.Popen[bytes]], what: str) -> T:
    """Wait for other processes, which have no way to tell us; fail with what they printed when one ends instead."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and all(process.poll() is None for process in running.values()):
        with contextlib.suppress(OSError, ValueError):
            found = look()
            if found:
                return found
        time.sleep(0.05)  # between two looks at the condition, not in its place
    told = "\n".join(
        f"{log.name}, exit {process.poll()}: {log.read_text()[-4000:]}" for log, process in running.items()
    )
    raise AssertionError(f"{what}: not within {SECONDS:g} s\n{told}")


@contextmanager
def speech_server(folder: Path, *flags: str) -> Iterator[SpeechServer]:
    """Run the offline server of the Realtime protocol.

    Args:
        folder: Where its output is kept.
        flags: What else its command line says, such as ``"--brain", "paraphrasing"``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "speech.log"
    arguments = [sys.executable, "-m", "agentfield_local", "--port", "0", "--linger", "0", *flags]
    with program(arguments, log=log) as process:

        def address() -> str | None:
            ready = (line for line in log.read_text().splitlines() if line.startswith('{"url"'))
            return next((str(json.loads(line)["url"]) for line in ready), None)

        yield SpeechServer(_eventually(address, {log: process}, "the speech server"), "")


def provider(url: str) -> dict[str, str]:
    """Return the settings of a control plane whose providers with a key are all the server at `url`, by a canary key."""
    return {f"{name}_{what}": value for name in ("OPENAI", "OPENROUTER") for what, value in _server(url)}


def _server(url: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("BASE_URL", f"{url}/v1"), ("API_KEY", CANARY)


@dataclass(slots=True)
class House:
    """An installation that runs: a control plane with its agents."""

    url: str
    home: Path
    logs: list[Path] = field(default_factory=list)

    def client(self) -> ControlPlaneClient:
        """Return a client of the operator."""
        return ControlPlaneClient(self.url)

    def nodes(self) -> list[dict[str, Any]]:
        """Return the instances that are linked."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{self.url}/api/v1/nodes", timeout=10) as response:
            listed: list[dict[str, Any]] = json.load(response)
        return [node for node in listed if node["connected"]]

    def everything(self) -> dict[str, bytes]:
        """Return all that the installation wrote: logs, store, state files."""
        files = [*self.logs, *(path for path in self.home.rglob("*") if path.is_file())]
        return {str(path): path.read_bytes() for path in files}


@contextmanager
def house(folder: Path, *agents: Path, env: Mapping[str, str]) -> Iterator[House]:
    """Run a control plane and agents, each as a process of its own, and wait until all are linked.

    Args:
        folder: Where everything is kept.
        agents: Agent files, run as they are.
        env: The control plane's settings; agents do not see them.
    """
    home, log = folder / "home", folder / "plane.log"
    home.mkdir(parents=True)
    af = str(Path(sys.executable).with_name("af"))
    with ExitStack() as stack:
        where = {"AGENTFIELD_HOME": str(home), "AGENTFIELD_DRAIN_SECONDS": "1"}
        plane = stack.enter_context(program([af, "server", "--port", "0", "--json"], log=log, env={**where, **env}))
        current = home / "current.json"
        url = _eventually(lambda: str(json.loads(current.read_text())["url"]), {log: plane}, "the control plane")
        running = {}
        for number, file in enumerate(agents):
            said = folder / f"{number} {file.parent.name} {file.stem}.log"
            node = program([sys.executable, str(file)], log=said, env={**where, "AGENTFIELD_URL": url}, cwd=folder)
            running[said] = stack.enter_context(node)
        it = House(url, home, [log, *running])
        _eventually(lambda: len(it.nodes()) >= len(agents), running, "the agents")
        yield it


async def entered(stack: AsyncExitStack, programs: AbstractContextManager[T]) -> T:
    """Enter what runs programs for as long as the stack does, while a server in this process goes on serving."""
    value = await asyncio.to_thread(programs.__enter__)
    stack.push_async_callback(asyncio.to_thread, programs.__exit__, None, None, None)
    return value


# ── a call ────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one recording that the caller spoke."""

    turns: list[dict[str, Any]]
    """Bodies of `turn.committed`."""
    speeches: list[dict[str, Any]]
    """Bodies of `speech.ended`."""
    audio: Samples
    """What the caller heard meanwhile, 48 kHz mono."""

    @property
    def caller(self) -> str:
        """What the caller was understood to say."""
        return " ".join(turn["text"] or "" for turn in self.turns)


class _Record(Follower):
    """Follows a session and keeps all events."""

    def __init__(self) -> None:
        super().__init__(Output(as_json=True))
        self.events: list[dict[str, Any]] = []
        self.news = asyncio.Event()

    def take(self, event: Mapping[str, Any]) -> None:
        self.events.append(dict(event))
        super().take(event)
        self.news.set()


class LiveCall:
    """A call that is up, with the session's events as its caller's page sees them."""

    def __init__(self, client: ControlPlaneClient, started: StartResponse) -> None:
        self.client = client
        self.started = started
        self.id = started.session_id
        self._record = _Record()
        self._call: Call | None = None

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events so far, recorded and live."""
        return self._record.events

    @property
    def call(self) -> Call:
        """The media."""
        assert self._call is not None
        return self._call

    def recorded(self, kind: str) -> list[dict[str, Any]]:
        """Return the recorded events of a type so far, with their envelopes."""
        return of_kind(self.events, kind)

    async def until(self, look: Callable[[], Any]) -> Any:
        """Return what `look` finds once it finds something; looked for at each event."""
        try:
            async with asyncio.timeout(SECONDS):
                while not (found := look()):
                    self._record.news.clear()
                    await self._record.news.wait()
        except TimeoutError:
            shown = "\n".join(json.dumps(event) for event in self.events if "seq" in event)
            raise AssertionError(f"not within {SECONDS:g} s; recorded so far:\n{shown}") from None
        return found

    async def wait(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Return the body of the recorded event of a type, the `count`-th."""
        found = await self.until(lambda: self.recorded(kind)[count - 1 : count])
        body: dict[str, Any] = found[0]["body"]
        return body

    async def say(self, samples: Samples) -> Answer:
        """Speak a recording, and wait until it was taken and what it led to was heard."""
        turns, speeches, heard = self._turns(), len(self.recorded("speech.ended")), self.call.recording.size
        known = len(self.recorded("turn.committed"))
        await self.call.speak(samples)
        settled = False
        while not settled:
            await self.until(lambda: self._turns() > turns and not self.busy)
            await self.call.quiet(_QUIET)
            settled = not self.busy
        return Answer(
            turns=[event["body"] for event in self.recorded("turn.committed")[known:]],
            speeches=[event["body"] for event in self.recorded("speech.ended")[speeches:]],
            audio=self.call.recording[heard:],
        )

    async def hang_up(self) -> SessionView:
        """Hang up as the caller's page does, and return the session once it has ended."""
        await self.client.end_session(self.id, token=self.started.token)
        return await self.ended()

    async def ended(self) -> SessionView:
        """Return the session once it has ended."""
        await self.until(lambda: self._state == "ended")
        return await self.client.get_session(self.id)

    async def dag(self) -> DagView:
        """Return all that the session ran."""
        return await self.client.workflow(self.id)

    async def raw_events(self) -> bytes:
        """Return the bytes of the event stream of a session that has ended, from its beginning."""
        headers = {"Authorization": f"Bearer {self.started.token}"}
        url = f"{self.client.url}/api/v1/sessions/{self.id}/events"
        async with aiohttp.ClientSession(trust_env=False, headers=headers) as http, http.get(url) as response:
            return await response.read()

    @property
    def busy(self) -> bool:
        """Whether the caller is still being understood, or the agent works or speaks."""
        return self._state != "ended" and self._record.busy

    @property
    def _state(self) -> str:
        return self._record.state

    def _turns(self) -> int:
        return len(self._record.turns) + self._record.discarded + (self._state == "ended")


@asynccontextmanager
async def calling(
    client: ControlPlaneClient, target: str, *, rate: int = 24_000, **start: Any
) -> AsyncIterator[LiveCall]:
    """Start a session, call it over its transport, and yield once it is live; hangs up at the end unless it is over.

    Args:
        client: Of the control plane.
        target: The session.
        rate: Samples per second that the caller sends, where the control plane carries the audio.
        start: What else is asked for.
    """
    live = LiveCall(client, await client.start_session(StartRequest(target=target, **start)))
    record = live._record
    async with dial(client, live.started, record, record.out, loopback=True, rate=rate) as (call, _):
        live._call = call
        if live.started.turns_url is None:  # recorded turns begin with the first one
            await live.until(lambda: live._state in ("live", "ended"))
        yield live
        if live._state != "ended":
            await live.hang_up()


# ── what came of it ───────────────────────────────────────────────────────────


def of_kind(events: Sequence[Mapping[str, Any]], kind: str) -> list[Any]:
    """Return the recorded events of a type."""
    return [event for event in events if event["type"] == kind and "seq" in event]


def tree(dag: DagView) -> list[tuple[str, str, str, str | None]]:
    """Return (kind, target, status, parent) of all executions in order; a parent is its kind and its number."""
    names: dict[str, str] = {}
    count: dict[str, int] = {}
    for execution in dag.executions:
        count[execution.kind] = count.get(execution.kind, 0) + 1
        names[execution.id] = f"{execution.kind} {count[execution.kind]}"
    return [(e.kind, e.target, e.status, _parent(e, names)) for e in dag.executions]


def _parent(execution: ExecutionView, names: Mapping[str, str]) -> str | None:
    return None if execution.parent_id is None else names.get(execution.parent_id, "unknown")
