"""What a test expects of a turn: calls and speech, awaited, with a deadline and the conversation so far in its failure."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from agentfield.session import Spoken
from agentfield.wire.rest import ExecutionView
from agentfield_server.testing.story import Said, first_line, said_in

if TYPE_CHECKING:
    from agentfield_server.testing.caller import Caller

__all__ = ["CallExpectation", "Expectation", "FailureExpectation", "Seen", "SpeechExpectation", "speeches_of"]

_CALLED = ("call", "tool")
_HERE = Path(__file__).parent

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen:
    """What an expectation looks at."""

    executions: Sequence[ExecutionView]
    speeches: Sequence[Said]
    over: bool
    """Whether nothing more can come: the turn is closed, or the session has ended."""


@dataclass(frozen=True, slots=True)
class Not:
    """Why an expectation does not hold now."""

    why: str
    for_good: bool = False
    """Whether it never will."""


class Expectation(ABC, Generic[T]):
    """Something that a test expects; ``await`` it.

    Awaiting returns what was found as soon as it is there. It raises `AssertionError` when its deadline has passed, or
    when it can hold no more.
    """

    def __init__(self, caller: Caller, turn_id: str | None, words: str) -> None:
        self._caller = caller
        self._turn_id = turn_id
        self._words = words
        self._within = caller.deadline
        self._where = _written_at()
        self.awaited = False
        """Whether anybody looked."""
        caller.expects(self)

    def __await__(self) -> Generator[Any, None, T]:
        self.awaited = True
        return self._hold().__await__()

    def __repr__(self) -> str:
        return self._words

    @property
    def where(self) -> str:
        """Where the test wrote it."""
        return self._where

    def within(self, seconds: float) -> Self:
        """Wait for so long, instead of as long as the caller's `deadline` says."""
        self._within = seconds
        return self

    async def _hold(self) -> T:
        __tracebackhide__ = True
        found: list[T] = []
        reason = Not("nothing happened")

        async def look() -> bool | None:
            """Return whether there is nothing more to wait for."""
            nonlocal reason
            self._caller.script.verify()
            seen = await self._caller.seen(self._turn_id)
            judged = self._judge(seen)
            if isinstance(judged, Not):
                reason = judged
                return (reason.for_good or seen.over) or None
            found.append(judged)
            return True

        settled = await self._caller.log.wait(look, self._within)
        if found:
            return found[0]
        late = "" if settled else f" (waited {self._within:g} s)"
        raise self._caller.failure(f"expected {self._words}: {reason.why}{late}")

    @abstractmethod
    def _judge(self, seen: Seen) -> T | Not:
        """Return what was found, or why it is not there."""


