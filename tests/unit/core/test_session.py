"""Session handlers and a control plane over a real WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentfield import Agent, Session, SessionEnded, Speech, Spoken, Turn
from agentfield.context import current
from agentfield.errors import ExecutionFailed, InvalidInput, LimitExceeded
from agentfield.plugins import Registry
from agentfield.wire.frames import (
    Call,
    CallResult,
    SessionCommand,
    SessionDone,
    SessionEventFrame,
    SessionStop,
    TurnDelivered,
)
from support.core.control_plane import Link, Plane, control_plane, opening

SPOKEN = {"asked": "Hello.", "generated": "Hello.", "verbatim": True, "heard_ms": 400, "heard_text": "Hello."}
Body = Callable[[Session], Awaitable[None]]


@pytest.fixture(autouse=True)
def _home(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))


@asynccontextmanager
async def node(body: Body, **fields: Any) -> AsyncIterator[tuple[Plane, Link]]:
    """Link a node whose session `voice` has the handler `body`, and open the session."""
    async with control_plane() as plane:
        app = Agent("shop", url=plane.url, registry=Registry())

        @app.session("voice", provider="local", transport="webrtc", floor="handler")
        async def voice(session: Session) -> None:
            await body(session)

        async with app:
            link = await plane.link()
            await link.send(opening(**fields))
            yield plane, link


async def test_input_call_and_say_reach_the_control_plane_in_order() -> None:
    """`input`, `call` with the turn and `say` arrive in order, followed by `SessionDone`."""

    async def body(session: Session) -> None:
        turn = await session.input()
        result = await session.call("shop.resolve_turn", turn=turn)
        await session.say(result["spoken_response"])

    async with node(body) as (_, link):
        await link.turn(await link.command("input"), "Where is my order?", started_at=1.0)
        call = await link.command("call")
        assert call.args["target"] == "shop.resolve_turn"
        turn = call.args["input"]["turn"]
        assert (turn["id"], turn["text"], turn["attempt"]) == ("exe_turn", "Where is my order?", 1)
        await link.reply(call, {"spoken_response": "Hello."})
        say = await link.command("say")
        assert say.args == {"text": "Hello.", "interruptible": True, "stale": "drop"}
        await link.reply(say, SPOKEN)
        done = await link.expect(SessionDone)
    assert (done.epoch, done.problem) == (1, None)


async def test_a_session_has_the_fields_of_its_opening() -> None:
    """The session has caller, metadata, state, history and `resumed` of `SessionOpen`, and the context names the session."""
    seen: list[Any] = []

    async def body(session: Session) -> None:
        here = current()
        assert here is not None
        seen.extend([session.id, session.caller, session.metadata, session.state, session.resumed, here.session_id])
        seen.append(session.history)

    fields = {
        "caller": "ada",
        "metadata": {"shop": 1},
        "state": {"n": 2},
        "resumed": True,
        "history": ({"role": "caller"},),
    }
    async with node(body, **fields) as (_, link):
        await link.expect(SessionDone)
    assert seen == ["ses_1", "ada", {"shop": 1}, {"n": 2}, True, "ses_1", ({"role": "caller"},)]


async def test_say_is_sent_before_it_is_awaited() -> None:
    """Speeches are sent in the order of `say` without an await in between; awaiting one returns what was heard."""
    seen: list[Spoken] = []

    async def body(session: Session) -> None:
        first, second = session.say("Hello."), session.say("Bye.", interruptible=False, stale="speak")
        assert isinstance(first, Speech)
        assert not first.done()
        seen.extend([await second, await first])

    async with node(body) as (_, link):
        first, second = await link.command("say"), await link.command("say")
        assert (first.args["text"], second.args) == (
            "Hello.",
            {"text": "Bye.", "interruptible": False, "stale": "speak"},
        )
        await link.reply(first, SPOKEN)
        await link.reply(second, {"asked": "Bye.", "interrupted": True, "heard_ms": 10, "remaining": "e."})
        await link.expect(SessionDone)
    assert (seen[0].interrupted, seen[0].remaining, seen[1].verbatim) == (True, "e.", True)


async def test_a_speech_can_be_cancelled() -> None:
    """`Speech.cancel` names the speech by its operation id, and the speech still returns what was heard."""
    seen: list[Spoken] = []

    async def body(session: Session) -> None:
        speech = session.say("A long story.")
        speech.cancel()
        seen.append(await speech)

    async with node(body) as (_, link):
        say = await link.command("say")
        cancel = await link.command("cancel_speech")
        assert cancel.args == {"op_id": say.op_id}
        await link.reply(cancel)
        await link.reply(say, {"asked": "A long story.", "interrupted": True})
        await link.expect(SessionDone)
    assert seen[0].interrupted


async def test_reply_lets_the_model_answer() -> None:
    """`reply` sends instructions and tools, and returns the text, what was heard and the tool calls."""
    seen: list[Any] = []

    async def body(session: Session) -> None:
        reply = await session.reply(instructions="Be brief.", tools=["shop.lookup"])
        seen.extend([reply.text, reply.spoken.heard_ms, reply.tool_calls])

    async with node(body) as (_, link):
        reply = await link.command("reply")
        assert reply.args == {"instructions": "Be brief.", "tools": ["shop.lookup"]}
        await link.reply(
            reply, {"text": "Sure.", "spoken": {"heard_ms": 300}, "tool_calls": [{"target": "shop.lookup"}]}
        )
        await link.expect(SessionDone)
    assert seen == ["Sure.", 300, ({"target": "shop.lookup"},)]


async def test_a_cancelled_wait_loses_no_turn() -> None:
    """A turn that arrives after a wait for `input` was cancelled is returned by the next `input`."""
    seen: list[Turn] = []

    async def body(session: Session) -> None:
        try:
            async with asyncio.timeout(0.01):
                await session.input()
        except TimeoutError:
            session.say("Are you there?")
        seen.append(await session.input())

    async with node(body) as (_, link):
        asked = await link.command("input")
        await link.command("say")
        await link.turn(asked, "Hello")
        await link.expect(SessionDone)
    assert [turn.text for turn in seen] == ["Hello"]


async def test_a_failed_call_raises_and_the_handler_can_continue() -> None:
    """A failed call raises the error of its problem document."""
    seen: list[BaseException] = []

    async def body(session: Session) -> None:
        try:
            await session.call("shop.broken", timeout=3, filler="One moment.")
        except ExecutionFailed as error:
            seen.append(error)

    async with node(body) as (_, link):
        call = await link.command("call")
        assert (call.args["timeout"], call.args["filler"]) == (3, "One moment.")
        await link.reply(call, problem=ExecutionFailed("shop.broken raised KeyError").to_problem())
        assert (await link.expect(SessionDone)).problem is None
    assert "KeyError" in str(seen[0])


async def test_a_handler_that_raises_reports_the_problem() -> None:
    """An exception is reported with its type, its source line and whether a turn was taken; the node keeps working."""

    async def body(session: Session) -> None:
        turn = await session.input()
        raise KeyError(turn.text)

    async with node(body) as (_, link):
        await link.turn(await link.command("input"), "order")
        problem = (await link.expect(SessionDone)).problem
        assert problem is not None
        assert (problem["code"], problem["error"], problem["turn_taken"]) == ("handler_failed", "KeyError", True)
        assert problem["where"].startswith("test_session.py:")
        await link.send(opening(epoch=2))
        assert (await link.command("input")).epoch == 2


async def test_the_end_of_a_session_reaches_a_waiting_handler() -> None:
    """`input` and `say` raise `SessionEnded` with the reason; calls still work for post-call tasks."""
    seen: list[Any] = []

    async def body(session: Session) -> None:
        speech = session.say("Hello.")
        with pytest.raises(SessionEnded) as ended:
            await session.input()
        seen.append(ended.value.data["reason"])
        with pytest.raises(SessionEnded):
            await speech
        with pytest.raises(SessionEnded):
            session.say("Bye.")
        seen.append(await session.call("crm.log"))

    async with node(body) as (_, link):
        await link.command("say")
        await link.command("input")
        await link.send(SessionStop(session_id="ses_1", epoch=1, reason="caller_hangup"))
        await link.reply(await link.command("call"), "logged")
        assert (await link.expect(SessionDone)).problem is None
    assert seen == ["caller_hangup", "logged"]


async def test_an_uncaught_session_ended_is_not_a_failure() -> None:
    """A handler that raises `SessionEnded` after the end of its session is reported without a problem."""

    async def body(session: Session) -> None:
        while True:
            await session.input()

    async with node(body) as (_, link):
        await link.command("input")
        await link.send(SessionStop(session_id="ses_1", epoch=1, reason="caller_hangup"))
        assert (await link.expect(SessionDone)).problem is None


async def test_a_handler_that_ignores_the_end_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that still runs `AFTER_CALL` seconds after the end of its session is cancelled."""
    monkeypatch.setattr("agentfield.link.handler_runner.AFTER_CALL", 0.01)

    async def body(session: Session) -> None:
        await asyncio.Event().wait()

    async with node(body) as (_, link):
        await link.send(SessionStop(session_id="ses_1", epoch=1, reason="caller_hangup"))
        await link.expect(SessionDone)


