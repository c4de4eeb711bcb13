"""The caller that a test plays: its speech, the expectations of the agent's answers, and the transcript."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from agentfield.client import ControlPlaneClient
from agentfield.testing.scripted import AnswerLike, ScriptedProvider
from agentfield.wire.rest import StartResponse
from agentfield_server.testing.call_record import CallRecord, ExecutionNode, first_line, tree_of
from agentfield_server.testing.caller_connection import CallerConnection, KeepSpeaking
from agentfield_server.testing.clock import TimeSkippingClock
from agentfield_server.testing.event_log import SessionEventLog
from agentfield_server.testing.expectations import (
    CallExpectation,
    Expectation,
    FailureExpectation,
    Observation,
    SpeechExpectation,
    speeches_of,
)

__all__ = ["Caller", "CallerTurn"]

DEADLINE: Final = 5.0
"""Default seconds that an expectation waits."""


class CallerTurn:
    """One turn of the caller, and expectations of the agent's reaction to it.

    Args:
        caller: The caller whose turn it is.
        turn_id: Id of the turn's execution.
        text: The transcript that the handler gets, None when there is none.
    """

    def __init__(self, caller: Caller, turn_id: str, text: str | None) -> None:
        self._caller = caller
        self.id = turn_id
        self.text = text

    def __repr__(self) -> str:
        return f"the turn {self.text!r}"

    @property
    def as_input(self) -> dict[str, Any]:
        """This turn as the input of a call that it was passed to."""
        return {"id": self.id, "text": self.text}

    def calls(self, target: str) -> CallExpectation:
        """Expect a call of a target in this turn, by the handler or by the model."""
        return CallExpectation(self._caller, self.id, target)

    def speaks(self, text: str | re.Pattern[str] | None = None, *, exactly: str | None = None) -> SpeechExpectation:
        """Expect that the agent says something in this turn.

        Args:
            text: Text that it contains, or a pattern that it matches.
            exactly: Its whole text.
        """
        return SpeechExpectation(self._caller, self.id, text, exactly)

    def fails(self, containing: str = "") -> FailureExpectation:
        """Expect that the handler raises in this turn, with these words in the error."""
        return FailureExpectation(self._caller, self.id, containing)

    async def tree(self) -> ExecutionNode:
        """Return the execution tree of this turn once it has ended.

        Raises:
            AssertionError: It does not end in time.
        """
        await self.ended()
        return tree_of(await self._caller.log.executions(), self.id)

    async def said(self) -> list[str]:
        """Return the heard text of each speech of this turn once it has ended.

        Raises:
            AssertionError: It does not end in time.
        """
        await self.ended()
        heard = [(said.outcome or {}).get("heard_text") for said in speeches_of(self._caller.log.recorded, self.id)]
        return [str(words) for words in heard if words]

    async def ended(self) -> None:
        """Wait until the turn has ended.

        Raises:
            AssertionError: It does not end in time.
        """

        async def ended() -> bool | None:
            self._caller.provider.verify()
            return self._caller.is_over(self.id) or None

        if await self._caller.log.wait(ended, self._caller.deadline) is None:
            raise self._caller.failure(f"{self} has not ended after {self._caller.deadline:g} s")


class Caller:
    """The caller of a session, played by the test.

    Args:
        started: The session.
        connection: The caller's connection to it.
        log: Its events so far.
        client: Client of the control plane.
        provider: The scripted provider.
        clock: The clock of the session's timers.
        title: First line of the transcript.
    """

    def __init__(
        self,
        started: StartResponse,
        *,
        connection: CallerConnection,
        log: SessionEventLog,
        client: ControlPlaneClient,
        provider: ScriptedProvider,
        clock: TimeSkippingClock,
        title: str,
    ) -> None:
        self.session_id = started.session_id
        self.client = client
        self.provider = provider
        """The scripted provider: its calls, their commands, its faults."""
        self.log = log
        self.deadline = DEADLINE
        """Seconds that an expectation waits."""
        self._connection = connection
        self._clock = clock
        self._title = title
        self._expected: list[Expectation[Any]] = []
        self._allowed_failures: set[str] = set()
        self._looked_at = 0

    # --- actions of the caller

    async def says(
        self, text: str, *, failed: str | None = None, pause: str | None = None, lasting: float | None = None
    ) -> CallerTurn:
        """Say something, over the agent if it speaks; return once the turn is committed.

        Args:
            text: The words.
            failed: Why the transcription failed, None when it succeeds.
            pause: Hold the agent's next speech once the caller has heard these words of it, so that the next words of
                the caller interrupt it at a reproducible place.
            lasting: Seconds that the caller speaks, by the clock of the session; matters for `interrupt_after_ms`.

        Raises:
            AssertionError: No turn was committed, or it was discarded.
        """
        after = len(self.log.recorded)
        spoken = None if lasting is None else self._keep_speaking(lasting)
        item = await self._connection.says(text, failed=failed, pause=pause, lasting=spoken)
        return await self._turn(text, item, after)

    async def types(self, text: str) -> CallerTurn:
        """Type a text; return once the turn is committed.

        Raises:
            AssertionError: No turn was committed.
            CapabilityMissing: The pair takes no text.
        """
        after = len(self.log.recorded)
        await self.client.send_input(self.session_id, text)
        return await self._turn(text, None, after)

    async def presses(self, digit: str) -> None:
        """Press a telephone key.

        Raises:
            CapabilityMissing: The transport has no keys.
        """
        await self._connection.presses(digit)

    async def waits(self, seconds: float) -> None:
        """Stay silent: put the clock of the session forward, so that limits within these seconds are reached at once."""
        await self._clock.run_for(seconds)

    async def listens(self) -> None:
        """Let speech that `pause` holds continue to its end.

        Raises:
            AssertionError: No speech is held.
        """
        await (await self.provider.call(self.session_id)).resume()

    async def hangs_up(self) -> str:
        """Hang up and return the reason of the session's end.

        Raises:
            AssertionError: It did not end.
        """
        await self._connection.hangs_up()
        return await self.ended()

    async def run(self, text: str) -> str:
        """Say something and return the heard text of the agent's answer, a line for each speech.

        Raises:
            AssertionError: The turn does not end in time.
        """
        turn = await self.says(text)
        return "\n".join(await turn.said())

    def model_answers(self, *answers: AnswerLike) -> None:
        """Queue answers of the model, see `agentfield.testing.scripted.ScriptedProvider.answers`."""
        self.provider.answers(*answers)

    # --- expectations

    def calls(self, target: str) -> CallExpectation:
        """Expect a call of a target anywhere in the session."""
        return CallExpectation(self, None, target)

    def speaks(self, text: str | re.Pattern[str] | None = None, *, exactly: str | None = None) -> SpeechExpectation:
        """Expect that the agent says something, in a turn or outside of one (a greeting), see `CallerTurn.speaks`."""
        return SpeechExpectation(self, None, text, exactly)

    async def ended(self, reason: str | None = None) -> str:
        """Wait until the session has ended and return the reason.

        Raises:
            AssertionError: It did not end in time, or ended for another reason.
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
    def transcript(self) -> str:
        """The conversation so far, as a failing test shows it."""
        return str(CallRecord(self._title, self.log.recorded))

    # --- for the fixture and for expectations

    async def connected(self) -> None:
        """Wait until the handler runs or the session has ended.

        Raises:
            AssertionError: Neither happened in time.
        """

        async def look() -> bool | None:
            return self.log.end is not None or bool(self.log.of("handler.started")) or None

        if await self.log.wait(look, self.deadline) is None:
            raise self.failure("the session did not begin")

    def register(self, expectation: Expectation[Any]) -> None:
        """Register an expectation, so that `check` reports it when it is never awaited."""
        self._expected.append(expectation)

    def allow_failure(self, message: str) -> None:
        """Accept a failure of the handler that the test expected."""
        self._allowed_failures.add(message)

    def failure(self, what: str) -> AssertionError:
        """Return an `AssertionError` with this message and the transcript."""
        return AssertionError(f"{what}\n\n{self.transcript}")

    def is_over(self, turn_id: str | None) -> bool:
        """Return whether the turn, or with None the session, has ended."""
        ended = {event["execution_id"] for event in self.log.recorded if event["type"] == "execution.ended"}
        return self.log.end is not None or turn_id in ended

    async def seen(self, turn_id: str | None) -> Observation:
        """Return the executions and speeches of a turn, or with None of the session."""
        # read before the executions: if the turn has ended by now, the executions read below are final
        ended = self.is_over(turn_id)
        every = await self.log.executions()
        mine = [each for each in every if turn_id is None or turn_id in (each.id, each.parent_id)]
        return Observation(mine, speeches_of(self.log.recorded, turn_id), ended)

    def check(self) -> None:
        """Check the whole conversation at the end of the test.

        Raises:
            AssertionError: An expectation was never awaited, a handler raised unexpectedly, or the answers of the script
                do not match the questions of the session.
        """
        __tracebackhide__ = True
        unheard = [each for each in self._expected if not each.awaited]
        if unheard:
            listed = "\n".join(f"  - {each!r} ({each.where})" for each in unheard)
            message = f"These expectations were never awaited, so nothing was checked (write `await`):\n{listed}"
            raise AssertionError(message)
        try:
            self.provider.verify(done=True)
        except AssertionError as error:
            error.add_note(f"\n{self.transcript}")
            raise
        raised = [
            body["message"] for body in self.log.of("handler.failed") if body["message"] not in self._allowed_failures
        ]
        if raised:
            raise self.failure(
                f"the handler raised, and the test did not expect it (turn.fails()): {first_line(raised[0])}"
            )

    # --- inside

    def _keep_speaking(self, seconds: float) -> KeepSpeaking:
        async def speaking(item: str) -> None:
            """Put the clock forward once the session knows that the caller speaks."""

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
            self.provider.verify()
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
