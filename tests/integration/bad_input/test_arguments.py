"""Wrong arguments of the agent's API: a typed error with a suggestion, at the declaration or at the use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agentfield import Agent, Limits, SemanticVad, ServerVad, Session
from agentfield.errors import AgentFieldError, InvalidInput
from agentfield.plugins import Registry
from agentfield.wire.frames import Accepted, SessionDone
from support.core.control_plane import Plane, control_plane, invoke, opening

LIVE = {"provider": "openai", "transport": "webrtc"}


@pytest.fixture(autouse=True)
def _home(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    async with control_plane() as plane:
        yield plane


def agent(**values: Any) -> Agent:
    return Agent("shop", url="http://127.0.0.1:9", registry=Registry(), **values)


def unchecked(fn: Any) -> Callable[..., Any]:
    """Return a function for calls that a type checker refuses."""
    return fn  # type: ignore[no-any-return]


async def answering(session: Session) -> None:
    await session.input()


async def plain() -> None: ...


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: agent().session("voice", **LIVE, modle="gpt"), "session(...) has no argument 'modle'. Did you mean 'model'?"),
        (lambda: agent().session("voice", provider="openai"), "missing a required argument: 'transport'"),
        (lambda: unchecked(agent().reasoner)(timout=20), "has no argument 'timout'. Did you mean 'timeout'?"),
        (lambda: agent(concurency=3), "Agent(...) has no argument 'concurency'. Did you mean 'concurrency'?"),
        (lambda: agent(concurrency="3"), "concurrency='3'"),
        (lambda: unchecked(agent().run)(ulr="http://127.0.0.1"), "has no argument 'ulr'. Did you mean 'url'?"),
        (lambda: unchecked(Limits)(5), "Limits(5): the values are given by name."),
        (lambda: unchecked(Limits)(duraton=5), "Limits(...) has no argument 'duraton'. Did you mean 'duration'?"),
        (lambda: unchecked(Limits)(idle="20"), "Limits(idle='20')"),
        (lambda: Limits(duration=-1), "Limits(duration=-1)"),
        (lambda: unchecked(ServerVad)(treshold=0.2), "Did you mean 'threshold'?"),
        (lambda: unchecked(SemanticVad)("low"), "SemanticVad('low'): the values are given by name."),
        (lambda: unchecked(agent().reasoner)(timeout="20")(plain), "timeout='20' is a str; timeout is a number of seconds."),
        (lambda: agent().reasoner(timeout=0)(plain), "timeout=0: it must be more than 0 seconds."),
        (lambda: agent().reasoner(timeout=1e308)(plain), "timeout=1e+308: it may be 86400 seconds, one day."),
        (lambda: unchecked(agent().reasoner)(retries="3")(plain), "retries"),
    ],
)  # fmt: skip
def test_a_wrong_argument_of_a_declaration_is_named(wrong: Callable[[], Any], words: str) -> None:
    """An argument that does not exist or is of another type is `InvalidInput`, with a suggestion where one is similar."""
    with pytest.raises(InvalidInput) as caught:
        wrong()
    assert words in caught.value.message


async def test_a_tool_of_this_node_must_exist(plane: Plane) -> None:
    """A tool that names this node but no reasoner of it is refused when the node starts, with the similar name."""
    app = Agent("shop", url=plane.url)
    app.session("voice", **LIVE, tools=["shop.lokup", "other.thing"])(answering)  # type: ignore[arg-type]

    @app.reasoner()
    async def lookup() -> None: ...

    with pytest.raises(InvalidInput) as caught:
        await app.__aenter__()
    assert "'shop.lokup'" in caught.value.message
    assert "Did you mean 'shop.lookup'?" in caught.value.message


async def in_handler(plane: Plane, body: Callable[[Session], Any]) -> BaseException | None:
    """Run a handler and return what it raised."""
    app, raised = Agent("shop", url=plane.url), []

    @app.session("voice", **LIVE)  # type: ignore[arg-type]
    async def voice(session: Session) -> None:
        try:
            await body(session)
        except BaseException as error:
            raised.append(error)
            raise

    async with app:
        link = await plane.link()
        await link.send(opening())
        done = await link.expect(SessionDone)
        assert done.problem is not None
    return raised[0] if raised else None


async def forgot_input(session: Session) -> None:
    unchecked(session.input)().text.upper()


async def forgot_call(session: Session) -> None:
    unchecked(session.call)("shop.lookup")["price"]


async def forgot_in_condition(session: Session) -> None:
    if session.call("shop.is_open"):
        await asyncio.Event().wait()


async def forgot_in_text(session: Session) -> None:
    session.say(f"It costs {session.call('shop.price')}.")


async def forgot_as_text(session: Session) -> None:
    session.say(session.call("shop.price"))  # type: ignore[arg-type]


async def forgot_as_input(session: Session) -> None:
    await session.call("shop.lookup", turn=session.input())


async def unknown_option(session: Session) -> None:
    unchecked(session.say)("Hello.", interuptible=False)


async def text_timeout(session: Session) -> None:
    await unchecked(session.call)("shop.lookup", timeout="20")


async def input_timeout(session: Session) -> None:
    await unchecked(session.input)(timeout=20)


async def saved_value(session: Session) -> None:
    await unchecked(session.save)({"step": 2})


async def call_with_a_dict(session: Session) -> None:
    await unchecked(session.call)("shop.lookup", {"order": "427"})


async def call_of_nothing(session: Session) -> None:
    await unchecked(session.call)(order="427")


async def events_of_a_type(session: Session) -> None:
    async for _ in unchecked(session.events)("turn.committed"):
        pass


async def dropped_then_next(session: Session) -> None:
    session.call("shop.charge")
    await session.input()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (forgot_input, "session.input(...) has no 'text': it was not awaited"),
        (forgot_call, "session.call(...) was not awaited"),
        (forgot_in_condition, "session.call(...) was not awaited"),
        (forgot_in_text, "session.call(...) was not awaited"),
        (forgot_as_text, "it takes the text to speak"),
        (forgot_as_input, "was not awaited"),
        (unknown_option, "has no argument 'interuptible'. Did you mean 'interruptible'?"),
        (text_timeout, "timeout='20' is a str"),
        (input_timeout, "Session.input(...) has no argument 'timeout'."),
        (saved_value, "Session.save(...): too many positional arguments."),
        (call_with_a_dict, "Session.call(...): too many positional arguments."),
        (call_of_nothing, "Session.call(...): missing a required argument: 'target'."),
        (events_of_a_type, "Session.events(...): too many positional arguments."),
        (dropped_then_next, "session.call(...) was not awaited, so it did not run (test_arguments.py:"),
    ],
)
async def test_a_wrong_use_of_a_session_raises_at_the_use(plane: Plane, body: Any, words: str) -> None:
    """A forgotten `await` and a wrong argument raise a typed error in the handler."""
    error = await in_handler(plane, body)
    assert isinstance(error, AgentFieldError)
    assert words in error.message


async def test_a_dropped_command_fails_the_turn(plane: Plane) -> None:
    """A handler whose last call was never awaited fails, although it returned."""

    async def dropped(session: Session) -> None:
        session.call("shop.charge")

    assert await in_handler(plane, dropped) is None  # the problem is that of the handler's end


async def test_a_reasoner_that_drops_a_call_fails(plane: Plane) -> None:
    """A call, or a pause for approval, that was never awaited fails the attempt: it did not happen."""
    app = Agent("shop", url=plane.url)

    @app.reasoner()
    async def refund() -> str:
        app.pause("Refund 80 dollars?")
        return "refunded"

    async with app:
        link = await plane.link()
        asked = invoke("refund", {})
        await link.send(asked)
        await link.expect(Accepted)
        result = await link.result(asked)
    assert result.problem is not None
    assert (result.status, result.problem["code"]) == ("failed", "not_awaited")
    assert "app.pause(...)" in result.problem["detail"]


async def test_a_call_may_be_given_to_a_task(plane: Plane) -> None:
    """Tasks, `gather`, `wait_for` and `shield` take the awaitables of a session as they take coroutines."""
    app, seen = Agent("shop", url=plane.url), []

    @app.session("voice", **LIVE)  # type: ignore[arg-type]
    async def voice(session: Session) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.input(), 0.01)
        task = asyncio.create_task(session.input())
        seen.append(repr(task))
        async with asyncio.TaskGroup() as group:
            other = group.create_task(session.call("shop.lookup"))
        turn, output = await asyncio.gather(task, asyncio.shield(other))
        seen.extend([turn.text, output])

    async with app:
        link = await plane.link()
        await link.send(opening())
        asked = await link.command("input")
        await link.reply(await link.command("call"), "found")
        await link.turn(asked, "Hello.")
        done = await link.expect(SessionDone)
    assert done.problem is None
    assert seen[1:] == ["Hello.", "found"]


async def test_a_call_outside_a_reasoner_that_is_dropped_is_logged(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no run can fail, the log says that the call did not happen."""
    async with Agent("shop", url=plane.url) as app:
        with caplog.at_level(logging.ERROR):
            app.call("shop.lookup")
    assert "app.call(...) was not awaited, so it did not run" in caplog.text
