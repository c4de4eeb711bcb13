"""The test's caller: says things, hears what comes of it, and knows the whole conversation."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from agentfield.client import ControlPlaneClient
from agentfield.testing.answers import Answering
from agentfield.testing.scripted import Scripted
from agentfield.wire.rest import StartResponse
from agentfield_server.testing.clock import Clock
from agentfield_server.testing.expect import (
    CallExpectation,
    Expectation,
    FailureExpectation,
    Seen,
    SpeechExpectation,
    speeches_of,
)
from agentfield_server.testing.lines import CallerLine, Lasting
from agentfield_server.testing.log import Log
from agentfield_server.testing.story import Node, Story, first_line, tree_of

__all__ = ["Caller", "CallerTurn"]

DEADLINE: Final = 5.0
"""Seconds in which something that is expected has to happen."""


class CallerTurn:
    """What the caller said once, and what is expected to come of it.

    Args:
        caller: Who said it.
        turn_id: The turn's execution.
        text: The words, as the handler gets them.
    """

    def __init__(self, caller: Caller, turn_id: str, text: str | None) -> None:
        self._caller = caller
        self.id = turn_id
        self.text = text

    def __repr__(self) -> str:
        return f"the turn {self.text!r}"

    @property
    def as_input(self) -> dict[str, Any]:
        """What a call was given that was given this turn."""
        return {"id": self.id, "text": self.text}

    def calls(self, target: str) -> CallExpectation:
        """Expect a call of a target in this turn, by the handler or by the model."""
        return CallExpectation(self._caller, self.id, target)

    def speaks(self, text: str | re.Pattern[str] | None = None, *, exactly: str | None = None) -> SpeechExpectation:
        """Expect that the agent says something in this turn.

        Args:
            text: Words that occur in it, or a pattern that is found in it.
            exactly: All of its words.
        """
        return SpeechExpectation(self._caller, self.id, text, exactly)

    def fails(self, containing: str = "") -> FailureExpectation:
        """Expect that the handler raises in this turn, with these words in the error."""
        return FailureExpectation(self._caller, self.id, containing)

    async def tree(self) -> Node:
        """Return the workflow of this turn, once it is over.

        Raises:
            AssertionError: It is not over in time.
        """
        await self.over()
        return tree_of(await self._caller.log.executions(), self.id)

    async def said(self) -> list[str]:
        """Return what the agent said in this turn, as far as it was heard, once it is over.

        Raises:
            AssertionError: It is not over in time.
        """
        await self.over()
        heard = [(said.outcome or {}).get("heard_text") for said in speeches_of(self._caller.log.recorded, self.id)]
        return [str(words) for words in heard if words]

    async def over(self) -> None:
        """Wait until everything that belongs to this turn is over.

        Raises:
            AssertionError: It is not over in time.
        """

        async def over() -> bool | None:
            self._caller.script.verify()
            return self._caller.is_over(self.id) or None

        if await self._caller.log.wait(over, self._caller.deadline) is None:
            raise self._caller.failure(f"{self} is not over after {self._caller.deadline:g} s")


class Caller:
    """Somebody in a call, as a test plays them.

    Args:
        started: The session.
        line: The way to it.
        log: What it told so far.
        client: The control plane.
        script: The provider.
        clock: The clock of its limits.
        title: The first line of its story.
    """

    def __init__(
        self,
        started: StartResponse,
        *,
        line: CallerLine,
        log: Log,
        client: ControlPlaneClient,
        script: Scripted,
        clock: Clock,
        title: str,
    ) -> None:
        self.session_id = started.session_id
        self.client = client
        self.script = script
        """The provider: its sessions, their commands, its faults."""
        self.log = log
        self.deadline = DEADLINE
        """Seconds in which something that is expected has to happen."""
        self._line = line
        self._clock = clock
        self._title = title
        self._expected: list[Expectation[Any]] = []
        self._forgiven: set[str] = set()
        self._looked_at = 0

    # --- what the caller does

    async def says(
        self, text: str, *, failed: str | None = None, pause: str | None = None, lasting: float | None = None
    ) -> CallerTurn:
        """Say something, over the agent if it speaks; returns once it is a turn.

        Args:
            text: The words.
            failed: Why the provider could not understand them, None when it could.
            pause: Let the agent's next speech stand still once the caller has heard these words of it; what the caller
                says then is said over it. So an interruption is at the same place each time.
            lasting: For how many seconds it is said, by the clock of the session, where that matters
                (`interrupt_after_ms`).

        Raises:
            AssertionError: It did not become a turn, or was discarded.
        """
        after = len(self.log.recorded)
        spoken = None if lasting is None else self._speaking(lasting)
        item = await self._line.says(text, failed=failed, pause=pause, lasting=spoken)
        return await self._turn(text, item, after)

    async def types(self, text: str) -> CallerTurn:
        """Type something; returns once it is a turn.

        Raises:
            AssertionError: It did not become a turn.
            CapabilityMissing: The pair takes no text.
        """
        after = len(self.log.recorded)
        await self.client.send_input(self.session_id, text)
        return await self._turn(text, None, after)

    async def presses(self, digit: str) -> None:
        """Press a key of a telephone.

        Raises:
            CapabilityMissing: The transport has none.
        """
        await self._line.presses(digit)

    async def waits(self, seconds: float) -> None:
        """Say nothing for so long: the clock of the session goes on at once, and limits that end within it are reached."""
        await self._clock.go_on(seconds)

    async def listens(self) -> None:
        """Let speech that stands still (`pause`) go on to its end.

        Raises:
            AssertionError: Nothing stands still.
        """
        await (await self.script.call(self.session_id)).go_on()

    async def hangs_up(self) -> str:
        """End the call; returns why the session ended.

        Raises:
            AssertionError: It did not end.
        """
        await self._line.hangs_up()
        return await self.ended()

    async def run(self, text: str) -> str:
        """Say something and return all that the agent answered, as far as it was heard, a line for each speech.

        Raises:
            AssertionError: The turn is not over in time.
        """
        turn = await self.says(text)
        return "\n".join(await turn.said())

    def model_answers(self, *answers: Answering) -> None:
        """Let the model give these answers, see `agentfield.testing.scripted.Scripted.answers`."""
        self.script.answers(*answers)

    # --- what is expected

    def calls(self, target: str) -> CallExpectation:
        """Expect a call of a target anywhere in the session."""
        return CallExpectation(self, None, target)

    def speaks(self, text: str | re.Pattern[str] | None = None, *, exactly: str | None = None) -> SpeechExpectation:
        """Expect that the agent says something, in a turn or outside of one (a greeting), see `CallerTurn.speaks`."""
        return SpeechExpectation(self, None, text, exactly)

    async def ended(self, reason: str | None = None) -> str:
        """Wait until the session has ended and return why.

        Raises:
            AssertionError: It did not end in time, or for another reason than this one.
        """

        async def look() -> str | None:
            return self.log.end

        found = await self.log.wait(look, self.deadline)
        if found is None:
            raise self.failure(f"expected the session to end: it has not after {self.deadline:g} s")
        if reason is not None and found != reason:
            raise self.failure(f"expected the session to end with {reason}: it ended with {found}")
        return found

    @property
    def story(self) -> str:
        """The conversation so far, as it is shown when a test fails."""
        return str(Story(self._title, self.log.recorded))

    # --- for the fixture and for expectations

    async def connected(self) -> None:
        """Wait until the handler runs, or the session is over before it did.

        Raises:
            AssertionError: Neither came in time.
        """

        async def look() -> bool | None:
            return self.log.end is not None or bool(self.log.of("handler.started")) or None

        if await self.log.wait(look, self.deadline) is None:
            raise self.failure("the session did not begin")

    def expects(self, expectation: Expectation[Any]) -> None:
        """Remember an expectation: one that is never awaited is reported."""
        self._expected.append(expectation)

    def forgives(self, message: str) -> None:
        """The test expected that a handler failed like this."""
        self._forgiven.add(message)

    def failure(self, what: str) -> AssertionError:
        """Return the error of something that did not come as expected."""
        return AssertionError(f"{what}\n\n{self.story}")

    def is_over(self, turn_id: str | None) -> bool:
        """Tell whether a turn is closed, or the session where no turn is named."""
        ended = {event["execution_id"] for event in self.log.recorded if event["type"] == "execution.ended"}
        return self.log.end is not None or turn_id in ended

    async def seen(self, turn_id: str | None) -> Seen:
        """Return what there is to be looked at."""
        # the end is looked at first: what is read after it is not older
        over = self.is_over(turn_id)
        every = await self.log.executions()
        mine = [each for each in every if turn_id is None or turn_id in (each.id, each.parent_id)]
        return Seen(mine, speeches_of(self.log.recorded, turn_id), over)

    def check(self) -> None:
        """Check, at the end of a test, that nothing was left unsaid.

        Raises:
            AssertionError: An expectation was never awaited, a handler raised unexpectedly, or script and session disagree.
        """
        __tracebackhide__ = True
        unheard = [each for each in self._expected if not each.awaited]
        if unheard:
            listed = "\n".join(f"  - {each!r} ({each.where})" for each in unheard)
            message = f"These expectations were never awaited, so nobody looked (write `await`):\n{listed}"
            raise AssertionError(message)
        try:
            self.script.verify(done=True)
        except AssertionError as error:
            error.add_note(f"\n{self.story}")
            raise
        raised = [body["message"] for body in self.log.of("handler.failed") if body["message"] not in self._forgiven]
        if raised:
            raise self.failure(
                f"the handler raised, and the test did not expect it (turn.fails()): {first_line(raised[0])}"
            )

    # --- inside

    def _speaking(self, seconds: float) -> Lasting:
        async def speaking(item: str) -> None:
            """Go on speaking, once the session has heard the beginning."""

            async def heard() -> bool | None:
                told = (event for event in self.log.live if event.get("type") == "turn.started")
                return any(event.get("item") == item for event in told) or None

            if await self.log.wait(heard, self.deadline) is None:
                raise self.failure("the session did not notice that the caller speaks")
            self._clock.advance(seconds)
            await asyncio.sleep(0)

        return speaking

    async def _turn(self, text: str, item: str | None, after: int) -> CallerTurn:
        __tracebackhide__ = True

        async def look() -> dict[str, Any] | None:
            self.script.verify()
            for event in self.log.recorded[max(after, self._looked_at) :]:
                if event["type"] in ("turn.committed", "turn.discarded") and item in (None, event["body"]["item"]):
                    return event
            return {} if self.log.end is not None else None

        event = await self.log.wait(look, self.deadline)
        if not event:
            raise self.failure(f"the caller said {text!r}, and it did not become a turn")
        if item is None:
            self._looked_at = self.log.recorded.index(event) + 1
        body = event["body"]
        if event["type"] == "turn.discarded":
            raise self.failure(f"the caller said {text!r}, and the turn was discarded: {body['why']}")
        return CallerTurn(self, body["turn_id"], body["text"])