async def test_a_newer_epoch_replaces_the_handler() -> None:
    """Opening a session again cancels the handler of the older epoch; a duplicate of the opening does nothing."""
    stopped: list[bool] = []

    async def body(session: Session) -> None:
        session.say("Here I am.")
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(session.resumed)

    async with node(body) as (_, link):
        await link.command("say")
        await link.send(opening(epoch=1))
        await link.send(opening(epoch=2, resumed=True))
        assert (await link.command("say")).epoch == 2
        assert stopped == [False]


async def test_commands_survive_a_reconnect_in_order() -> None:
    """Commands that were not answered before the link was lost are sent again in order, and the open handler is reported."""

    async def body(session: Session) -> None:
        session.say("One.")
        session.say("Two.")
        await session.input()

    async with node(body) as (plane, first):
        before = [await first.expect(SessionCommand) for _ in range(3)]
        await first.drop()
        link = await plane.link()
        assert link.hello.open_sessions == (("ses_1", 1),)
        assert [await link.expect(SessionCommand) for _ in range(3)] == before
        await link.turn(before[2], "Go on.")
        done = await link.expect(SessionDone)
        await link.drop()
        last = await plane.link()
        again = [await last.expect(SessionCommand), await last.expect(SessionCommand), await last.expect(SessionDone)]
        assert again == [*before[:2], done]


