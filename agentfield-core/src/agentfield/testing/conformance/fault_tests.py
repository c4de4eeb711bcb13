"""Standard tests of faults: refusals, lost connections, unknown messages, slow readers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp.test_utils import unused_port

from agentfield.errors import AgentFieldError, ProviderError, ProviderUnavailable
from agentfield.realtime.commands import SayCommand
from agentfield.realtime.events import (
    ProviderFault,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    SessionClosed,
    SessionReady,
    TurnCommitted,
)
from agentfield.testing.conformance.harness.adapter_harness import LONG_TEXT, AdapterHarness, adapter_harness
from agentfield.testing.conformance.harness.harness_session import HarnessSession
from agentfield.testing.conformance.harness.subject import PairUnderTest
from agentfield.testing.conformance.harness.waiting import wait_until
from agentfield.testing.conformance.suite import ConformanceSuite
from agentfield.testing.peer import PeerFactory, Refusal

__all__ = ["FaultTests"]


_SETTING = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*_(?:API_KEY|KEY|URL|TOKEN|SECRET)\b")
"""Names of environment variables in an error."""


class FaultTests(ConformanceSuite):
    """Faults are reported as typed errors or events that never contain the key."""

    @pytest.mark.parametrize("status", [401, 429])
    async def test_a_refusal_is_reported(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path, status: Refusal
    ) -> None:
        """A refusal is a `ProviderError` that names the provider and hides the key, even if the provider quotes it."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            harness.peer.refuse(status)
            await _refused(harness)

    async def test_a_wrong_key_is_refused(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """The adapter uses the key of its runtime and no other."""
        if subject.provider.key_setting is None:
            return
        async with adapter_harness(subject, peer_factory, tmp_path, key="canary-of-another-provider") as harness:
            await _refused(harness)

    async def test_an_unreachable_provider_is_reported(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """An address where nothing listens is reported in time as `ProviderUnavailable`."""
        closed_port = f"http://127.0.0.1:{unused_port()}"
        async with adapter_harness(subject, peer_factory, tmp_path, base_url=closed_port) as harness:
            error = await _refused(harness)
            if isinstance(error, AgentFieldError):
                assert isinstance(error, ProviderUnavailable), f"not reported as ProviderUnavailable: {error!r}"
                setting = subject.provider.url_setting
                assert setting is None or setting in f"{error.message} {error.hint}", (
                    f"the error does not name {setting}, with which its reader corrects the address: {error}"
                )

    async def test_a_lost_connection_is_reported(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A lost connection ends the session with an event; later commands are refused, not lost."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            await session.event(SessionReady)
            await session.caller_says("where is my order")
            await harness.peer.drop()
            if subject.spec.media == "turns":  # there is no connection between two replies
                await session.send(session.reply_command())
                await session.until("a failed reply, an error or the end", lambda: _broken(session))
                return
            closed = await session.closed()
            assert closed.reason != "closed" or subject.spec.media == "direct", (
                "the provider's connection was lost, and SessionClosed has reason='closed', as if it had been asked for: "
                f'use reason="provider_error", with retry=True where a new session can take over{session.describe()}'
            )
            if subject.spec.capabilities.resumption in ("replay", "stateless"):
                assert closed.retry, (
                    f"resumption is {subject.spec.capabilities.resumption}, and SessionClosed of a lost connection has "
                    f"retry=False: the control plane would not open a new session{session.describe()}"
                )
            with pytest.raises(ProviderUnavailable):
                await session.send(session.reply_command())

    async def test_unknown_messages_are_ignored(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """Unknown and repeated messages have no effect."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            harness.peer.inject_unknown_messages()
            async with harness.session() as session:
                item = await session.caller_says("where is my order")
                await session.answer()
                await session.close()
                committed = [each.item for each in session.of(TurnCommitted)]
                assert committed == [item], f"one turn was spoken, {len(committed)} are committed{session.describe()}"
                assert len(session.of(ReplyStarted)) == len(session.of(ReplyEnded)) == 1, (
                    f"one reply{session.describe()}"
                )
                assert not session.of(ProviderFault), f"nothing failed{session.describe()}"

    async def test_a_slow_reader_misses_nothing(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A late reader gets all events in order."""
        async with (
            adapter_harness(subject, peer_factory, tmp_path) as harness,
            harness.session(reading=False) as session,
        ):
            if subject.spec.capabilities.say == "none":
                await session.speak("where is my order")
                if not session.answers_itself:
                    await session.send(session.reply_command())
            else:
                say = session.say_command(LONG_TEXT)
                await session.send(say)
                await wait_until(
                    "the command reaches the provider", lambda: any("zebra" in each for each in harness.peer.received)
                )
            session.read_events()
            ended = await session.event(ReplyEnded)
            assert ended.status == "completed", f"the reply did not complete{session.describe()}"
            kinds = [type(each) for each in session.events if getattr(each, "reply", None) == ended.reply]
            assert kinds[0] is ReplyStarted, f"the first event of a reply is not ReplyStarted{session.describe()}"
            assert kinds[-1] is not ReplyAudio, f"audio follows the end of its reply{session.describe()}"

    async def test_closing_during_a_reply(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """Closing a session during a reply leaves no task, also when its events are not read."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            for reading in (True, False):
                async with harness.session(reading=reading) as session:
                    if subject.spec.capabilities.say == "none":
                        await session.speak("where is my order")
                    else:
                        await session.send(SayCommand(id="say_long", text=LONG_TEXT))
                    await session.close()
                    await session.closed()
                await harness.tasks.assert_none_left("the session")


async def _refused(harness: AdapterHarness) -> object:
    """Expect a refusal: on opening a session, or with the first reply where opening does not connect.

    Returns:
        The error, or the event that reports it.
    """
    async with AsyncExitStack() as stack:
        try:
            session = await harness.open(stack, harness.config())
        except AgentFieldError as error:
            _check(error, harness)
            return error
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(
                f"open() or negotiate() raised {type(error).__name__}; raise a ProviderError instead, which the control plane shows "
                "to the caller's operator: agentfield.adapterkit.refusals makes it from an HTTP status or a connection error"
            ) from error
        try:
            assert harness.subject.spec.media == "turns", "the provider refuses, and the session opened"
            await session.caller_says("where is my order")
            await session.send(session.reply_command())
            fault: object = await session.until("a failed reply, an error or the end", lambda: _broken(session))
        finally:
            await session.close()
            harness.visible += session.events
        return fault


def _check(error: AgentFieldError, harness: AdapterHarness) -> None:
    harness.visible += [error.message, error.hint, error.data, error.to_problem()]
    chain: BaseException | None = error
    while chain is not None:  # as a traceback shows it
        harness.visible.append(repr(chain))
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    assert isinstance(error, ProviderError), f"a refusal of the provider must be a ProviderError, not {error!r}"
    provider = harness.subject.provider
    declared = {provider.key_setting, provider.url_setting}
    unknown = sorted(set(_SETTING.findall(f"{error.message} {error.hint}")) - declared)
    assert not unknown, (
        f"the error names the setting {', '.join(unknown)}, and the manifest has {_listed(declared)}: {error}"
    )
    words = (harness.subject.provider.name, *harness.subject.provider.title.split())
    assert any(word.lower() in error.message.lower() for word in words), (
        f"the message does not name the provider: {error}"
    )


def _listed(names: Iterable[str | None]) -> str:
    return " and ".join(sorted(filter(None, names))) or "none"


def _broken(session: HarnessSession) -> object:
    failed = [each for each in session.of(ReplyEnded) if each.status == "failed"]
    return next(iter((*session.of(ProviderFault), *failed, *session.of(SessionClosed))), None)
