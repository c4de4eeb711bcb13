"""Property tests of user code that fails: any exception is a failed run with a plain report, and the node works on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield import Agent
from agentfield.errors import AgentFieldError, InvalidInput, error_from_problem
from agentfield.link.failures import log_failure
from agentfield.lossy import lossy_json, lossy_text
from agentfield.wire.frames import Accepted, Result, ResultAck
from support.core.control_plane import Link, control_plane, invoke

ANY_TEXT = st.text(st.characters(codec=None), max_size=20) | st.just("\ud83d") | st.just("x" * 10_000)


class Explosive:
    """An object whose methods raise."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error

    def __repr__(self) -> str:
        raise self.error

    def __iter__(self) -> Any:
        raise self.error


class Table(dict[Any, Any]):
    def items(self) -> Any:
        raise KeyboardInterrupt


RAISED = st.sampled_from([RuntimeError, KeyboardInterrupt, SystemExit, RecursionError, GeneratorExit, StopIteration])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | ANY_TEXT
    | st.binary(max_size=10)
    | st.builds(object)
    | st.builds(Explosive, RAISED)
    | st.builds(Table),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=6,
)


class Broken(Exception):
    """An exception whose attributes raise."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error

    __repr__ = __str__

    @property
    def __notes__(self) -> Any:
        raise self.error


class Careless(AgentFieldError):
    """An error that does not call the constructor of its base class."""

    def __init__(self) -> None: ...


def _with(error: BaseException, cause: BaseException, note: Any) -> BaseException:
    error.__cause__ = cause
    if not isinstance(error, Broken):
        error.__notes__ = note  # type: ignore[misc]
    return error


def _own(kind: type[AgentFieldError], message: Any, code: Any, hint: Any, data: dict[str, Any], status: Any) -> Any:
    error = kind(message, code=code, hint=hint)
    error.data = data
    error.status = status
    return error


PLAIN = st.builds(
    lambda kind, values: kind(*values),
    st.sampled_from(
        [
            *(
                ValueError,
                KeyError,
                OSError,
                MemoryError,
                RecursionError,
                TimeoutError,
                StopIteration,
                StopAsyncIteration,
            ),
            *(SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, BaseException),
        ]
    ),
    st.lists(VALUES, max_size=3),
)
OWN = st.builds(
    _own,
    st.sampled_from([AgentFieldError, InvalidInput]),
    VALUES,
    VALUES,
    VALUES,
    st.dictionaries(ANY_TEXT | st.sampled_from(["message", "self", "code", "status", "hint"]), VALUES, max_size=4),
    VALUES,
)
EXCEPTIONS = st.recursive(
    PLAIN | OWN | st.builds(Broken, RAISED) | st.builds(Careless),
    lambda inner: (
        st.builds(_with, inner, inner, VALUES)
        | st.builds(lambda each: BaseExceptionGroup("group", each), st.lists(inner, min_size=1, max_size=3))
    ),
    max_leaves=4,
)


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@given(VALUES)
def test_any_object_has_a_text_and_json(value: Any) -> None:
    """Both can be encoded and are of limited size, whatever the object does."""
    assert len(lossy_text(value).encode()) < 50_000
    json.dumps(lossy_json(value), allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@given(OWN)
def test_any_error_is_a_problem_document(error: AgentFieldError) -> None:
    """The document is plain JSON, and an error can be made of it again."""
    problem = error.to_problem()
    assert json.loads(json.dumps(problem, allow_nan=False, ensure_ascii=False).encode()) == problem
    assert error_from_problem(problem).message == problem["detail"] or not problem["detail"]


class _Notes(list[str]):
    """Notes of an exception; they count how many of them are read."""

    read = 0

    def __iter__(self) -> Iterator[str]:
        for note in super().__iter__():
            self.read += 1
            yield note


def test_a_traceback_beyond_the_limit_is_not_formatted(caplog: pytest.LogCaptureFixture) -> None:
    """A million notes, as of a text that was assigned to `__notes__`, would hold up the event loop for seconds."""
    error = RuntimeError("out of tea")
    notes = error.__notes__ = _Notes(["x"] * 1_000_000)
    context = invoke("fails", {}, execution_id="exe_notes").context
    log_failure("shop.fails", error, context)
    assert notes.read < 100_000
    (line,) = caplog.messages
    assert line.startswith("shop.fails raised (execution exe_notes, session ses_1)")
    assert "out of tea" in line
    assert len(line) < 70_000


class Nodes:
    """A node whose reasoner raises what the test says, linked to a control plane of the test."""

    def __init__(self, app: Agent, link: Link) -> None:
        self.app = app
        self.link = link
        self.error: BaseException | None = None
        self.count = 0

    async def run(self, function: str) -> Result:
        self.count += 1
        asked = invoke(function, {}, execution_id=f"exe_{function}_{self.count}")
        await self.link.send(asked)
        await self.link.expect(Accepted)
        # on a busy machine the watchdog may report a blocked event loop meanwhile
        result = await self.link.until(Result)
        assert result.execution_id == asked.context.execution_id
        await self.link.send(ResultAck(execution_id=result.execution_id, attempt=1))
        return result


@asynccontextmanager
async def running_node() -> AsyncIterator[Nodes]:
    """Run a node; a neighbour's call runs from the beginning to the end, and must finish."""
    async with control_plane() as plane:
        app, go = Agent("shop", url=plane.url), asyncio.Event()

        @app.reasoner()
        async def fails() -> None:
            assert it.error is not None
            raise it.error

        @app.reasoner()
        def fails_in_a_thread() -> None:
            assert it.error is not None
            raise it.error

        @app.reasoner()
        async def neighbour() -> str:
            await go.wait()
            return "finished"

        async with app:
            it = Nodes(app, await plane.link())
            await it.link.send(invoke("neighbour", {}, execution_id="exe_neighbour"))
            await it.link.expect(Accepted)
            yield it
            go.set()
            finished = await it.link.until(Result)
            assert (finished.execution_id, finished.output) == ("exe_neighbour", "finished")


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
def test_any_exception_fails_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run fails with a plain report; a neighbour's call on the same node runs through all examples and finishes."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    with asyncio.Runner() as runner:
        node = running_node()
        nodes = runner.run(node.__aenter__())

        @given(error=EXCEPTIONS, function=st.sampled_from(["fails", "fails_in_a_thread"]))
        def example(error: BaseException, function: str) -> None:
            nodes.error = error
            result = runner.run(nodes.run(function))
            assert result.status == "failed"
            assert result.problem is not None
            assert len(json.dumps(result.problem)) < 500_000

        example()
        runner.run(node.__aexit__(None, None, None))
