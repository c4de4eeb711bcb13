"""Calls for fault tests, and the events that were recorded of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from agentfield.client import ControlPlaneClient
from agentfield.wire.rest import SessionView, StartRequest
from agentfield_cli.call.audio_io import TerminalCall
from agentfield_cli.call.place_call import place_call
from agentfield_cli.terminal.output import Output
from agentfield_cli.terminal.session_follower import SessionFollower
from support.audio import tone_samples
from support.faults.installation import Installation
from support.waiting import SECONDS, until_async

__all__ = ["CallRecord", "LiveCall", "calling"]


@dataclass(slots=True)
class CallRecord:
    """The recorded events of a session, as its caller's page sees them: one stream, opened again whenever it is lost."""

    events: list[dict[str, Any]] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, event: Mapping[str, Any]) -> None:
        """Keep an event if it is a recorded one."""
        if "seq" in event:
            self.events.append(dict(event))
            self._news.set()

    def all(self, name: str, /, **body: Any) -> list[dict[str, Any]]:
        """Return the events of a type whose bodies have these values."""
        found = [event for event in self.events if event["type"] == name]
        return [event for event in found if all(event["body"].get(k) == v for k, v in body.items())]

    async def until(self, name: str, /, *, count: int = 1, seconds: float = SECONDS, **body: Any) -> dict[str, Any]:
        """Wait until `count` events of a type have these values in their bodies, and return the last of them."""
        try:
            async with asyncio.timeout(seconds):
                while len(found := self.all(name, **body)) < count:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            seen = [(event["type"], event["body"]) for event in self.events]
            raise AssertionError(f"no {name} {body} within {seconds:g} s; there were: {seen}") from None
        return found[count - 1]


class _Follower(SessionFollower):
    """Follows a session for a call and keeps its recorded events."""

    def __init__(self, record: CallRecord) -> None:
        super().__init__(Output(as_json=True))
        self._story = record

    def take(self, event: Mapping[str, Any]) -> None:
        super().take(event)
        self._story.take(event)


@dataclass(slots=True)
class LiveCall:
    """A running call and its session."""

    session_id: str
    run_id: str
    record: CallRecord
    call: TerminalCall
    installation: Installation
    recorded: bool = False
    """Whether its turns are posted recordings, each of which waits for its answer."""
    answers: list[asyncio.Task[float]] = field(default_factory=list)
    """One task for each posted recording; it ends when the answer was read to its end."""

    async def turn(self, text: str) -> float:
        """Speak a turn that the provider understands as `text`, wait until it is committed and return the time of the last sound."""
        count = len(self.record.all("turn.committed", text=text)) + 1
        if self.recorded:
            end = time.monotonic()
            self.answers.append(asyncio.create_task(self.call.speak(tone_samples())))
        else:
            end = await self.call.speak(tone_samples())
        await self.record.until("turn.committed", text=text, count=count)
        return end

    async def answered(self, said: str) -> dict[str, Any]:
        """Wait until the agent has said a text that starts like this, and return the body of `speech.ended`."""
        begun = await until_async(self._begun(said))
        return await self.record.until("speech.ended", speech_id=begun["body"]["speech_id"])

    def _begun(self, said: str) -> Callable[[], Awaitable[dict[str, Any]]]:
        async def look() -> dict[str, Any]:
            found = [e for e in self.record.all("speech.started") if str(e["body"]["asked"]).startswith(said)]
            return found[-1] if found else {}

        return look

    async def begins(self, said: str) -> dict[str, Any]:
        """Wait until the agent starts to say a text that starts like this."""
        return await until_async(self._begun(said))

    async def hang_up(self) -> SessionView:
        """End the session as its caller and return it."""
        await self.installation.client.end_session(self.session_id, reason="caller_hangup")
        await self.record.until("session.state", state="ended")
        return await self.installation.ended(self.session_id)


@asynccontextmanager
async def calling(
    installation: Installation, target: str = "steps.talk", *, client: ControlPlaneClient | None = None
) -> AsyncIterator[LiveCall]:
    """Start a session and call it over its transport; the caller follows it until the block ends.

    Args:
        installation: The installation that runs it.
        target: The session to start.
        client: The caller's own client; the installation's by default.
    """
    client = client or installation.client
    started = await client.start_session(StartRequest(target=target, details=True))
    record = CallRecord()
    reader = _Follower(record)
    async with place_call(client, started, reader, reader.out, loopback=True, rate=24_000) as (call, _):
        recorded = started.turns_url is not None
        if not recorded:  # recorded turns begin with the first one
            await record.until("session.state", state="live")
        live = LiveCall(started.session_id, started.run_id, record, call, installation, recorded)
        try:
            yield live
        finally:
            for answer in live.answers:
                answer.cancel()
            await asyncio.gather(*live.answers, return_exceptions=True)
