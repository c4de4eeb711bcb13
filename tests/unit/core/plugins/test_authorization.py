"""Authorization of sessions: all plugins must agree in time."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, NoReturn

import pytest

from agentfield.errors import AgentFieldError, Forbidden, InvalidInput, LimitExceeded
from agentfield.plugins import SessionRequest
from agentfield.plugins.hooks.authorization import SessionAuthorizer
from support.core.hooks import plugin, registry, request


def authorizer(*answers: Any, timeout: float = 5.0) -> SessionAuthorizer:
    """Return an authorizer of plugins a, b, c …, each with one of the functions."""
    plugins = [plugin(name, session_authorize=answer) for name, answer in zip("abcdef", answers, strict=False)]
    return SessionAuthorizer(registry(*plugins), timeout=timeout)


async def passes(request: SessionRequest) -> None:
    """Agree."""


async def refusal(of: SessionAuthorizer) -> AgentFieldError:
    with pytest.raises(Forbidden) as caught:
        await of.authorize(request())
    await of.close()
    return caught.value


async def test_without_plugins_each_session_is_authorized() -> None:
    """A session is authorized if no plugin implements the hook."""
    await SessionAuthorizer(registry()).authorize(request())


async def test_each_plugin_gets_the_same_frozen_request() -> None:
    """All implementations get the same immutable request."""
    seen: list[SessionRequest] = []

    async def look(request: SessionRequest) -> None:
        seen.append(request)
        with pytest.raises(dataclasses.FrozenInstanceError):
            request.caller = "bob"  # type: ignore[misc]

    async def glance() -> None:
        seen.append(request())

    asked = request(caller="ann")
    await authorizer(look, look, glance).authorize(asked)
    assert seen == [asked, asked, request()]


@pytest.mark.parametrize("error", [Forbidden("not at night", hint="call by day"), InvalidInput("not at night")])
async def test_a_plugins_error_is_passed_on(error: AgentFieldError) -> None:
    """The starter of the session gets the plugin's message, under one code and status."""

    async def refuse(request: SessionRequest) -> NoReturn:
        raise error

    told = await refusal(authorizer(passes, refuse))
    assert (told.code, told.status, told.hint) == ("session_refused", 403, error.hint)
    assert told.message == "The plugin 'b' refused the session: not at night"
    assert told.data == {"plugin": "b"}


async def raises(request: SessionRequest) -> NoReturn:
    raise RuntimeError("secret-4711")


async def exits(request: SessionRequest) -> NoReturn:
    raise SystemExit(3)


async def cancels(request: SessionRequest) -> NoReturn:
    raise asyncio.CancelledError


async def says_no(request: SessionRequest) -> bool:
    return False


async def says_yes(request: SessionRequest) -> bool:
    return True


@pytest.mark.parametrize("fails", [raises, exits, cancels, says_no, says_yes])
async def test_a_failing_plugin_refuses(fails: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An exception or a return value refuses; the error names the plugin and hides its internals."""
    told = await refusal(authorizer(passes, fails, passes))
    assert (told.code, told.status) == ("session_refused", 403)
    assert told.message == "The plugin 'b' failed to decide whether the session may start, so it may not."
    assert told.hint == "see the control plane's log, or start it with AGENTFIELD_DISABLE_PLUGINS=b"
    assert "secret" not in str(told.to_problem())
    assert "plugin.hook_failed plugin=b hook=agentfield_session_authorize" in caplog.text


async def test_a_hanging_plugin_refuses_in_time() -> None:
    """The refusal does not wait for a plugin that ignores its cancellation, and leaves no task once it ends."""
    told, release = [], asyncio.Event()

    async def hangs(request: SessionRequest) -> None:
        await asyncio.Event().wait()

    async def clings(request: SessionRequest) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                told.append("cancelled")

    before = asyncio.all_tasks()
    asked = authorizer(passes, clings, hangs, timeout=0.01)
    with pytest.raises(Forbidden) as caught:
        await asked.authorize(request())
    assert (
        caught.value.message
        == "The plugin 'b' did not decide within 0.01 s whether the session may start, so it may not."
    )
    await asyncio.sleep(0)
    assert told == ["cancelled"]
    release.set()
    await asked.close()
    assert asyncio.all_tasks() == before


async def test_the_first_refusal_by_plugin_name_is_raised() -> None:
    """Of several refusals the same one is raised, whatever their timing."""
    slow = asyncio.Event()

    async def late(request: SessionRequest) -> NoReturn:
        await slow.wait()
        raise LimitExceeded("too many")

    async def soon(request: SessionRequest) -> NoReturn:
        slow.set()
        raise Forbidden("no")

    assert (await refusal(authorizer(late, soon))).message == "The plugin 'a' refused the session: too many"


async def test_a_cancelled_start_cancels_the_plugins() -> None:
    """Cancelling the start cancels all implementations."""
    asked, stopped = asyncio.Event(), asyncio.Event()

    async def hangs(request: SessionRequest) -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    before = asyncio.all_tasks()
    made = authorizer(hangs)
    start = asyncio.create_task(made.authorize(request()))
    await asked.wait()
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)
    await stopped.wait()
    await made.close()
    assert asyncio.all_tasks() == before
