"""Standard tests of what goes wrong: refusals, a provider that goes away, strange messages, readers that are slow."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp.test_utils import unused_port

from agentfield.errors import AgentFieldError, ProviderError, ProviderUnavailable
from agentfield.realtime.commands import Say
from agentfield.realtime.events import (
    ProviderFault,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    SessionClosed,
    SessionReady,
    TurnCommitted,
)
from agentfield.testing.finding import Row
from agentfield.testing.peer import PeerFactory, Refusal
from agentfield.testing.speech_tests import LONG
from agentfield.testing.stage import Stage, on_stage
from agentfield.testing.suite import Suite
from agentfield.testing.talk import Talk
from agentfield.testing.waiting import holds

__all__ = ["FaultTests"]


class FaultTests(Suite):
    """Everything that can go wrong is told as a typed error or event, and never with the key in it."""

    @pytest.mark.parametrize("status", [401, 429])
    async def test_a_refusal_is_told(
        self, row: Row, peer_factory: PeerFactory, tmp_path: Path, status: Refusal
    ) -> None:
        """A provider that refuses is a `ProviderError` that names it, even if the refusal quotes the key."""
        async with on_stage(row, peer_factory, tmp_path) as stage:
            stage.peer.refuse(status)
            await _refused(stage)

    async def test_a_wrong_key_is_refused(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """The adapter shows its key, and takes no other one from anywhere."""
        if row.provider.key_setting is None:
            return
        async with on_stage(row, peer_factory, tmp_path, key="canary-of-another-lock") as stage:
            await _refused(stage)

    async def test_a_provider_that_is_not_there(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """Nothing answers at the provider's address: that is told, in time and in words."""
        nowhere = f"http://127.0.0.1:{unused_port()}"
        async with on_stage(row, peer_factory, tmp_path, base_url=nowhere) as stage:
            error = await _refused(stage)
            if isinstance(error, AgentFieldError):
                assert isinstance(error, ProviderUnavailable), f"not told as ProviderUnavailable: {error!r}"

    async def test_the_provider_goes_away(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """A connection that breaks ends the session with an event; what is asked for then is refused, not lost."""
        async with on_stage(row, peer_factory, tmp_path) as stage, stage.talk() as talk:
            await talk.event(SessionReady)
            await talk.hear("where is my order")
            await stage.peer.drop()
            if row.spec.media == "turns":  # there is no connection between two answers
                await talk.send(talk.a_reply())
                await talk.until("a failed reply, an error or the end", lambda: _broken(talk))
                return
            await talk.closed()
            with pytest.raises(ProviderUnavailable):
                await talk.send(talk.a_reply())

    async def test_strange_messages_are_tolerated(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """Messages that nobody knows, or that come twice, change nothing."""
        async with on_stage(row, peer_factory, tmp_path) as stage:
            stage.peer.disturb()
            async with stage.talk() as talk:
                item = await talk.hear("where is my order")
                if talk.config.declaration.floor == "handler":
                    await talk.reply()
                else:
                    await talk.event(ReplyEnded)
                await talk.close()
                assert [each.item for each in talk.of(TurnCommitted)] == [item]
                assert len(talk.of(ReplyStarted)) == len(talk.of(ReplyEnded)) == 1, f"one reply{talk.told()}"
                assert not talk.of(ProviderFault), f"nothing failed{talk.told()}"

    async def test_a_slow_reader_misses_nothing(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """Who reads the events late gets all of them, in order."""
        async with on_stage(row, peer_factory, tmp_path) as stage, stage.talk(reading=False) as talk:
            if row.spec.capabilities.say == "none":
                await talk.speak("where is my order")
                await talk.send(talk.a_reply())
            else:
                say = talk.a_say(LONG)
                await talk.send(say)
                await holds("the provider is asked", lambda: any("zebra" in each for each in stage.peer.received))
            talk.read()
            ended = await talk.event(ReplyEnded)
            assert ended.status == "completed", f"the reply did not complete{talk.told()}"
            kinds = [type(each) for each in talk.events if getattr(each, "reply", None) == ended.reply]
            assert kinds[0] is ReplyStarted, f"a reply begins with its start{talk.told()}"
            assert kinds[-1] is not ReplyAudio, f"audio came after the end of its reply{talk.told()}"

    async def test_closing_ends_what_is_under_way(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """A session is closed in the middle of a reply, also when nobody reads its events; no task goes on."""
        async with on_stage(row, peer_factory, tmp_path) as stage:
            for reading in (True, False):
                async with stage.talk(reading=reading) as talk:
                    if row.spec.capabilities.say == "none":
                        await talk.speak("where is my order")
                    else:
                        await talk.send(Say(id="say_long", text=LONG))
                    await talk.close()
                    await talk.closed()
                await stage.tasks.none_left("the session")


async def _refused(stage: Stage) -> object:
    """Open a session and expect that it is refused: at once, or with the first answer where nothing is opened before.

    Returns:
        The error, or the event that tells of it.
    """
    async with AsyncExitStack() as stack:
        try:
            talk = await stage.open(stack, stage.config())
        except AgentFieldError as error:
            _check(error, stage)
            return error
        try:
            assert stage.row.spec.media == "turns", "the session was refused by the provider, and opened"
            await talk.hear("where is my order")
            await talk.send(talk.a_reply())
            fault: object = await talk.until("a failed reply, an error or the end", lambda: _broken(talk))
        finally:
            await talk.close()
            stage.shown += talk.events
        return fault


def _check(error: AgentFieldError, stage: Stage) -> None:
    stage.shown += [error.message, error.hint, error.data, error.to_problem()]
    chain: BaseException | None = error
    while chain is not None:  # what a traceback would show
        stage.shown.append(repr(chain))
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    assert isinstance(error, ProviderError), f"a refusal by the provider is a ProviderError, not {error!r}"
    words = (stage.row.provider.name, *stage.row.provider.title.split())
    assert any(word.lower() in error.message.lower() for word in words), f"it does not name the provider: {error}"


def _broken(talk: Talk) -> object:
    failed = [each for each in talk.of(ReplyEnded) if each.status == "failed"]
    return next(iter((*talk.of(ProviderFault), *failed, *talk.of(SessionClosed))), None)
