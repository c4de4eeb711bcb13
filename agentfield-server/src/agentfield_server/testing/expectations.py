"""Expectations of a turn: calls, speech and failures, awaited with a deadline; a failure shows the transcript."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from agentfield.session import Spoken
from agentfield.testing.scripted import ScriptedProvider
from agentfield.wire.rest import ExecutionView
from agentfield_server.testing.call_record import SpeechRecord, first_line, speeches_in
from agentfield_server.testing.event_log import SessionEventLog

__all__ = ["CallExpectation", "Expectation", "FailureExpectation", "Observation", "SpeechExpectation", "speeches_of"]

_CALLED = ("call", "tool")
_HERE = Path(__file__).parent

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Observation:
    """Executions and speeches of a turn or session at one moment."""

    executions: Sequence[ExecutionView]
    speeches: Sequence[SpeechRecord]
    ended: bool
    """Whether nothing can be added: the turn or the session has ended."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why an expectation does not hold yet."""

    why: str
    for_good: bool = False
    """Whether it can never hold."""


class ExpectingCaller(Protocol):
    """What an expectation needs of the caller that made it."""

    deadline: float
    provider: ScriptedProvider
    log: SessionEventLog

    async def seen(self, turn_id: str | None) -> Observation:
        """Return the executions and speeches of a turn, or with None of the session."""

    def failure(self, what: str) -> AssertionError:
        """Return an error with the transcript."""

    def register(self, expectation: Expectation[Any]) -> None:
        """Register an expectation that must be awaited."""

    def allow_failure(self, message: str) -> None:
        """Accept a failure of the handler."""


class Expectation(ABC, Generic[T]):
    """An expectation of the agent; ``await`` it.

    Awaiting returns the execution or speech as soon as it is recorded. It raises `AssertionError` when the deadline has
    passed, or as soon as the expectation cannot hold any more.
    """

    def __init__(self, caller: ExpectingCaller, turn_id: str | None, words: str) -> None:
        self._caller = caller
        self._turn_id = turn_id
        self._words = words
        self._within = caller.deadline
        self._where = _test_line()
        self.awaited = False
        """Whether the test awaited it."""
        caller.register(self)

    def __await__(self) -> Generator[Any, None, T]:
        self.awaited = True
        return self._hold().__await__()

    def __repr__(self) -> str:
        return self._words

    @property
    def where(self) -> str:
        """File and line of the test that created it."""
        return self._where

    def within(self, seconds: float) -> Self:
        """Wait for so many seconds instead of the caller's `deadline`."""
        self._within = seconds
        return self

    async def _hold(self) -> T:
        __tracebackhide__ = True
        found: list[T] = []
        reason = Mismatch("nothing happened")

        async def look() -> bool | None:
            """Return True when waiting is over, else None."""
            nonlocal reason
            self._caller.provider.verify()
            seen = await self._caller.seen(self._turn_id)
            judged = self._judge(seen)
            if isinstance(judged, Mismatch):
                reason = judged
                return (reason.for_good or seen.ended) or None
            found.append(judged)
            return True

        settled = await self._caller.log.wait(look, self._within)
        if found:
            return found[0]
        late = "" if settled else f" (waited {self._within:g} s)"
        raise self._caller.failure(f"expected {self._words}: {reason.why}{late}")

    @abstractmethod
    def _judge(self, seen: Observation) -> T | Mismatch:
        """Return the match, or the reason that there is none."""


class CallExpectation(Expectation[ExecutionView]):
    """A call of a target, by the handler or by the model; awaiting returns the execution."""

    def __init__(self, caller: ExpectingCaller, turn_id: str | None, target: str) -> None:
        super().__init__(caller, turn_id, f"a call of {target}")
        self._target = target
        self._input: dict[str, Any] = {}
        self._status: str | None = None
        self._output: Any = ...
        self._problem: str | None = None
        self._never = False

    def with_input(self, **values: Any) -> Self:
        """Expect these inputs and ignore others; of a dict, only the named keys are compared."""
        self._input |= {name: getattr(value, "as_input", value) for name, value in values.items()}
        self._words += f" with {', '.join(f'{name}={value!r}' for name, value in values.items())}"
        return self

    def succeeded(self, output: Any = ...) -> Self:
        """Expect that it returned, with this output if one is given."""
        self._status, self._output = "succeeded", output
        self._words += ", succeeded" + (f" with {output!r}" if output is not ... else "")
        return self

    def failed(self, containing: str | None = None) -> Self:
        """Expect that it failed, with this text in the code or detail of its problem."""
        self._status, self._problem = "failed", containing
        self._words += ", failed" + (f" with {containing!r}" if containing else "")
        return self

    def never(self) -> Self:
        """Expect no such call until the turn has ended."""
        self._never = True
        self._words = f"no {self._words.removeprefix('a ')}"
        return self

    def _judge(self, seen: Observation) -> ExecutionView | Mismatch:
        mine = [each for each in seen.executions if each.kind in _CALLED and each.target == self._target]
        reasons = [(each, self._misfit(each)) for each in mine]
        fits = [each for each, why in reasons if why is None]
        if self._never:
            return self._absent(fits, seen)
        if fits:
            return fits[0]
        if mine:
            return Mismatch("; ".join(why for _, why in reasons if why))
        others = sorted({each.target for each in seen.executions if each.kind in _CALLED})
        return Mismatch(f"called were {', '.join(others)}" if others else "nothing was called")

    def _absent(self, fits: Sequence[ExecutionView], seen: Observation) -> ExecutionView | Mismatch:
        if fits:
            return Mismatch("it was called", for_good=True)
        root = next((each for each in seen.executions if each.kind not in _CALLED), None)
        return root if seen.ended and root is not None else Mismatch("the turn is not over")

    def _misfit(self, made: ExecutionView) -> str | None:
        given = made.input if isinstance(made.input, dict) else {}
        for name, value in self._input.items():
            if name not in given or not _fits(value, given[name]):
                return f"its {name} was {given.get(name)!r}"
        if self._status is None:
            return None
        if made.status != self._status:
            detail = f" ({first_line(made.problem.get('detail'))})" if made.problem else ""
            return f"it {'is' if made.ended_at is None else 'has'} {made.status}{detail}"
        if self._output is not ... and not _fits(self._output, made.output):
            return f"it returned {made.output!r}"
        problem = made.problem or {}
        told = f"{problem.get('code')}: {problem.get('detail')}"
        return None if self._problem is None or self._problem in told else f"it failed with {told}"


