"""Standard tests of capabilities that a session selects, or that show only after an accident."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import pytest

from agentfield.errors import AgentFieldError, NotFound
from agentfield.realtime.commands import AddTextCommand, CancelReplyCommand, UpdateCommand
from agentfield.realtime.config import SemanticVad
from agentfield.realtime.events import (
    Interrupted,
    ProviderFault,
    ReplyEnded,
    SessionClosed,
    SessionExpiring,
    SessionReady,
    SessionResumable,
    TurnCommitted,
)
from agentfield.realtime.provider import ResumableAdapter
from agentfield.testing.conformance.harness.adapter_harness import LONG_TEXT, adapter_harness
from agentfield.testing.conformance.harness.harness_session import HarnessSession
from agentfield.testing.conformance.harness.subject import PairUnderTest
from agentfield.testing.conformance.reply_checks import assert_complete, peer_member, start_long_reply
from agentfield.testing.conformance.suite import ConformanceSuite
from agentfield.testing.peer import PeerFactory

__all__ = ["CapabilityTests"]

_FIRST_WORDS, _LAST_WORD = "Every order", "zebra"
_HEARD_MS = 1500
_CONVERSATION: tuple[tuple[Literal["user", "assistant"], str], ...] = (
    ("user", "my word is walnut7713"),
    ("assistant", "understood, walnut8824"),
)
_LATER = "and now my order"
_CLOCKS_DIFFER = 300.0
"""Seconds by which the clocks of provider and adapter may differ."""


class CapabilityTests(ConformanceSuite):
    """Forms of answers, turn detection, truncation, resumption, routing and duration, each as declared."""

    async def test_each_form_of_answers(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A session that declares one form of answers, spoken or written, gets that form and no other."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            for modality in sorted(subject.spec.capabilities.modalities):
                async with harness.session(harness.config(modalities=(modality,))) as session:
                    await session.caller_says("where is my order")
                    assert_complete(session, await session.answer())

    async def test_semantic_turn_detection(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A session with `SemanticVad` detects the end of a turn; other pairs refuse it (`test_undeclared_capabilities_are_refused`)."""
        if "semantic_vad" not in subject.spec.capabilities.turn_detection:
            return
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            config = harness.config(turn_detection=SemanticVad()).model_copy(update={"turn_detection": SemanticVad()})
            async with harness.session(config) as session:
                await session.caller_says("where is my order")
                assert not session.of(ProviderFault), f"the provider refuses semantic_vad{session.describe()}"
                told = peer_member(session, "turn_detection", "turn_detection has 'semantic_vad'")()
                assert told == "semantic_vad", (
                    f"the session was opened with SemanticVad, and the provider was told {told!r}: pass config.turn_detection on"
                )

    async def test_a_key_is_optional(self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """Where `key_required` is False, a session opens without a key at a provider that wants none."""
        if subject.provider.key_required or subject.provider.key_setting is None:
            return
        async with adapter_harness(subject, peer_factory, tmp_path, key="", secret="") as harness:
            try:
                async with harness.session() as session:
                    await session.event(SessionReady)
            except AgentFieldError as error:
                raise AssertionError(
                    "key_required is False, so a session must open without a key at a provider that wants none (the peer's factory "
                    f"gets an empty secret); it was refused: {error}"
                ) from error

    async def test_truncation(self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """After an interruption the model knows what was heard, and has forgotten the rest, as declared."""
        can = subject.spec.capabilities
        if can.truncation == "none":
            return
        assert can.interruption != "none", (
            "truncation without interruption: a reply that nothing can stop is always heard to its end"
        )
        told = can.truncation in ("client_ms", "estimate") and subject.spec.media != "direct"
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            for heard_ms in (0, _HEARD_MS) if told else (None,):
                async with harness.session() as session:
                    started = await start_long_reply(session)
                    before = len(harness.peer.received)
                    await session.send(CancelReplyCommand(reply=started.reply, heard_ms=heard_ms))
                    await session.reply_ended(started)
                    await session.caller_says("what did you say")
                    await session.answer()
                    known = "\n".join(harness.peer.received[before:])
                    assert _LAST_WORD not in known, (
                        f"truncation is {can.truncation}, but after CancelReplyCommand(heard_ms={heard_ms}) the model still has "
                        f"the unheard text: {known[-300:]}"
                    )
                    if heard_ms == 0:
                        assert _FIRST_WORDS not in known, (
                            f"truncation is {can.truncation}, but the model still has a text of which 0 ms were heard"
                        )
                    else:
                        kept = _FIRST_WORDS.split(maxsplit=1)[0] in known or (
                            heard_ms is not None and str(heard_ms) in known
                        )
                        assert kept, (
                            f"truncation is {can.truncation}, but neither the heard part of the reply nor heard_ms={heard_ms} "
                            'reached the provider after CancelReplyCommand: tell it how much was heard, or declare "none"'
                        )

    async def test_uninterruptible_speech(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """While `UpdateCommand(interruptible=False)` holds, speech is stopped by no speech of the caller, exactly if it is declared."""
        can = subject.spec.capabilities
        if can.say == "none":
            return
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            await session.event(SessionReady)
            update = UpdateCommand(interruptible=False)
            if can.uninterruptible:
                await session.takes(update, "uninterruptible is True")
            elif not await session.is_taken(update):
                return
            say = session.say_command(LONG_TEXT).model_copy(update={"interruptible": False})
            started = await session.start_reply(say)
            if session.config.turn_detection is not None:
                await session.speak("stop please")
                await session.event(TurnCommitted)
            ended = await session.reply_ended(started)
            if not can.uninterruptible:
                assert session.of(Interrupted) or ended.status != "completed", (
                    "uninterruptible is False, UpdateCommand(interruptible=False) is taken, and the caller's speech does not stop the "
                    "agent's: declare uninterruptible=True, or refuse the command"
                )
                return
            assert ended.status == "completed", f"the speech was stopped, status {ended.status!r}{session.describe()}"
            assert not session.of(Interrupted), f"the speech was interrupted{session.describe()}"

    async def test_nothing_is_lost_with_a_connection(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """Where resumption is `stateless`, each answer is asked for with the conversation so far, also after a lost connection."""
        if subject.spec.capabilities.resumption != "stateless":
            return
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            async with harness.session() as session:
                await session.send(AddTextCommand(item="item_1", text="my word is walnut7713"))
                await session.ask()
                await harness.peer.drop()
                if subject.spec.media == "turns":  # the session itself goes on
                    await session.send(session.reply_command())
                    await session.until("a failed reply or an error", lambda: _failed(session))
                    assert not session.of(SessionClosed), (
                        "resumption is stateless, and a lost connection ends the session: there is nothing to lose, so report "
                        f"the failed reply and go on{session.describe()}"
                    )
            async with harness.session() as session:
                for item, (role, text) in enumerate(_CONVERSATION):
                    await session.send(AddTextCommand(item=f"item_{item}", text=text, role=role))
                for _ in range(2):  # nothing is kept at the provider, so each answer needs the whole conversation
                    before = len(harness.peer.received)
                    await session.ask()
                    _is_told(harness.peer.received[before:], (text for _, text in _CONVERSATION))
                await session.caller_says(_LATER)
                if subject.spec.media == "bridged" and not session.answers_itself:  # recorded turns are sent as audio
                    before = len(harness.peer.received)
                    await session.ask()
                    _is_told(harness.peer.received[before:], (_LATER,))

    async def test_resumption_by_handle(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """Where resumption is `handle`, a later session continues by the last handle; an unknown handle is `NotFound`."""
        if subject.spec.capabilities.resumption != "handle":
            return
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            adapter = harness.adapter
            assert isinstance(adapter, ResumableAdapter), "resumption is handle, so the adapter needs the method resume"
            async with harness.session() as session:
                await session.caller_says("where is my order")
                await session.answer()
                resumable = await session.event(SessionResumable, where=lambda each: each.handle is not None)
                await harness.peer.drop()
                await session.closed()
            config, audio = harness.config(), harness.bridged.formats[0]
            again = await harness.tasks.run(
                "the session is resumed", adapter.resume(config, audio, resumable.handle or "")
            )
            async with harness.opened(again, config, audio) as session:
                await session.event(SessionReady)
                await session.caller_says("thank you")
                await session.answer()
            resuming = adapter.resume(config, audio, "a handle that nobody gave")
            with pytest.raises(NotFound):
                await harness.tasks.run("an unknown handle is refused", resuming)

    async def test_the_route_is_pinned(self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """An answer of another model or upstream is an error where routing is `pinned`, and an answer where it is `fixed`."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            if subject.spec.capabilities.routing == "fixed":
                await _answers_when_rerouted(session)
                return
            await session.caller_says("where is my order")
            await session.answer()
            peer_member(session, "reroute", "routing is pinned")()
            await session.caller_says("thank you")
            await session.send(session.reply_command())
            await session.until(
                "a failed reply, an error or the end: routing is pinned, and the provider answered from another upstream",
                lambda: _failed(session),
            )

    async def test_the_longest_session(self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """The end that the provider announces is within `max_duration`; one that is not announced at once is told later."""
        longest = subject.spec.capabilities.max_duration
        if longest is None:
            return
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            ready = await session.event(SessionReady)
            if ready.expires_at is None:
                await peer_member(session, "expire", "max_duration is declared and SessionReady has no expires_at")()
                await session.until(
                    "SessionExpiring, or SessionClosed(reason='provider_expired')", lambda: _expires(session)
                )
                return
            left = ready.expires_at - time.time()
            assert -_CLOCKS_DIFFER < left < longest + _CLOCKS_DIFFER, (
                f"max_duration is {longest:g} s, and SessionReady.expires_at is {left:.0f} s away: it is seconds since the epoch"
            )


def _is_told(received: Sequence[str], texts: Iterable[str]) -> None:
    known = "\n".join(received)
    for text in texts:
        assert text in known, (
            f"resumption is stateless, and {text!r} did not reach the provider with the request for an answer: a provider that keeps "
            "no session is told the whole conversation each time. Declare 'replay' where it remembers what it was told"
        )


async def _answers_when_rerouted(session: HarnessSession) -> None:
    reroute = getattr(session.peer, "reroute", None)
    if reroute is None:
        return
    reroute()
    await session.caller_says("where is my order")
    if not session.answers_itself:
        await session.send(session.reply_command())
    await session.until("an answer, or an error", lambda: session.of(ReplyEnded) or _failed(session))
    assert not _failed(session), (
        "routing is 'fixed', and an answer of another model or upstream is an error: declare routing='pinned', so that sessions can "
        f"rely on it{session.describe()}"
    )


def _expires(session: HarnessSession) -> bool:
    over = [each for each in session.of(SessionClosed) if each.reason == "provider_expired"]
    return bool(over or session.of(SessionExpiring))


def _failed(session: HarnessSession) -> object:
    failed = [each for each in session.of(ReplyEnded) if each.status == "failed"]
    return next(iter((*session.of(ProviderFault), *failed, *session.of(SessionClosed))), None)