async def test_state_is_sent_before_the_next_command() -> None:
    """A change of `state` is sent before the next command of the handler; unchanged state is not sent."""

    async def body(session: Session) -> None:
        session.state["step"] = 1
        await session.input()
        session.state["step"] = 2
        await session.save()
        session.state["step"] = 3

    async with node(body) as (_, link):
        assert (await link.command("set_state")).args == {"state": {"step": 1}}
        await link.turn(await link.command("input"), "Hi")
        save = await link.command("set_state")
        assert save.args == {"state": {"step": 2}}
        await link.reply(save)
        assert (await link.command("set_state")).args == {"state": {"step": 3}}
        await link.expect(SessionDone)


async def test_invalid_state_is_refused() -> None:
    """State beyond 16 KiB and state that is not JSON are refused."""
    seen: list[str] = []

    async def body(session: Session) -> None:
        for value, error in (("x" * 20_000, LimitExceeded), (object(), InvalidInput)):
            session.state["it"] = value
            with pytest.raises(error) as caught:
                await session.save()
            seen.append(str(caught.value))
        session.state.clear()

    async with node(body) as (_, link):
        assert (await link.expect(SessionDone)).problem is None
    assert "16384 bytes" in seen[0]
    assert "state.it" in seen[1]


@pytest.mark.parametrize("text", ["", "  ", None, 3])
async def test_an_empty_text_is_refused(text: Any) -> None:
    """`say` accepts only text with words."""
    seen: list[str] = []

    async def body(session: Session) -> None:
        with pytest.raises(InvalidInput) as caught:
            session.say(text)
        seen.append(caught.value.data["field"])

    async with node(body) as (_, link):
        await link.expect(SessionDone)
    assert seen == ["text"]


async def test_events_are_iterated_until_the_end() -> None:
    """`events` yields events after one `listen`, skips unknown types and ends with the session."""
    seen: list[str] = []

    async def body(session: Session) -> None:
        seen.extend([event.type async for event in session.events()])

    async with node(body) as (_, link):
        await link.command("listen")
        for event in (
            {"type": "turn.started", "item": "i1", "turn_id": "exe_1"},
            {"type": "from.the.future", "x": 1},
            {"type": "reply.started", "reply": "r1", "speech_id": "spk_1"},
        ):
            await link.send(SessionEventFrame(session_id="ses_1", event=event))
        await link.send(SessionStop(session_id="ses_1", epoch=1, reason="operator"))
        assert (await link.expect(SessionDone)).problem is None
    assert seen == ["turn.started", "reply.started"]


