"""A call to a session by a caller who plays recordings, with the session's events as the caller's page sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from agentfield.client import ControlPlaneClient
from agentfield.wire.rest import DagView, ExecutionView, SessionView, StartRequest, StartResponse
from agentfield_cli.call.audio_io import TerminalCall
from agentfield_cli.call.place_call import place_call
from agentfield_cli.call.recordings import Samples
from agentfield_cli.terminal.output import Output
from agentfield_cli.terminal.session_follower import SessionFollower
from support.waiting import SECONDS

__all__ = ["Answer", "LiveCall", "calling", "of_kind", "tree"]

_QUIET = 0.6
"""Seconds of silence after which an answer is over."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What followed one recording that the caller played."""

    turns: list[dict[str, Any]]
    """Bodies of `turn.committed`."""
    speeches: list[dict[str, Any]]
    """Bodies of `speech.ended`."""
    audio: Samples
    """The audio that the caller heard meanwhile, 48 kHz mono."""

    @property
    def caller(self) -> str:
        """The transcript of the caller."""
        return " ".join(turn["text"] or "" for turn in self.turns)


class _Record(SessionFollower):
    """Follow a session and keep all events."""

    def __init__(self) -> None:
        super().__init__(Output(as_json=True))
        self.events: list[dict[str, Any]] = []
        self.news = asyncio.Event()

    def take(self, event: Mapping[str, Any]) -> None:
        self.events.append(dict(event))
        super().take(event)
        self.news.set()


class LiveCall:
    """A running call."""

    def __init__(self, client: ControlPlaneClient, started: StartResponse) -> None:
        self.client = client
        self.started = started
        self.id = started.session_id
        self._record = _Record()
        self._call: TerminalCall | None = None

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events so far, recorded and live."""
        return self._record.events

    @property
    def call(self) -> TerminalCall:
        """The caller's end of the media."""
        assert self._call is not None
        return self._call

    def recorded(self, kind: str) -> list[dict[str, Any]]:
        """Return the recorded events of a type so far, with their envelopes."""
        return of_kind(self.events, kind)

    async def until(self, look: Callable[[], Any]) -> Any:
        """Call `look` at each event until it returns something true, and return that."""
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
        """Play a recording and wait until its turn is answered and the answer was heard."""
        turns, speeches, heard = self._turns(), len(self.recorded("speech.ended")), self.call.recording.size
        known = len(self.recorded("turn.committed"))
        # a call that has ended plays and takes no audio: without the guard this waits for ever
        await self._record.unless_ended(self.call.speak(samples))
        settled = False
        while not settled:
            await self.until(lambda: self._turns() > turns and not self.busy)
            await self._record.unless_ended(self.call.wait_for_quiet(_QUIET))
            settled = not self.busy
        return Answer(
            turns=[event["body"] for event in self.recorded("turn.committed")[known:]],
            speeches=[event["body"] for event in self.recorded("speech.ended")[speeches:]],
            audio=self.call.recording[heard:],
        )

    async def hang_up(self) -> SessionView:
        """Hang up as the caller's page does and return the ended session."""
        await self.client.end_session(self.id, token=self.started.token)
        return await self.ended()

    async def ended(self) -> SessionView:
        """Return the session once it has ended."""
        await self.until(lambda: self._state == "ended")
        return await self.client.get_session(self.id)

    async def dag(self) -> DagView:
        """Return the executions of the session."""
        return await self.client.workflow(self.id)

    async def raw_events(self) -> bytes:
        """Return the whole event stream of an ended session."""
        headers = {"Authorization": f"Bearer {self.started.token}"}
        url = f"{self.client.url}/api/v1/sessions/{self.id}/events"
        async with aiohttp.ClientSession(trust_env=False, headers=headers) as http, http.get(url) as response:
            return await response.read()

    @property
    def busy(self) -> bool:
        """Whether a turn is being transcribed, or the agent works or speaks."""
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
    """Start a session, call it over its transport and yield once it is live; hang up at the end unless it has ended.

    Args:
        client: A client of the control plane.
        target: The session to start.
        rate: Samples per second that the caller sends where the control plane carries the audio.
        start: Further fields of the start request.
    """
    live = LiveCall(client, await client.start_session(StartRequest(target=target, details=True, **start)))
    record = live._record
    async with place_call(client, live.started, record, record.out, loopback=True, rate=rate) as (call, _):
        live._call = call
        if live.started.turns_url is None:  # recorded turns begin with the first one
            await live.until(lambda: live._state in ("live", "ended"))
        yield live
        if live._state != "ended":
            await live.hang_up()


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
