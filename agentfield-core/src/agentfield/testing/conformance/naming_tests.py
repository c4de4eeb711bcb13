"""Standard tests of names and forms: what a session names reaches the provider, and what is not declared is not had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agentfield.errors import AgentFieldError
from agentfield.plugins.manifest.completeness import voices_of
from agentfield.realtime.commands import CancelReplyCommand
from agentfield.realtime.config import SessionConfig
from agentfield.testing.conformance.harness.adapter_harness import AdapterHarness, adapter_harness
from agentfield.testing.conformance.harness.harness_session import HarnessSession
from agentfield.testing.conformance.harness.subject import PairUnderTest
from agentfield.testing.conformance.reply_checks import peer_member, start_long_reply
from agentfield.testing.conformance.suite import ConformanceSuite
from agentfield.testing.peer import PeerFactory

__all__ = ["NamingTests"]

_NO_TRANSCRIBER = "kit-transcriber-7713"
_HEARD_MS = 1487
"""Milliseconds that occur nowhere else."""


class NamingTests(ConformanceSuite):
    """Models, voices and transcription models by name; forms of answers and truncation that are not declared."""

    async def test_names_reach_the_provider(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """The model, the voice and the transcription model of a session reach the provider under their names."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            for config in _configs(harness):
                async with harness.session(config) as session:
                    await session.caller_says("where is my order")
                    await session.answer()
                    for kind, name in _named(config, subject).items():
                        reached = any(name in each for each in harness.peer.received)
                        assert reached or _choice(session, kind, name) == name, (
                            f"the session has the {kind} {name!r}, and the provider was not told of it: pass config.{kind} on, or "
                            "leave the name out of the manifest"
                        )

    async def test_no_transcription_model_without_a_declaration(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """Where the provider transcribes by itself, or not at all, the name of a transcription model does not reach it."""
        can = subject.spec.capabilities
        if can.transcription == "model" and can.caller_transcript != "none":
            return
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            config = harness.config().model_copy(update={"transcription": _NO_TRANSCRIBER})
            async with harness.session(config) as session:
                await session.caller_says("where is my order")
                await session.answer()
                assert not any(_NO_TRANSCRIBER in each for each in harness.peer.received), (
                    f"transcription is {can.transcription!r}, caller_transcript is {can.caller_transcript!r}, and the provider is "
                    "told the name of a transcription model: declare transcription='model' with a default_transcription, or "
                    "sessions that name one are refused"
                )

    async def test_undeclared_forms_of_answers(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A session with an undeclared form of answers, spoken or written, is refused or does not get it."""
        can = subject.spec.capabilities
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            for modality in sorted({"audio", "text"} - can.modalities):
                config = harness.config().model_copy(update={"modalities": (modality,)})
                try:
                    async with harness.session(config) as session:
                        await session.caller_says("where is my order")
                        got = "audio" if (await session.answer()).audio else "text"
                        assert got != modality, (
                            f"modalities lacks {modality!r}, and a session with modalities={[modality]} gets such an answer: "
                            f"declare it, or sessions that ask for it are refused{session.describe()}"
                        )
                except AgentFieldError:
                    continue  # refused

    async def test_undeclared_truncation(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """Where `truncation` is none, the provider is not told how much of a reply was heard."""
        can = subject.spec.capabilities
        if can.truncation != "none" or can.interruption == "none" or subject.spec.media == "direct":
            return
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            started = await start_long_reply(session)
            await session.send(CancelReplyCommand(reply=started.reply, heard_ms=_HEARD_MS))
            await session.reply_ended(started)
            await session.caller_says("what did you say")
            await session.answer()
            assert not any(str(_HEARD_MS) in each for each in harness.peer.received), (
                "truncation is 'none', and the provider is told the heard_ms of CancelReplyCommand: declare 'client_ms', which "
                "sessions may rely on"
            )


def _configs(harness: AdapterHarness) -> Iterator[SessionConfig]:
    """Yield a session of the default names, and one with the last known model and voice."""
    yield harness.config()
    provider = harness.subject.provider
    models = provider.models.known
    config = harness.config(model=models[-1]) if models else harness.config()
    voices = voices_of(provider, config.model).known
    yield config.model_copy(update={"voice": voices[-1]}) if voices else config


def _named(config: SessionConfig, subject: PairUnderTest) -> dict[str, str]:
    """Return the names of a session that nothing else compares; `SessionReady` repeats those of `echoes`."""
    can = subject.spec.capabilities
    names = {"model": config.model, "voice": config.voice, "transcription": config.transcription}
    return {kind: name for kind, name in names.items() if name is not None and kind not in can.echoes}


def _choice(session: HarnessSession, kind: str, name: str) -> str | None:
    choices = peer_member(session, "choices", f"no text that the peer received has the {kind} {name!r}")()
    chosen: str | None = choices.get(kind)
    return chosen
