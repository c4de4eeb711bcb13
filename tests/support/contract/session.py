"""A session and its caller as a contract test sees them: all events, and the outcome."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentfield.wire.rest import StartResponse
from support.contract.callers import Medium, Recorded
from support.waiting import until

if TYPE_CHECKING:
    from support.contract.installation import Installation

__all__ = ["ObservedSession", "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a call."""

    words: tuple[str | None, ...] = ()
    tools: tuple[str, ...] = ()
    said: tuple[tuple[str | None, str, bool | None, str | None], ...] = ()
    """For each speech: the text asked for, the text generated, whether they are the same, and the failure's code."""
    reason: str | None = None
    because: str | None = None
    """The provider's code or the cause of the lost connection, if that ended the session."""
    refused: tuple[str | None, str] | None = None
    """Where the provider refused the call: the code that the caller got, and the provider's own."""
    heard: bool = False
    """Whether the caller heard anything."""
    warned: frozenset[str] = field(default=frozenset(), compare=False)


class ObservedSession:
    """A session, its caller, and all its events so far."""

    def __init__(self, here: Installation, started: StartResponse, medium: Medium) -> None:
        self.here = here
        self.id = started.session_id
        self.started = started
        self.medium = medium
        self.events: list[dict[str, Any]] = []
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
        """Wait for a condition; a failure shows the recorded events."""
        try:
            return await until(what)
        except AssertionError as error:
            shown = "\n".join(json.dumps(event) for event in self.events if "seq" in event)
            raise AssertionError(f"{error}; recorded so far:\n{shown}") from None

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
        """Connect the caller; return whether the call is live."""
        await self.medium.connect()
        if isinstance(self.medium, Recorded):  # it becomes live with the first turn
            return True
        await self.until(lambda: self.state in ("live", "ended") or self.medium.refused)
        return self.state == "live"

    async def speak(self, seconds: float = 0.5) -> None:
        """Speak a turn, with the silence that ends it."""
        await self.medium.speak(seconds)

    async def type(self, text: str) -> None:
        """Send a typed turn."""
        await self.here.client.send_input(self.id, text, self.started.token)

    async def hang_up(self) -> None:
        """Hang up unless the session has ended, and wait for its end."""
        if not self.over:
            await self.here.client.end_session(self.id, "caller_hangup", self.started.token)
        await self.ended()

    async def close(self) -> None:
        """Close the caller's connection and stop following."""
        await self.medium.close()
        await self.leave()

    async def leave(self) -> None:
        """Stop following; the caller stays connected."""
        self._follower.cancel()
        await asyncio.gather(self._follower, return_exceptions=True)

    def outcome(self) -> Outcome:
        """Return the outcome so far."""
        speeches = self.of("speech.ended")
        refusals = self.of("provider.refused")
        end = self.of("session.state")[-1]
        failed = end.get("reason") == "provider_error"
        return Outcome(
            words=tuple(turn["text"] for turn in self.of("turn.committed")),
            tools=tuple(done["status"] for done in self.of("execution.ended") if done["kind"] in ("call", "tool")),
            said=tuple((each["asked"], each["generated"], each["verbatim"], each["failed"]) for each in speeches),
            reason=end.get("reason"),
            because=str(end.get("detail")).partition(":")[0] if failed else None,
            refused=(self.medium.refused, refusals[-1]["code"]) if refusals else None,
            heard=self.heard,
            warned=frozenset(each["code"] for each in self.of("warning")),
        )