class SpeechExpectation(Expectation[Spoken]):
    """A speech of the agent that the caller hears to its end; awaiting returns its outcome."""

    def __init__(
        self, caller: ExpectingCaller, turn_id: str | None, text: str | re.Pattern[str] | None, exactly: str | None
    ) -> None:
        wanted = f"exactly {exactly!r}" if exactly is not None else "anything" if text is None else _shown(text)
        super().__init__(caller, turn_id, f"the agent to say {wanted}")
        self._text = text
        self._exactly = exactly
        self._status_expected = "whole"
        self._heard: str | None = None
        self._code: str | None = None

    def interrupted(self, heard: str | None = None) -> Self:
        """Expect that the caller interrupted it, after hearing exactly this text if one is given."""
        self._status_expected, self._heard = "interrupted", heard
        self._words += ", cut off" + (f" after {heard!r}" if heard is not None else "")
        return self

    def stale(self) -> Self:
        """Expect that it was dropped because the caller had spoken again."""
        self._status_expected = "stale"
        self._words += ", too late to be said"
        return self

    def failed(self, code: str | None = None) -> Self:
        """Expect that it failed, with this code if one is given."""
        self._status_expected, self._code = "failed", code
        self._words += ", and fail" + (f" with {code!r}" if code is not None else "")
        return self

    def _judge(self, seen: Observation) -> Spoken | Mismatch:
        mine = [said for said in seen.speeches if self._says(said)]
        for said in mine:
            if said.outcome is not None and said.status == self._status_expected and self._fits(said):
                return Spoken.model_validate(dict(said.outcome))
        told = [str(said) for said in mine or seen.speeches]
        return Mismatch("; ".join(told) if told else "nothing was said")

    def _says(self, said: SpeechRecord) -> bool:
        if self._exactly is not None:
            return said.words == self._exactly
        match self._text:
            case None:
                return True
            case str():
                return self._text in said.words or (
                    self._status_expected != "whole" and self._text in (said.asked or "")
                )
            case pattern:
                return pattern.search(said.words) is not None

    def _fits(self, said: SpeechRecord) -> bool:
        outcome = said.outcome or {}
        if self._heard is not None and outcome.get("heard_text") != self._heard:
            return False
        return self._code is None or outcome.get("failed") == self._code


class FailureExpectation(Expectation[ExecutionView]):
    """A turn that fails because its handler raised; awaiting returns the turn's execution."""

    def __init__(self, caller: ExpectingCaller, turn_id: str, containing: str) -> None:
        super().__init__(caller, turn_id, f"the turn to fail{f' with {containing!r}' if containing else ''}")
        self._containing = containing

    def _judge(self, seen: Observation) -> ExecutionView | Mismatch:
        turn = next(each for each in seen.executions if each.id == self._turn_id)
        if turn.status != "failed":
            return Mismatch(f"it is {turn.status}")
        problem = turn.problem or {}
        told = f"{problem.get('code')}: {problem.get('detail')}"
        if self._containing not in told:
            return Mismatch(f"it failed with {told}")
        self._caller.allow_failure(str(problem.get("detail")))
        return turn


def _test_line() -> str:
    """Return file and line of the test, for the report of an expectation that was never awaited."""
    frame = inspect.currentframe()
    while frame is not None and Path(frame.f_code.co_filename).parent == _HERE:
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame is not None else "somewhere"


def speeches_of(events: Sequence[dict[str, Any]], turn_id: str | None) -> list[SpeechRecord]:
    """Return the speeches of a turn, or with None of the session; one that never began belongs to every turn."""
    return [said for said in speeches_in(events) if turn_id in (None, said.turn_id) or not said.begun]


def _fits(wanted: Any, given: Any) -> bool:
    if callable(wanted):
        return bool(wanted(given))
    if isinstance(wanted, dict) and isinstance(given, dict):
        return all(key in given and _fits(value, given[key]) for key, value in wanted.items())
    return bool(wanted == given)


def _shown(text: str | re.Pattern[str]) -> str:
    return repr(text) if isinstance(text, str) else f"something like {text.pattern!r}"