class CallExpectation(Expectation[ExecutionView]):
    """That a target is called, by the handler or by the model; awaiting returns the execution."""

    def __init__(self, caller: Caller, turn_id: str | None, target: str) -> None:
        super().__init__(caller, turn_id, f"a call of {target}")
        self._target = target
        self._input: dict[str, Any] = {}
        self._status: str | None = None
        self._output: Any = ...
        self._problem: str | None = None
        self._never = False

    def with_input(self, **values: Any) -> Self:
        """Expect these inputs; others are not looked at. Of a dict, only the keys that are named are compared."""
        self._input |= {name: getattr(value, "as_input", value) for name, value in values.items()}
        self._words += f" with {', '.join(f'{name}={value!r}' for name, value in values.items())}"
        return self

    def succeeded(self, output: Any = ...) -> Self:
        """Expect that it returned, with this output if one is named."""
        self._status, self._output = "succeeded", output
        self._words += ", succeeded" + (f" with {output!r}" if output is not ... else "")
        return self

    def failed(self, containing: str | None = None) -> Self:
        """Expect that it failed, with these words in the code or the message of its error."""
        self._status, self._problem = "failed", containing
        self._words += ", failed" + (f" with {containing!r}" if containing else "")
        return self

    def never(self) -> Self:
        """Expect that it is not called until the turn is over."""
        self._never = True
        self._words = f"no {self._words.removeprefix('a ')}"
        return self

    def _judge(self, seen: Seen) -> ExecutionView | Not:
        mine = [each for each in seen.executions if each.kind in _CALLED and each.target == self._target]
        reasons = [(each, self._misfit(each)) for each in mine]
        fits = [each for each, why in reasons if why is None]
        if self._never:
            return self._absent(fits, seen)
        if fits:
            return fits[0]
        if mine:
            return Not("; ".join(why for _, why in reasons if why))
        others = sorted({each.target for each in seen.executions if each.kind in _CALLED})
        return Not(f"called were {', '.join(others)}" if others else "nothing was called")

    def _absent(self, fits: Sequence[ExecutionView], seen: Seen) -> ExecutionView | Not:
        if fits:
            return Not("it was called", for_good=True)
        root = next((each for each in seen.executions if each.kind not in _CALLED), None)
        return root if seen.over and root is not None else Not("the turn is not over")

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
    """That the agent says something and the caller hears all of it; awaiting returns what came of it."""

    def __init__(
        self, caller: Caller, turn_id: str | None, text: str | re.Pattern[str] | None, exactly: str | None
    ) -> None:
        wanted = f"exactly {exactly!r}" if exactly is not None else "anything" if text is None else _shown(text)
        super().__init__(caller, turn_id, f"the agent to say {wanted}")
        self._text = text
        self._exactly = exactly
        self._manner = "whole"
        self._heard: str | None = None
        self._code: str | None = None

    def interrupted(self, heard: str | None = None) -> Self:
        """Expect that the caller cut it off, having heard these words if any are named."""
        self._manner, self._heard = "interrupted", heard
        self._words += ", cut off" + (f" after {heard!r}" if heard is not None else "")
        return self

    def stale(self) -> Self:
        """Expect that it was not said, because the caller had gone on."""
        self._manner = "stale"
        self._words += ", too late to be said"
        return self

    def failed(self, code: str | None = None) -> Self:
        """Expect that it could not be said, for this reason if one is named."""
        self._manner, self._code = "failed", code
        self._words += ", and fail" + (f" with {code!r}" if code is not None else "")
        return self

    def _judge(self, seen: Seen) -> Spoken | Not:
        mine = [said for said in seen.speeches if self._says(said)]
        for said in mine:
            if said.outcome is not None and said.manner == self._manner and self._fits(said):
                return Spoken.model_validate(dict(said.outcome))
        told = [str(said) for said in mine or seen.speeches]
        return Not("; ".join(told) if told else "nothing was said")

    def _says(self, said: Said) -> bool:
        if self._exactly is not None:
            return said.words == self._exactly
        match self._text:
            case None:
                return True
            case str():
                return self._text in said.words or (self._manner != "whole" and self._text in (said.asked or ""))
            case pattern:
                return pattern.search(said.words) is not None

    def _fits(self, said: Said) -> bool:
        outcome = said.outcome or {}
        if self._heard is not None and outcome.get("heard_text") != self._heard:
            return False
        return self._code is None or outcome.get("failed") == self._code


class FailureExpectation(Expectation[ExecutionView]):
    """That a turn fails, because its handler raised; awaiting returns the turn's execution."""

    def __init__(self, caller: Caller, turn_id: str, containing: str) -> None:
        super().__init__(caller, turn_id, f"the turn to fail{f' with {containing!r}' if containing else ''}")
        self._containing = containing

    def _judge(self, seen: Seen) -> ExecutionView | Not:
        turn = next(each for each in seen.executions if each.id == self._turn_id)
        if turn.status != "failed":
            return Not(f"it is {turn.status}")
        problem = turn.problem or {}
        told = f"{problem.get('code')}: {problem.get('detail')}"
        if self._containing not in told:
            return Not(f"it failed with {told}")
        self._caller.forgives(str(problem.get("detail")))
        return turn


def _written_at() -> str:
    """Return the line of the test, for an expectation that nobody awaits."""
    frame = inspect.currentframe()
    while frame is not None and Path(frame.f_code.co_filename).parent == _HERE:
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame is not None else "somewhere"


def speeches_of(events: Sequence[dict[str, Any]], turn_id: str | None) -> list[Said]:
    """Return the speeches of a turn, or all."""
    return [said for said in said_in(events) if turn_id in (None, said.turn_id) or not said.begun]


def _fits(wanted: Any, given: Any) -> bool:
    if callable(wanted):
        return bool(wanted(given))
    if isinstance(wanted, dict) and isinstance(given, dict):
        return all(key in given and _fits(value, given[key]) for key, value in wanted.items())
    return bool(wanted == given)


def _shown(text: str | re.Pattern[str]) -> str:
    return repr(text) if isinstance(text, str) else f"something like {text.pattern!r}"
