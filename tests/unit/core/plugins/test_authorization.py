"""The gate: a session starts only when every plugin says so in time."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, NoReturn

import pytest

from agentfield.errors import AgentFieldError, Forbidden, InvalidInput, LimitExceeded
from agentfield.plugins import SessionRequest
from agentfield.plugins.hooks.authorization import SessionAuthorizer
from support.core.hooks import plugin, registry, request


def gate(*answers: Any, timeout: float = 5.0) -> SessionAuthorizer:
    """Return a gate of plugins a, b, c …, each with one of the functions."""
    plugins = [plugin(name, session_authorize=answer) for name, answer in zip("abcdef", answers, strict=False)]
    return SessionAuthorizer(registry(*plugins), timeout=timeout)


async def passes(request: SessionRequest) -> None:
    """Let everything pass."""


async def refusal(of: SessionAuthorizer) -> AgentFieldError:
    with pytest.raises(Forbidden) as caught:
        await of.authorize(request())
    await of.close()
    return caught.value


async def test_without_plugins_everything_may_start() -> None:
    """No plugin implements the hook: nothing is asked."""
    await SessionAuthorizer(registry()).authorize(request())


async def test_all_are_asked_with_the_same_frozen_value() -> None:
    """Each plugin sees what is to be started, and may not change it."""
    seen: list[SessionRequest] = []

    async def look(request: SessionRequest) -> None:
        seen.append(request)
        with pytest.raises(dataclasses.FrozenInstanceError):
            request.caller = "bob"  # type: ignore[misc]

    async def glance() -> None:
        seen.append(request())

    asked = request(caller="ann")
    await gate(look, look, glance).authorize(asked)
    assert seen == [asked, asked, request()]


@pytest.mark.parametrize("error", [Forbidden("not at night", hint="call by day"), InvalidInput("not at night")])
async def test_a_plugins_own_error_is_passed_on(error: AgentFieldError) -> None:
    """Whoever starts the session reads why, in the plugin's words, under one code and status."""

    async def refuse(request: SessionRequest) -> NoReturn:
        raise error

    told = await refusal(gate(passes, refuse))
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
async def test_a_plugin_that_fails_refuses(fails: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An exception, or an answer, is a no; the caller learns the plugin's name and nothing of its insides."""
    told = await refusal(gate(passes, fails, passes))
    assert (told.code, told.status) == ("session_refused", 403)
    assert told.message == "The plugin 'b' failed to decide whether the session may start, so it may not."
    assert told.hint == "see the control plane's log, or start it with AGENTFIELD_DISABLE_PLUGINS=b"
    assert "secret" not in str(told.to_problem())
    assert "plugin.hook_failed plugin=b hook=agentfield_session_authorize" in caplog.text


async def test_a_plugin_that_hangs_refuses_in_time() -> None:
    """Also one that will not be cancelled is not waited for; when it gives in, nothing is left of it."""
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
    asked = gate(passes, clings, hangs, timeout=0.01)
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


async def test_the_first_by_name_is_told_of() -> None:
    """Of several refusals the answer is always the same one, however fast each was."""
    slow = asyncio.Event()

    async def late(request: SessionRequest) -> NoReturn:
        await slow.wait()
        raise LimitExceeded("too many")

    async def soon(request: SessionRequest) -> NoReturn:
        slow.set()
        raise Forbidden("no")

    assert (await refusal(gate(late, soon))).message == "The plugin 'a' refused the session: too many"


async def test_a_start_that_is_given_up_leaves_nothing() -> None:
    """When whoever starts the session goes away, the plugins are told to stop."""
    asked, stopped = asyncio.Event(), asyncio.Event()

    async def hangs(request: SessionRequest) -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    before = asyncio.all_tasks()
    made = gate(hangs)
    start = asyncio.create_task(made.authorize(request()))
    await asked.wait()
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)
    await stopped.wait()
    await made.close()
    assert asyncio.all_tasks() == before