async def test_a_slow_reader_of_events_is_warned_of_dropped_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events beyond `MAX_EVENTS` replace the oldest, and the reader gets a warning instead."""
    monkeypatch.setattr("agentfield.session.session.MAX_EVENTS", 2)
    seen: list[str] = []

    async def body(session: Session) -> None:
        events = session.events()
        seen.append((await anext(events)).type)
        await session.call("shop.slow")
        seen.extend([event.item if event.type == "turn.started" else event.type async for event in events])

    async with node(body) as (_, link):
        await link.command("listen")
        await link.send(SessionEventFrame(session_id="ses_1", event={"type": "turn.stopped", "item": "i"}))
        call = await link.command("call")
        for n in range(4):
            await link.send(SessionEventFrame(session_id="ses_1", event={"type": "turn.started", "item": f"i{n}"}))
        await link.reply(call)
        await link.send(SessionStop(session_id="ses_1", epoch=1, reason="operator"))
        await link.expect(SessionDone)
    assert seen == ["turn.stopped", "warning", "i2", "i3"]


async def test_a_command_refused_by_the_end_is_not_a_failure_of_the_handler() -> None:
    """An `input` refused with `SessionEnded` ends the handler without a problem, even before the `SessionStop`."""

    async def body(session: Session) -> None:
        await session.input()

    async with node(body) as (_, link):
        over = SessionEnded("The session is over.", reason="caller_hangup").to_problem()
        await link.reply(await link.command("input"), problem=over)
        assert (await link.expect(SessionDone)).problem is None


async def test_end_is_idempotent() -> None:
    """`end` waits for the control plane, then `input` and `say` raise; a second `end` does nothing."""

    async def body(session: Session) -> None:
        await session.end("handler_ended")
        await session.end()
        with pytest.raises(SessionEnded):
            await session.input()

    async with node(body) as (_, link):
        end = await link.command("end")
        assert end.args == {"reason": "handler_ended"}
        await link.send(SessionStop(session_id="ses_1", epoch=1, reason="handler_ended"))
        assert (await link.expect(SessionDone)).problem is None


async def test_app_call_in_a_handler_belongs_to_the_session() -> None:
    """`app.call` inside a handler names the session and its execution."""
    async with control_plane() as plane:
        app = Agent("shop", url=plane.url, registry=Registry())

        @app.session("voice", provider="local", transport="webrtc")
        async def voice(session: Session) -> None:
            await app.call("stock.count")

        async with app:
            link = await plane.link()
            await link.send(opening())
            call = await link.expect(Call)
            assert (call.parent_id, call.session_id) == ("exe_root", "ses_1")
            await link.send(CallResult(op_id=call.op_id, output=1))
            await link.expect(SessionDone)


async def test_history_grows_with_turns_and_speeches() -> None:
    """The history has the turns and speeches of both sides, in order."""
    seen: list[Any] = []

    async def body(session: Session) -> None:
        await session.input()
        await session.say("Hello.")
        seen.extend(session.history)

    async with node(body) as (_, link):
        await link.turn(await link.command("input"), "Hi")
        await link.reply(await link.command("say"), SPOKEN)
        await link.expect(SessionDone)
    assert [(entry["role"], entry.get("text") or entry.get("heard_text")) for entry in seen] == [
        ("caller", "Hi"),
        ("agent", "Hello."),
    ]


async def test_late_words_change_the_history_and_not_the_turn() -> None:
    """Late words reach `history` even if nobody iterates `events()`, also those that overtake their turn."""
    seen: list[Any] = []

    async def body(session: Session) -> None:
        first = await session.input()
        before = session.history
        await session.say("Pardon?")
        second = await session.input()
        seen.extend([first.text, before, second.text, session.history])

    def late(turn_id: str, text: str) -> SessionEventFrame:
        event = {"type": "turn.transcript", "item": "i", "text": text, "final": True, "late": True, "turn_id": turn_id}
        return SessionEventFrame(session_id="ses_1", event=event)

    async with node(body) as (_, link):
        turn = (await link.command("input")).op_id
        await link.send(TurnDelivered(session_id="ses_1", op_id=turn, turn=_wordless("exe_a")))
        say = await link.command("say")
        await link.send(late("exe_a", "one"))
        await link.reply(say, SPOKEN)
        turn = (await link.command("input")).op_id
        await link.send(late("exe_b", "two"))
        await link.send(TurnDelivered(session_id="ses_1", op_id=turn, turn=_wordless("exe_b")))
        await link.expect(SessionDone)
    first, before, second, history = seen
    assert (first, second) == (None, None)
    assert before == ({"role": "caller", "turn_id": "exe_a", "text": None},)
    assert [entry["text"] for entry in history if entry["role"] == "caller"] == ["one", "two"]


def _wordless(turn_id: str) -> dict[str, Any]:
    return {"id": turn_id, "text": None, "text_missing": "timeout", "started_at": 1.0, "ended_at": 2.0, "attempt": 1}
